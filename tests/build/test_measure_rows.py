"""``fedsim plan --measure``: what timings are taken to say, and that measuring leaves nothing behind.

That another ``train.max_rows`` gives the same training within 1e-5 is ``test_small_physical_batches_change_nothing`` of
tests/train/test_trainer.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedsim.build import measure_rows
from fedsim.build.laps import choose
from fedsim.build.measure_rows import Bench, as_text, sizes_for
from fedsim.build.plan import as_text as plan_text
from fedsim.build.plan import plan
from fedsim.core.errors import ResourceError
from fedsim.train.trainer import Trainer
from tests.test_cli import run

FILE = """
num_rounds: 3
data: {kind: loan_book, num_banks: 4, rows_per_bank: 60}
partition: {kind: by_column, column: bank}
model: {kind: embedded}
train: {local_steps: 2, batch_size: 10, sampling: fixed, max_rows: 16}
privacy: {kind: dp_sgd, noise_multiplier: 1, dp_delta: 1e-3}
joins: {rounds: {bank-00: 2}}
resources: {banks_per_actor: 2}
"""


@pytest.mark.parametrize(
    ("laps", "present", "best", "as_good", "gain"),
    [
        ([{8: 2.0, 32: 1.0, 64: 1.2}] * 5, 64, 32, (32,), 1.2),
        ([{8: 2.0, 32: 1.0, 64: 1.02}] * 5, 64, 64, (32, 64), 1.0),  # not worth other bits
        ([{8: 2.0, 16: 1.02, 32: 1.0, 64: 1.5}] * 5, 64, 16, (16, 32), 1.5 / 1.02),  # the one that takes least memory
        ([{8: pace, 16: 1.2 * pace} for pace in (1, 2, 3, 4, 5)], 16, 8, (8,), 1.2),  # only the machine drifts
        ([{8: 1.0, 16: pace} for pace in (1.2, 0.9, 1.1, 0.9, 1.2)], 16, 16, (8, 16), 1.0),  # within noise
        ([{8: 2.0, 16: 1.0}] * 5, 64, 16, (16,), None),  # the present one did not fit
        ([{8: 1.0, 16: 1.08}], 16, 16, (8, 16), 1.0),  # a single lap shows only what is large
        ([{8: 1.0, 16: 1.2}, {8: 1.2, 16: 1.0}], 16, 16, (8, 16), 1.0),  # few laps that contradict each other
        ([{8: 1.0, 16: 1.2}, {8: 1.0, 16: 1.3}], 16, 8, (8,), 1.25),
        ([{8: 1.0, 16: 1.08}] * 5, 16, 8, (8,), 1.08),
        # 4 is as good as 8 and yet does not beat 16: of those that are as good, the one that does is told
        ([{8: 1.0, 16: 1.2, 4: 1.1 + shift} for shift in (0, 0, 0.2, 0.2, -0.2, -0.2)], 16, 8, (4, 8), 1.2),
    ],
)
def test_what_the_laps_say(
    laps: list[Mapping[int, float]], present: int, best: int, as_good: tuple[int, ...], gain: float | None
) -> None:
    choice = choose(laps, present)
    assert (choice.best, choice.as_good) == (best, as_good)
    assert choice.gain == (gain and pytest.approx(gain))


@pytest.mark.parametrize(
    ("most", "present", "sizes"),
    [
        (70, 64, [8, 16, 32, 64, 128]),
        (64, 64, [8, 16, 32, 64]),
        (5, 64, [8]),  # every size from 8 on takes all 5
        (5, 4, [4, 8]),
        (100, 100, [8, 16, 32, 64, 100, 128]),
        (5000, 64, [8, 16, 32, 64, 128, 256, 512]),
        (1500, 1000, [8, 16, 32, 64, 128, 256, 512, 1000]),
        (1500, 9000, [8, 16, 32, 64, 128, 256, 512, 2048]),
    ],
)
def test_sizes_that_make_a_difference(most: int, present: int, sizes: list[int]) -> None:
    assert sizes_for(most, present) == sizes


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_rows, "MOST_LAPS", 1)
    monkeypatch.setattr(measure_rows, "ENOUGH_S", 1000.0)


def written(folder: Path) -> Path:
    path = folder / "f.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.usefixtures("quick")
def test_the_first_cohort_is_trained_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path)
    assert run(monkeypatch, "plan", str(path), "--measure", "--format", "json") == 0
    out, err = capsys.readouterr()
    whole = json.loads(out)
    told, there = whole["measured"], [bank for bank in whole["banks"] if bank != "bank-00"]
    assert told["banks"] == there[1:]  # of three banks, one is alone in its cohort; bank-00 joins late
    assert (told["rows"], told["rows_of_a_step"], told["steps"], told["threads"]) == (40, 20, 2, 1)
    assert [one["max_rows"] for one in told["sizes"]] == [8, 16, 32]
    assert all(one["rows_per_s"] > 0 and one["tokens_per_s"] > one["rows_per_s"] for one in told["sizes"])
    assert told["max_rows"] in (8, 16, 32)
    assert told["gain"] >= 1 or told["max_rows"] == 16
    assert "8 rows at once" in err
    assert f"train: {{max_rows: {told['max_rows']}}}" in as_text(told)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == FILE


def test_a_missing_model_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    path.write_text(FILE.replace("{kind: embedded}", "{kind: hf, id: ./nowhere}"))
    assert run(monkeypatch, "plan", str(path), "--measure") == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "nowhere" in err


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_ends_the_way_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Trainer.train

    def small_gpu(self: Trainer, jobs: list, kept: list) -> list:
        if self.local.train.max_rows > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(self, jobs, kept)

    monkeypatch.setattr(Trainer, "train", small_gpu)
    told = plan(written(tmp_path), measure=True)["measured"]
    assert [one["max_rows"] for one in told["sizes"]] == [8]
    assert (told["max_rows"], told["gain"]) == (8, None)
    text = as_text(told)
    assert "16 rows at once do not fit into GPU memory" in text
    assert "the present 16 was not measured" in text


def test_a_method_without_training_has_nothing_to_measure(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(FILE.partition("privacy:")[0] + "strategy: {kind: zero_shot}\n")
    told = plan(path, measure=True)
    assert "not measured (the method trains nothing)" in plan_text(told)


@pytest.mark.usefixtures("quick")
def test_where_nothing_fits_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(self: Trainer, jobs: list, kept: list) -> list:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "train", no_memory)
    with pytest.raises(ResourceError, match=r"out of GPU memory; lower train\.max_rows"):
        plan(written(tmp_path), measure=True)


def bench(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float]) -> Bench:
    """A bench on which a training takes so long."""
    monkeypatch.setattr(Bench, "_train", lambda self, size: seconds[size])
    trainer = SimpleNamespace(local=None, model=SimpleNamespace(device=torch.device("cpu")))
    return Bench(trainer, [])  # type: ignore[arg-type]


def test_after_two_slower_ones_only_the_present_size_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {8: 2.0, 16: 1.0, 32: 1.3, 64: 1.1, 128: 1.2, 256: 1.4, 512: 1.5}
    looked = bench(monkeypatch, {**seconds, 600: 1.6}).look([*seconds, 600], 600, lambda line: None)
    assert list(looked.lap) == [8, 16, 32, 64, 128, 256, 600]  # 64 was not slower: counted anew
    assert looked.ended == "they are slower"


def test_memory_that_would_not_be_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_rows, "peak", lambda device: 10**18)
    looked = bench(monkeypatch, {8: 1.0}).look([8, 16], 16, lambda line: None)
    assert list(looked.lap) == [8]
    assert looked.ended is not None
    assert "16 rows at once may need" in looked.ended


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_rows, "LIMIT_S", 0.0)
    slow = bench(monkeypatch, {8: 1.0, 16: 1.0})
    looked = slow.look([8, 16], 8, lambda line: None)
    assert list(looked.lap) == [8]
    assert looked.ended == "0 s are over"
    assert slow.laps(looked.lap, lambda line: None) == []
