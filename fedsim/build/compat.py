"""What a scenario combines that cannot work together, as far as that can be seen without data.

A check is one function that yields (key path, message, exit code), and a line in ``CHECKS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from fedsim.build.families import Families
from fedsim.codecs import pipeline
from fedsim.core.registry import Config
from fedsim.core.scenario import Baseline, Scenario
from fedsim.core.strict_yaml import KeyPath
from fedsim.strategies import Sheet

Finding = tuple[KeyPath, str, int]

CONFIG, RESOURCES = 2, 4  # exit codes


@dataclass(frozen=True, slots=True)
class Plan:
    """A valid scenario, the validated knobs of each plug-in entry, and the registries they come from."""

    scenario: Scenario
    configs: Mapping[KeyPath, Config]
    families: Families

    @property
    def sheet(self) -> Sheet:
        sheet: Sheet = self.families["strategy"][self.scenario.strategy.kind].sheet
        return sheet


def incompatibilities(plan: Plan) -> list[Finding]:
    """Everything that the checks find, in their order."""
    return [finding for check in CHECKS for finding in check(plan)]


def codec_order(plan: Plan) -> Iterator[Finding]:
    for direction, chain in (("upload", plan.scenario.upload), ("download", plan.scenario.download)):
        try:
            pipeline([(stage.kind, stage.knobs) for stage in chain])
        except ValueError as error:
            yield (direction,), str(error), CONFIG


def error_feedback(plan: Plan) -> Iterator[Finding]:
    if plan.sheet.keeps_basis:
        return
    method = plan.scenario.strategy.kind
    for path, config in plan.configs.items():
        if path[0] not in ("upload", "download"):
            continue
        stage = getattr(plan.scenario, str(path[0]))[path[1]]
        if plan.families[str(path[0])][stage.kind](config).needs_basis:
            reason = f"strategy {method!r} changes what coordinates mean from round to round"
            yield path, f"{reason}, so no residual can be carried over; turn error_feedback off", CONFIG


def mixed_ranks(plan: Plan) -> Iterator[Finding]:
    lora = plan.scenario.lora
    if set(lora.bank_ranks or ()) - {lora.r} and not plan.sheet.mixed_ranks:
        able = ", ".join(kind for kind, method in plan.families["strategy"].items() if method.sheet.mixed_ranks)
        message = f"strategy {plan.scenario.strategy.kind!r} needs one rank at all banks; with unequal ranks use {able}"
        yield ("lora", "bank_ranks"), message, CONFIG


def private_training(plan: Plan) -> Iterator[Finding]:
    kind, method = plan.scenario.privacy.kind, plan.scenario.strategy.kind
    if kind != "none" and plan.sheet.dp != "yes":
        yield ("privacy", "kind"), f"strategy {method!r} cannot train with {kind!r}: {plan.sheet.dp}", CONFIG


def bank_level(plan: Plan) -> Iterator[Finding]:
    """Where the update is clipped as a whole, it must be all that a bank sends; a server that noises it needs a sum."""
    mechanism, method = plan.families["privacy"][plan.scenario.privacy.kind], plan.scenario.strategy.kind
    if not mechanism.per_update:
        return
    reason = ""
    if plan.sheet.sends_slots:
        reason = "banks send more than their update, which nothing protects"
    elif mechanism.central and not plan.sheet.sums_only:
        reason = "its server needs every bank's own update, and here it sees their noisy mean alone"
    elif mechanism.central and set(plan.scenario.lora.bank_ranks or ()) - {plan.scenario.lora.r}:
        reason = "updates of unequal ranks have no sum; remove lora.bank_ranks"
    if reason:
        kind = plan.scenario.privacy.kind
        yield ("privacy", "kind"), f"strategy {method!r} cannot train with {kind!r}: {reason}", CONFIG


def skipped_banks(plan: Plan) -> Iterator[Finding]:
    """The noise of a central mechanism hides what one bank adds to the sum, not what its crash takes out of it."""
    mechanism = plan.families["privacy"][plan.scenario.privacy.kind]
    if plan.scenario.failures.policy == "skip" and mechanism.central:
        message = (
            f"{plan.scenario.privacy.kind!r} accounts for what one bank adds to the sum; a bank whose failure takes "
            "others out of the round (its cohort, a deadline, the quorum) changes it by more; use policy: retry"
        )
        yield ("failures", "policy"), message, CONFIG


def sum_alone(plan: Plan) -> Iterator[Finding]:
    """Where banks' noise protects their sum alone, nobody may see a summand, and every value needs its noise."""
    scenario, kind = plan.scenario, plan.scenario.privacy.kind
    if not plan.families["privacy"][kind].needs_sum:
        return
    if not plan.families["secure_aggregation"][scenario.secure_aggregation.kind].active:
        active = ", ".join(name for name, cls in plan.families["secure_aggregation"].items() if cls.active)
        message = f"{kind!r} protects the sum of the banks' updates alone; set secure_aggregation to {active}"
        yield ("privacy", "kind"), message, CONFIG
    if scenario.upload:
        message = f"the noise of {kind!r} is that of whole updates on a grid of its own; remove upload"
        yield ("upload",), message, CONFIG


def sends_all(config: Config) -> bool:
    """Whether banks of a method with sparse messages (FLASC) send all that they train, and train the same."""
    lossless = getattr(config, "density_decay", 1) == 1 or getattr(config, "mode", "dense") != "dense"
    return lossless and getattr(config, "density_up", 0) == 1 and not getattr(config, "tiers", ())


def secure_sums(plan: Plan) -> Iterator[Finding]:
    """What a server that sees the sum of masked updates alone cannot do, or what would leave a bank without a mask."""
    scenario, kind = plan.scenario, plan.scenario.secure_aggregation.kind
    if not plan.families["secure_aggregation"][kind].active:
        return
    method, privacy = scenario.strategy.kind, scenario.privacy.kind
    reason = ""
    if method in get_args(Baseline):
        reason = "it sums nothing"
    elif not plan.sheet.sums_only:
        reason = "its server needs every bank's own update, and here it sees their sum alone"
    elif plan.sheet.sends_slots:
        reason = "banks send more than their update, on a scale of its own"
    elif "sparse" in plan.families["strategy"][method].codecs and not sends_all(plan.configs["strategy",]):
        reason = "each bank chooses the coordinates that it sends, which have no sum"
        reason += "; set density_up: 1, no tiers, no density_decay" if method == "flasc" else ""
    elif set(scenario.lora.bank_ranks or ()) - {scenario.lora.r}:
        reason = "updates of unequal ranks have no sum; remove lora.bank_ranks"
    if reason:
        yield ("secure_aggregation", "kind"), f"strategy {method!r} cannot be summed by {kind!r}: {reason}", CONFIG
    if plan.families["privacy"][privacy].central:
        message = f"the server of {privacy!r} clips every bank's update and adds the noise, and here it sees none"
        yield ("privacy", "kind"), message, CONFIG
    if scenario.failures.max_norm is not None:
        yield ("failures", "max_norm"), f"the norm of an update that {kind!r} masks is not seen; remove it", CONFIG
    for number, stage in enumerate(scenario.upload):
        if stage.kind != "randk" or number or stage.knobs.get("error_feedback"):
            message = (
                f"{kind!r} sends integers on one grid at coordinates that are the same for all banks; beside it "
                "upload may be [{kind: randk}] without error_feedback"
            )
            yield ("upload", number), message, CONFIG
    for number, stage in enumerate(scenario.download):
        if stage.knobs.get("error_feedback"):
            message = f"a residual for each bank sends banks different values, which {kind!r} cannot add up"
            yield ("download", number), f"{message}; turn error_feedback off", CONFIG


def frozen_head(plan: Plan) -> Iterator[Finding]:
    if not plan.scenario.lora.train_head and getattr(plan.configs["model",], "task", "") == "causal_lm":
        yield ("lora", "train_head"), "a causal_lm answers in words and has no head; remove train_head", CONFIG


def own_pace(plan: Plan) -> Iterator[Finding]:
    fraction, method = plan.scenario.client_fraction, plan.scenario.strategy.kind
    if plan.sheet.asynchronous and fraction != 1:
        message = f"strategy {method!r} samples no banks: who is ready sends; set its concurrency instead"
        yield ("client_fraction",), message, CONFIG


def late_banks(plan: Plan) -> Iterator[Finding]:
    """A bank may be missing at first only where nothing counts on the number of banks."""
    scenario, method = plan.scenario, plan.scenario.strategy.kind
    if scenario.joins is None:
        return
    mechanism = plan.families["privacy"][scenario.privacy.kind]
    reason = ""
    if method in ("pooled", "zero_shot"):
        reason = f"with strategy {method!r} no bank takes part in rounds"
    elif plan.sheet.asynchronous:
        reason = f"strategy {method!r} samples no banks: who is ready sends"
    elif mechanism.central or mechanism.needs_sum:
        reason = f"{scenario.privacy.kind!r} accounts for one number of banks in all rounds"
    elif plan.families["secure_aggregation"][scenario.secure_aggregation.kind].active:
        reason = f"{scenario.secure_aggregation.kind!r} is set up for one number of banks in all rounds"
    if reason:
        yield ("joins",), f"{reason}; remove joins", CONFIG


def plain_sgd(plan: Plan) -> Iterator[Finding]:
    train, method = plan.scenario.train, plan.scenario.strategy.kind
    if plan.sheet.needs_sgd and (train.optimizer != "sgd" or train.momentum != 0):
        got = train.optimizer if train.optimizer != "sgd" else f"momentum {train.momentum}"
        yield ("train",), f"strategy {method!r} is valid for optimizer: sgd without momentum only (got {got})", CONFIG


def rate_that_ends_at_zero(plan: Plan) -> Iterator[Finding]:
    train, method = plan.scenario.train, plan.scenario.strategy.kind
    if plan.sheet.needs_sgd and train.lr_schedule == "cosine" and train.min_lr == 0:
        message = f"strategy {method!r} divides by the learning rate, which ends at 0; set min_lr above 0"
        yield ("train", "lr_schedule"), message, CONFIG


def adapters(plan: Plan) -> Iterator[Finding]:
    whole = getattr(plan.configs["model",], "train", "lora") == "full"
    if whole and plan.sheet.needs_factors:
        message = f"strategy {plan.scenario.strategy.kind!r} works on LoRA factors, and a model that is trained whole"
        yield ("model", "train"), f"{message} has none; set train: lora, or use a method such as fedavg", CONFIG


def own_models(plan: Plan) -> Iterator[Finding]:
    if plan.scenario.evaluate.per_bank:
        return
    for kind in (plan.scenario.strategy.kind, *plan.scenario.baselines):
        if plan.families["strategy"][kind].sheet.personal:
            message = f"{kind!r} gives every bank a model of its own, which only per_bank: true measures"
            yield ("evaluate", "per_bank"), message, CONFIG


def whole_gpus(plan: Plan) -> Iterator[Finding]:
    gpus = plan.scenario.resources.gpus_per_client
    if gpus > 1 and gpus != int(gpus):
        message = f"Ray gives an actor a fraction of one GPU or whole GPUs (got {gpus})"
        yield ("resources", "gpus_per_client"), message, RESOURCES


def baselines(plan: Plan) -> Iterator[Finding]:
    for index, baseline in enumerate(plan.scenario.baselines):
        if baseline == plan.scenario.strategy.kind:
            yield (
                ("baselines", index),
                f"{baseline!r} is the scenario's own strategy; there is nothing to compare",
                CONFIG,
            )


def audit(plan: Plan) -> Iterator[Finding]:
    """An audit guesses single rows, so the mechanism's neighbours must be data sets that differ by one."""
    if plan.scenario.audit is None:
        return
    kind, method = plan.scenario.privacy.kind, plan.scenario.strategy.kind
    if not plan.families["privacy"][kind].bounds_rows:
        yield ("audit",), f"rows come and go in an audit, and the epsilon of {kind!r} is about more than a row", CONFIG
    elif plan.scenario.train.sampling == "fixed":
        yield ("audit",), "rows come and go in an audit; with train.sampling: fixed neighbours replace one", CONFIG
    elif plan.families["secure_aggregation"][plan.scenario.secure_aggregation.kind].active:
        yield ("audit",), "an audit attacks what each bank sends, and under secure aggregation nobody sees that", CONFIG
    if method in ("local", "pooled", "zero_shot"):
        yield ("audit",), f"with strategy {method!r} no bank sends anything that could be attacked", CONFIG


CHECKS: tuple[Callable[[Plan], Iterator[Finding]], ...] = (
    codec_order,
    error_feedback,
    mixed_ranks,
    private_training,
    bank_level,
    skipped_banks,
    secure_sums,
    frozen_head,
    own_pace,
    late_banks,
    sum_alone,
    plain_sgd,
    rate_that_ends_at_zero,
    adapters,
    own_models,
    whole_gpus,
    baselines,
    audit,
)
