"""Where noise comes from: a seed that repeats a run, or a key that nobody else has."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedsim.core import seeds
from fedsim.core.adapter import AdapterState
from fedsim.core.errors import SecurityError
from fedsim.core.messages import TrainJob
from fedsim.privacy import Mechanism, mechanism_for
from fedsim.privacy.base import BankPlan
from fedsim.privacy.sources import Keyed, RunKey, Seeded, Source

KEY = RunKey(bytes(range(32)), "scenario rows")
JOB = TrainJob(3, "bank-01", AdapterState({}, 4, 1.0), seed=17)
SOURCES: list[Source] = [Seeded(1, "noise", 2), Keyed(KEY, "noise", 2)]


@pytest.mark.parametrize("source", SOURCES, ids=["seeded", "keyed"])
def test_normals_are_normal(source: Source) -> None:
    count = 400_000
    values = source.normal(count)
    assert values.dtype == torch.float64
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        spread = math.sqrt({1: 1, 2: 2, 3: 15, 4: 96}[power] / count)
        assert float((values**power).mean()) == pytest.approx(moment, abs=5 * spread)
    inside = [float((values.abs() < edge).double().mean()) for edge in (1, 2, 3)]
    assert inside == pytest.approx([0.682689, 0.954500, 0.997300], abs=4e-3)
    halves = values.view(2, -1)
    assert abs(float((halves[0] * halves[1]).mean())) < 5 / math.sqrt(count / 2)  # Box-Muller's two halves
    assert abs(float((values[:-1] * values[1:]).mean())) < 5 / math.sqrt(count)


@pytest.mark.parametrize("source", SOURCES, ids=["seeded", "keyed"])
def test_uniforms_are_uniform(source: Source) -> None:
    values = source.uniform(200_000)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.bincount((values * 100).astype(int), minlength=100)
    assert ((counts - 2000) ** 2 / 2000).sum() < 170  # chi-squared with 99 degrees: 1 in 1e5
    assert np.array_equal(values, source.uniform(200_000))


def test_odd_lengths_and_none() -> None:
    assert Keyed(KEY, "noise").normal(7).shape == (7,)
    assert Keyed(KEY, "noise").normal(0).shape == (0,)
    assert Keyed(KEY, "noise").uniform(0).shape == (0,)


def test_a_seed_draws_what_core_seeds_derives() -> None:
    expected = torch.randn(5, generator=seeds.generator(1, "noise", 2), dtype=torch.float64)
    assert torch.equal(Seeded(1, "noise", 2).normal(5), expected)
    assert np.array_equal(Seeded(1, "batch", 2).uniform(5), seeds.rng(1, "batch", 2).random(5))


def secure(key: RunKey | None) -> Mechanism:
    plan = BankPlan("bank-01", 2000, 32, 20, 10)
    mechanism = mechanism_for("dp_sgd", {"noise_multiplier": 1.0, "dp_delta": 1e-5, "noise": "secure"}, plan)
    mechanism.key = key
    return mechanism


def noise(mechanism: Mechanism, job: TrainJob = JOB, purpose: str = "noise", step: int = 0) -> torch.Tensor:
    return mechanism.source(job, purpose, step).normal(16)


def test_secure_noise_is_bound_to_all_that_decides_a_release() -> None:
    base = noise(secure(KEY))
    others = [
        noise(secure(replace(KEY, binding="another scenario, same rows"))),
        noise(secure(replace(KEY, secret=bytes(32)))),
        noise(secure(KEY), replace(JOB, round=4)),
        noise(secure(KEY), replace(JOB, bank="bank-02")),
        noise(secure(KEY), purpose="release"),
        noise(secure(KEY), step=1),
    ]
    assert torch.equal(base, noise(secure(KEY)))
    assert all(not torch.equal(base, other) for other in others)


def test_a_seed_never_drives_secure_noise() -> None:
    assert torch.equal(noise(secure(KEY)), noise(secure(KEY), replace(JOB, seed=18)))
    with pytest.raises(SecurityError, match="given no key"):
        noise(secure(None))


def test_a_new_key_for_every_run_unless_one_is_given(tmp_path: Path) -> None:
    first, second = (RunKey.make(None, "x", tmp_path / "run") for _ in range(2))
    assert first.secret != second.secret
    file = tmp_path / "key"
    file.write_bytes(bytes(range(32)))
    file.chmod(0o600)
    assert RunKey.make(file, "x", tmp_path / "run") == RunKey.make(file, "x", tmp_path / "run")
    assert "secret" not in repr(first)
    assert pickle.loads(pickle.dumps(secure(first))).key == first


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (bytes(32), 0o644, r"may be read by others \(mode 0644\); chmod 0600"),
        (bytes(31), 0o600, "holds 31 bytes; 32 random bytes are needed"),
        (None, 0, "cannot be read .*head -c 32 /dev/urandom"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, content: bytes | None, mode: int, message: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    with pytest.raises(SecurityError, match=message):
        RunKey.make(file, "x", tmp_path / "run")


def test_a_key_among_the_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="lies in the run directory"):
        RunKey.make(tmp_path / "run" / "key", "x", tmp_path / "run")


def test_a_key_without_secure_noise_is_an_idle_knob() -> None:
    plan = BankPlan("bank-01", 2000, 32, 20, 10)
    with pytest.raises(ValidationError, match="only with noise: secure"):
        mechanism_for("dp_sgd", {"noise_multiplier": 1.0, "dp_delta": 1e-5, "noise_key": "k"}, plan)
