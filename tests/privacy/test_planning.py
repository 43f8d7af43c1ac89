"""What the user reads before training."""

from fedsim.privacy import describe, mechanism_for
from fedsim.privacy.base import BankPlan

PLANS = [
    BankPlan("bank-01", num_examples=5000, batch_size=32, steps_per_round=20, num_rounds=10),
    BankPlan("bank-02", num_examples=320, batch_size=32, steps_per_round=20, num_rounds=10),
]

ENDING = [
    "Protected: any one row of a bank, against everybody outside that bank.",
    "The noise is a simulation's: it comes from the scenario's seed, and whoever knows the seed can subtract it.",
]


def sentences(plans: list[BankPlan] = PLANS, kind: str = "dp_sgd", **knobs: float) -> list[str]:
    return describe([mechanism_for(kind, {**knobs, "dp_delta": 1e-5} if knobs else {}, plan) for plan in plans])


def test_noise_alone_tells_where_each_bank_ends() -> None:
    assert sentences(noise_multiplier=1.0) == [
        "noise_multiplier 1 over 10 rounds ends at bank-02 (sample rate 0.1) with epsilon 11 (rdp, delta 1e-05)",
        "noise_multiplier 1 over 10 rounds ends at bank-01 (sample rate 0.0064) with epsilon 1.07 (rdp, delta 1e-05)",
        *ENDING,
    ]


def test_a_target_alone_tells_the_noise_of_each_bank() -> None:
    assert sentences(dp_epsilon=3.0)[0] == (
        "dp_epsilon 3 at noise_multiplier 2.335 buys all 10 rounds at bank-02 (sample rate 0.1), "
        "which ends with epsilon 3 (rdp, delta 1e-05)"
    )


def test_both_tell_how_many_rounds_the_budget_buys() -> None:
    first, second, *_ = sentences(noise_multiplier=1.5, dp_epsilon=4.0)
    assert first == "dp_epsilon 4 at noise_multiplier 1.5 buys 5 of 10 rounds at bank-02 (sample rate 0.1)"
    assert second.startswith("dp_epsilon 4 at noise_multiplier 1.5 buys all 10 rounds at bank-01 (sample rate 0.0064)")


def test_no_privacy_is_said_once() -> None:
    assert sentences(kind="none") == [
        "No differential privacy: nothing bounds what an update reveals about a row (epsilon is infinite)."
    ]


def test_many_banks_are_told_by_the_worst() -> None:
    plans = [BankPlan(f"bank-{n:02d}", 100 * (n + 1), 32, 1, 1) for n in range(23)]
    told = sentences(plans, noise_multiplier=2.0)
    assert len(told) == 21 + len(ENDING)
    assert "bank-00" in told[0]
    assert told[20] == "3 more banks have no higher sampling rate."


def test_banks_of_which_the_same_is_true_share_a_sentence() -> None:
    plans = [BankPlan(f"bank-{k:02d}", 200 * (k + 1), 20.0 * (k + 1), 5, 10) for k in range(3)]
    told = sentences(plans, noise_multiplier=2.0)
    assert told[0].startswith("noise_multiplier 2 over 10 rounds ends at 3 banks (sample rate 0.1) with epsilon")
    assert len(told) == 1 + len(ENDING)
