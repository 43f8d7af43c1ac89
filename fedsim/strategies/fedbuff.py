"""FedBuff (Nguyen et al., 2106.06639, Algorithms 1 and 2): asynchronous training with a buffer on the server.

``concurrency`` banks train at any time, each from the version x_v that it pulled when it began. The server collects
what arrives; when K = ``buffer_size`` updates are in, x <- x + server_lr / K sum_k s(a_k) Delta_k with a_k versions of
staleness and s(a) = (1 + a)^-staleness_exponent. A version is a round here: its banks are those that arrive for it.

Time is virtual, so a run has the same bits on every machine: a bank's round takes ``slowdown ** u`` with u of the bank
drawn uniformly from [0, 1) once per run. As the work of a job depends on the pulled version alone, it is done when it
arrives; the server keeps the versions that are still out.

Laws: buffer_size = number of banks = concurrency and slowdown = 1 is FedAvg with equal weights; s(0) = 1; after t
rounds, t K updates are in. A bank is at most once in a buffer: it starts again with the next version, so that one bank
moves a release by at most server_lr C / K (2106.06639 leaves that open).

Deviations: a bank's learning rate follows the round it arrives in. Who has been idle longest starts next.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from pydantic import Field

from fedsim.core import registry, seeds
from fedsim.core.adapter import AdapterState, weighted_mean
from fedsim.core.messages import BankInfo, Exchange, ServerState, TrainJob
from fedsim.strategies.base import Sheet, Strategy, advance, from_slots, to_slots


class FedBuff(Strategy):
    class Config(registry.Config):
        buffer_size: int = Field(10, ge=1, description="K, updates per version; all banks where there are fewer")
        concurrency: int | None = Field(None, ge=1, description="banks that train at the same time; null: all")
        server_lr: float = Field(1.0, gt=0)
        staleness_exponent: float = Field(0.5, ge=0)
        slowdown: float = Field(4.0, ge=1, description="a round takes the slowest bank up to so many times longer")

    sheet = Sheet(
        title="FedBuff (asynchronous, buffered)",
        source="2106.06639, Algorithms 1 and 2",
        trains="A, B, head",
        up="A, B, head",
        down="A, B, head",
        exact="no (covariance)",
        state="server: versions in flight",
        asynchronous=True,
    )

    def init(self, adapter: AdapterState, banks: Sequence[BankInfo], seed: int) -> ServerState:
        draw = seeds.rng(seed, "pace")
        pace = torch.from_numpy(self.config.slowdown ** draw.random(len(banks))).float()
        queue = torch.from_numpy(draw.permutation(len(banks))).float()
        return replace(super().init(adapter, banks, seed), slots={"clock/pace": pace, "clock/queue": queue})

    def arrivals(self, state: ServerState) -> list[str]:
        return list(self._arrived(state))

    def configure(self, state: ServerState, bank: str, seed: int) -> TrainJob:
        version = self._arrived(state)[bank]
        past = from_slots(f"version/{version}", state.slots)  # empty where no other has been made since
        job = super().configure(state, bank, seed)
        return replace(job, adapter=job.adapter.with_tensors(past))

    def aggregate(self, state: ServerState, exchanges: Sequence[Exchange]) -> ServerState:
        pulled = self._arrived(state)
        ages = [state.round - pulled[exchange.job.bank] for exchange in exchanges]
        weights = [(1 + age) ** -self.config.staleness_exponent for age in ages]
        step = self.config.server_lr * sum(weights) / len(weights)
        delta = weighted_mean([exchange.update.delta for exchange in exchanges], weights)
        moved = {name: state.adapter.tensors[name] + step * change for name, change in delta.items()}
        versions = {**state.slots, **to_slots(f"version/{state.round}", state.adapter.tensors)}
        out = {"clock", *map(str, self._clock(state).flying(state.round))}
        slots = {n: t for n, t in versions.items() if set(n.split("/")[:2]) & out}
        return advance(state, state.adapter.with_tensors(moved), slots=slots)

    def _arrived(self, state: ServerState) -> dict[str, int]:
        """The banks of a round, in bank order, and the version that each had pulled."""
        pulled = self._clock(state).pulled(state.round)
        return {state.banks[bank].name: version for bank, version in sorted(pulled.items())}

    def _clock(self, state: ServerState) -> Clock:
        size, concurrency = self.config.buffer_size, self.config.concurrency or len(state.banks)
        pace, queue = (tuple(state.slots[f"clock/{name}"].tolist()) for name in ("pace", "queue"))
        return clock(min(size, len(pace)), concurrency, pace, tuple(map(int, queue)))


class Clock:
    """Who arrives when, bank by number: a function of the arguments alone, worked out as far as it was asked for.

    ``pace`` is how long each bank takes; ``queue`` the order in which they start, where not all can at once.
    """

    def __init__(self, size: int, concurrency: int, pace: Sequence[float], queue: Sequence[int]) -> None:
        self._size, self._concurrency, self._pace = size, concurrency, pace
        self._now, self._idle = 0.0, deque(queue)
        self._flights: list[tuple[float, int, int]] = []  # (end, bank, version), a heap
        self._versions: list[tuple[dict[int, int], frozenset[int]]] = []

    def pulled(self, version: int) -> dict[int, int]:
        """The version that each bank had pulled that arrives for this one."""
        return self._at(version)[0]

    def flying(self, version: int) -> frozenset[int]:
        """The versions that banks still work on when the next one is made of this."""
        return self._at(version)[1]

    def _at(self, version: int) -> tuple[dict[int, int], frozenset[int]]:
        while len(self._versions) <= version:
            self._versions.append(self._fill(len(self._versions)))
        return self._versions[version]

    def _fill(self, version: int) -> tuple[dict[int, int], frozenset[int]]:
        """Let banks start and arrive until the buffer is full."""
        buffer: dict[int, int] = {}
        while len(buffer) < self._size:
            while self._idle and len(self._flights) < self._concurrency:
                bank = self._idle.popleft()
                heapq.heappush(self._flights, (self._now + self._pace[bank], bank, version))
            self._now, bank, pulled = heapq.heappop(self._flights)
            buffer[bank] = pulled
        self._idle.extend(buffer)  # only now: a bank is once in a buffer
        return buffer, frozenset(flight[2] for flight in self._flights)


@lru_cache(maxsize=8)
def clock(size: int, concurrency: int, pace: tuple[float, ...], queue: tuple[int, ...]) -> Clock:
    """The same clock for the same arguments, so that it is not wound up for every job."""
    return Clock(size, concurrency, pace, queue)
