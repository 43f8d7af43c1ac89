"""F30: resources that the cluster does not have. F37: a bank without rows. F44: an accountant that hangs.

Found before anything is trained or charged, so there is no hash to compare: no process is started.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.build import run as run_module
from fedsim.core.errors import DataError, ResourceError
from fedsim.core.messages import Spend
from fedsim.engine import cluster
from fedsim.privacy import prv
from fedsim.privacy.accounting import rdp_epsilon
from fedsim.privacy.prv import prv_epsilon

SCENARIO = """
num_rounds: 1
data: {kind: loan_book, num_banks: 4, rows_per_bank: 20}
partition: {kind: iid, num_banks: 4}
model: {kind: embedded}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_has_session", lambda: False)

    def refuse(*_: object) -> None:
        raise AssertionError("Ray was about to be started")

    monkeypatch.setattr(cluster, "_private_session", refuse)


@pytest.mark.usefixtures("nothing_starts")
def test_f30_too_many_gpus_are_refused_with_the_arithmetic(scenario, tmp_path, monkeypatch) -> None:
    wanted = ["resources.num_actors=4", "resources.gpus_per_client=0.5"]
    with pytest.raises(ResourceError, match=r"need 4 x 0\.5 GPU = 2, cluster has 0"):
        list(run_module.run(scenario, wanted, tmp_path / "run"))

    monkeypatch.setattr(cluster, "place", lambda actors, cohort, nodes: actors)  # control
    with pytest.raises(AssertionError, match="about to be started"):
        list(run_module.run(scenario, wanted, tmp_path / "again"))


@pytest.mark.usefixtures("nothing_starts")
def test_f37_a_bank_without_rows_is_named_with_the_knobs_that_did_it(scenario, tmp_path) -> None:
    wanted = ["partition={kind: dirichlet, num_banks: 12, alpha: 0.01, min_partition_size: 0}"]
    with pytest.raises(DataError, match=r"bank-\d+ gets .*rows.*use fewer banks or a milder split.*seed 0"):
        list(run_module.run(scenario, wanted, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_f37_or_it_is_left_out_and_the_others_go_on(scenario, tmp_path) -> None:
    """To the bits of a run in which it never was: its name and its rows are nobody's."""
    holed = "{kind: dirichlet, num_banks: 6, alpha: 0.05, min_partition_size: 0}"
    skip = [f"partition={holed}", "failures.no_rows=skip", "train.local_steps=1", "seed=3"]
    started, *_, finished = run_module.run(scenario, skip, tmp_path / "run", inline=True)
    (note,) = (note for note in started.notes if note.startswith("Left out, without a training row"))
    left_out = note.rpartition(": ")[2].rstrip(".").split(", ")
    there = [bank.name for bank in started.banks]
    assert left_out
    assert sorted(left_out + there) == [f"bank-{number:02d}" for number in range(6)]
    assert list(finished.summary["banks"]) == there

    (tmp_path / "split.json").write_bytes((tmp_path / "run" / "split.json").read_bytes())
    again = [f"partition={{kind: file, path: {tmp_path / 'split.json'}}}", *skip[2:]]
    list(run_module.run(scenario, again, tmp_path / "again", inline=True))
    assert adapter_of(tmp_path / "run") == adapter_of(tmp_path / "again")

    with pytest.raises(DataError, match=r"gets .*rows"):  # control
        list(run_module.run(scenario, [skip[0], *skip[2:]], tmp_path / "refused", inline=True))


def adapter_of(run: Path) -> bytes:
    return (run / "adapters" / "global" / "adapter_model.safetensors").read_bytes()


SPEND = Spend(noise_multiplier=1.0, sample_rate=0.016, num_steps=200)


def test_f44_an_accountant_that_hangs_gives_way_to_rdp_under_its_own_name(tmp_path, monkeypatch) -> None:
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(prv, "__file__", str(hanging))
    bound = rdp_epsilon([SPEND], 1e-5)
    start = time.monotonic()
    assert prv_epsilon([SPEND], 1e-5, limit_s=0.5) == (bound, "rdp")
    assert time.monotonic() - start < 10
    with pytest.raises(subprocess.TimeoutExpired):  # control: without the limit's answer there is none
        subprocess.run([sys.executable, str(hanging)], timeout=0.5, check=True)
