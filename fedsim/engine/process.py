"""What runs in a client actor's process on Ray. Importing it costs Ray and no torch: actors start sooner."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ray

from fedsim.engine.calls import Ref
from fedsim.engine.lease import hold

if TYPE_CHECKING:
    import numpy as np

    from fedsim.core.adapter import AdapterState, Tensors
    from fedsim.engine.actor import ClientActor
    from fedsim.engine.secure import Ask
    from fedsim.engine.transport import Address, Parcel
    from fedsim.train.values import Scores


class ClientProcess:
    """A ClientActor behind calls whose arguments and results are values."""

    def __init__(self) -> None:
        self._client: ClientActor | None = None
        hold()

    def where(self) -> tuple[str, int]:
        """Node and process id."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def load(self, boxed: list[Ref]) -> None:
        """Play the banks of a run from now on, whose client's maker is the one reference in ``boxed``."""
        self._client = None  # before another base takes its memory
        make_client: Callable[[], ClientActor] = ray.get(boxed[0])
        self._client = make_client()
        self._client.load()

    def weights(self) -> list[np.ndarray]:
        """Of the loaded base, for all actors of this node: Ray keeps one copy there, which they map.

        Nothing where it would take more than half of the node's object store.
        """
        found, here = self.client.weights(), ray.get_runtime_context().get_node_id()
        rooms = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["NodeID"] == here]
        return found if 2 * sum(map(len, found)) <= sum(rooms) else []  # a node that Ray takes for dead has none

    def adopt(self, weights: Sequence[np.ndarray]) -> int:
        return self.client.adopt(weights) if weights else 0

    @property
    def client(self) -> ClientActor:
        if self._client is None:
            raise RuntimeError("an actor was asked before it was told to load")
        return self._client

    def new_adapter(self, seed: int) -> AdapterState:
        return self.client.new_adapter(seed)

    def train(self, addresses: Sequence[Address], which: Sequence[int], *values: Any) -> tuple[Any, ...]:
        """((replies, sums, whether each bank keeps anything), kept of each bank ...).

        ``values`` are parcels, then each bank's kept; ``which`` is its parcel.
        """
        parcels, kept = values[: -len(addresses)], values[-len(addresses) :]
        jobs = [parcels[index].job(to) for to, index in zip(addresses, which, strict=True)]
        answers = self.client.train(jobs, kept, [to.order for to in addresses])
        return (answers.replies, answers.nodes, [bool(mine) for mine in answers.kept]), *answers.kept

    def messages(self, asks: Sequence[Ask]) -> list[bytes]:
        return self.client.messages(asks)

    def evaluate(self, model: Parcel, rows: np.ndarray) -> Scores:
        return self.client.evaluate(model, rows)

    def evaluate_own(self, to: Address, parcel: Parcel, kept: Tensors, own: np.ndarray, rows: np.ndarray) -> Scores:
        return self.client.evaluate_own(parcel.job(to), kept, own, rows)

    def own_adapter(self, to: Address, parcel: Parcel, kept: Tensors, own: np.ndarray) -> AdapterState:
        return self.client.own_adapter(parcel.job(to), kept, own)
