"""FedSA-LoRA (Guo et al., 2410.01463; code Pengxin-Guo/FedSA-LoRA): A is shared, B and the classifier stay at the bank.

Every bank trains A and B (and its head) from the shared A and its own B; only A is sent: A <- sum_k p_k A_k. A bank
seen for the first time starts from the common B = 0 and head. Laws: no B and no head ever leaves a bank; the shared A
is the mean of the banks' A. Evaluation is personal and not to be compared with rows of a global model.

Deviations: none. DP must cover both factors although A alone is released: the next gradient of A depends on B.
"""

from __future__ import annotations

from fedsim.core.adapter import AdapterState, Tensors, factor, subtract
from fedsim.core.messages import TrainJob
from fedsim.strategies.base import LocalContext, LocalRule, Outcome, Sheet, from_slots, to_slots
from fedsim.strategies.fedavg import FedAvg


class FedSARule(LocalRule):
    personal = True

    def start(self, job: TrainJob, kept: Tensors) -> AdapterState:
        return job.adapter.with_tensors(from_slots("personal", kept))

    def finish(self, trained: AdapterState, context: LocalContext) -> Outcome:
        shared = {name: tensor for name, tensor in trained.tensors.items() if factor(name) == "A"}
        own = {name: tensor for name, tensor in trained.tensors.items() if factor(name) != "A"}
        delta = subtract(shared, context.job.adapter.tensors)
        return Outcome(delta=delta, slots={}, kept=to_slots("personal", own))


class FedSALoRA(FedAvg):
    sheet = Sheet(
        title="FedSA-LoRA (A shared, B personal)",
        source="2410.01463",
        trains="A, B, head",
        up="A",
        down="A; first B and head once",
        exact="n/a (personal)",
        state="bank: its B and head",
        sums_only=True,
        personal=True,
        needs_factors=True,
    )

    def rule(self) -> LocalRule:
        return FedSARule()
