"""The server's receiving side for a whole run: per round one ``begin``, an ``unpack`` per reply, one ``end``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsim.codecs import Codec
from fedsim.core.messages import Exchange, Update
from fedsim.engine.transport import Delivery, Reply, unpack

if TYPE_CHECKING:
    from fedsim.engine.gather import Gathered


class Uplink:
    """Updates come one by one, and the method is given each."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """What is handed to the banks that train in this round."""
        return list(deliveries)

    def unpack(self, reply: Reply, delivery: Delivery) -> Update:
        """What the server sees of one bank's reply. Refused as ``transport.unpack`` does."""
        return unpack(reply, self._codec, delivery)

    def end(self, gathered: Gathered) -> tuple[list[Exchange], Gathered]:
        """(what the method is given, what is told of the round) of all that was unpacked."""
        return gathered.exchanges, gathered
