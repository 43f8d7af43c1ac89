"""What a failure is called, and what follows from it."""

from __future__ import annotations

import pytest
from ray import exceptions

from fedsim.core.errors import FedsimError, ModelError, QuorumError, ResourceError
from fedsim.core.sections import Failures
from fedsim.engine.classify import classify
from fedsim.engine.failures import REMEDIES, STAYING, Cause, Offences, decide, failed, of_error, too_few
from fedsim.engine.pool import groups
from fedsim.engine.resources import Actors
from fedsim.engine.transport import Downlink
from tests.engine import fakes

DIED, RAISED = Cause("died", "process 7 ended"), Cause("error", "ValueError: 3", FedsimError("x"))


def raised(cause: Exception) -> exceptions.RayTaskError:
    return exceptions.RayTaskError("train", "Traceback (most recent call last): ...", cause, "", 1, "10.0.0.2")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (exceptions.ActorDiedError(), "died"),
        (exceptions.WorkerCrashedError(), "died"),
        (exceptions.ActorUnavailableError("no answer", None), "unreachable"),
        (exceptions.NodeDiedError("node 3 died"), "node_lost"),
        (exceptions.OutOfMemoryError("95 % of the node's memory"), "out_of_memory"),
        (exceptions.OutOfDiskError(), "disk_full"),
        (exceptions.ObjectStoreFullError(), "disk_full"),
        (exceptions.ObjectLostError("ab" * 28, None, ""), "object_lost"),
        (exceptions.OwnerDiedError("ab" * 28, None, ""), "object_lost"),
        (exceptions.ObjectReconstructionFailedError("ab" * 28, None, ""), "object_lost"),
        (exceptions.RaySystemError("oops"), "ray"),
        (raised(ValueError("3")), "error"),
        (raised(ResourceError("here: out of GPU memory")), "out_of_gpu_memory"),
        (raised(exceptions.OutOfDiskError()), "disk_full"),
        (raised(exceptions.ObjectLostError("ab" * 28, None, "")), "object_lost"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_every_error_of_ray_has_a_name_a_line_and_a_remedy(error: exceptions.RayError, name: str) -> None:
    cause = classify(error, "round 1, bank 'east'")
    assert cause.name == name
    assert "\n" not in cause.message
    assert cause.passing == (name not in STAYING)
    told = str(cause.as_error("round 1, bank 'east'"))
    assert told.startswith("round 1, bank 'east': ") or isinstance(cause.error, ResourceError)
    if cause.error is None:
        assert told.endswith(REMEDIES[cause.name])


def test_a_node_that_is_gone_is_told_from_a_process_that_is() -> None:
    error = exceptions.ActorDiedError()
    error.error_msg = "The actor died because its node has died."
    assert classify(error, "x").name == "node_lost"
    error.error_msg = "The actor died unexpectedly\n\tpid: 12\n\tip: 10.0.0.2\nWorker exits unexpectedly"
    assert classify(error, "x").message == "process 12 on 10.0.0.2 ended unexpectedly"


def test_a_page_of_statistics_is_one_line() -> None:
    page = "2 worker(s) were killed. Memory on the node (IP: ...) was 8.00GB used / 23.54GB limit (0.34)\n" + 50 * "x\n"
    cause = classify(exceptions.OutOfMemoryError(page), "x")
    assert cause.message == "Ray ended the process at 8.00GB used / 23.54GB limit of its node"
    assert 50 * "x\n" in cause.detail


@pytest.mark.parametrize(
    ("policy", "cause", "attempt", "cohort", "action"),
    [
        ("retry", DIED, 1, 1, "retry"),
        ("retry", DIED, 2, 4, "retry"),
        ("retry", DIED, 3, 4, "abort"),  # alone, a bank's sums would be rounded differently
        ("skip", DIED, 3, 4, "alone"),
        ("skip", DIED, 4, 1, "skip"),
        ("abort", DIED, 1, 4, "abort"),
        ("retry", RAISED, 1, 1, "abort"),  # it would only raise again
        ("retry", RAISED, 1, 4, "alone"),  # whose fault is it?
        ("skip", RAISED, 1, 4, "alone"),
        ("skip", RAISED, 2, 1, "skip"),
        ("abort", RAISED, 1, 4, "abort"),
    ],
)
def test_what_follows(policy: str, cause: Cause, attempt: int, cohort: int, action: str) -> None:
    assert decide(Failures.model_validate({"policy": policy}), cause, attempt, cohort) == action


def test_what_is_everybody_s_fault_ends_the_run() -> None:
    cause = of_error(ModelError("round 1, bank 'east': no weights"), "round 1, bank 'east'")
    assert (cause.message, cause.ends_run) == ("no weights", True)
    assert decide(Failures(policy="skip"), cause, 1, 4) == "abort"
    assert type(cause.as_error("anywhere")) is ModelError


def test_a_quorum_names_who_is_missing_and_why() -> None:
    events = failed(Cause("late", "no answer within 3 s"), 4, ["east"], 3, "skip")
    missing = {one.bank: one for one in events}
    assert too_few(Failures(policy="skip"), missing, 2) is None
    error = too_few(Failures(policy="skip"), missing, 1)
    assert isinstance(error, QuorumError)
    assert "round 5: 0 of 1 banks answered" in str(error)
    assert "'east': late: no answer within 3 s" in str(error)
    assert too_few(Failures(policy="skip"), {}, 0) is None, "nobody was drawn"


def test_the_second_refused_update_bars_a_bank() -> None:
    offences = Offences(2)
    (refused,) = failed(Cause("not_finite", "..."), 0, ["east"], 1, "skip")
    (died,) = failed(DIED, 0, ["north"], 1, "skip")
    offences.note(refused)
    offences.note(died)
    offences.note(died)
    assert not list(offences.barred(1, fakes.BANKS))
    offences.note(refused)
    (barred,) = offences.barred(1, fakes.BANKS)
    assert (barred.bank, barred.round, barred.cause, barred.attempt) == ("east", 2, "quarantined", 0)


def test_a_resumed_round_has_the_same_cohorts() -> None:
    adapter = fakes.MakeToy()().new_adapter(1)
    jobs = [fakes.TrainJob(0, bank, adapter) for bank in "abcdef"]
    deliveries = Downlink(fakes.pipeline(()), 1).send(jobs)
    actors = Actors(banks_per_actor=3)
    assert groups(deliveries, actors, {}) == [(0, 1, 2), (3, 4, 5)]
    decided = {"a": "alone", "b": "skip", "c": "alone"}
    assert groups(deliveries, actors, decided) == [(0,), (2,), (3, 4, 5)]


@pytest.mark.parametrize(
    "knobs",
    [
        {"quorum": 0.7},
        {"quarantine": 3, "policy": "abort"},
        {"retries": 1, "policy": "abort"},
        {"deadline_s": 3.0, "deadline_factor": 4.0},
    ],
)
def test_a_knob_without_effect_is_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"has an effect only with|not both"):
        Failures.model_validate(knobs)
