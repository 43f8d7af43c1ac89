"""A shelf for one thing: the last value made, for whoever asks for the same again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The last value made, and what it was made for. It is let go before another is made: never two in memory."""

    def __init__(self) -> None:
        self._held: tuple[str, T] | None = None

    def get(self, key: str, make: Callable[[], T]) -> T:
        if self._held is None or self._held[0] != key:
            self._held = None
            self._held = key, make()
        return self._held[1]
