"""Rounds whose checksums are right and whose content is not of a round: edited by hand and signed again, or by a bug.

``test_rounds`` damages files, which their checksums tell; here nothing does but reading them. Whatever a file holds, it
is used or refused by name in one line, and nothing is allocated by a size that it claims.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import pytest
import torch

import fedsim
from fedsim.core.errors import CheckpointError, FedsimError
from fedsim.core.events import Started
from fedsim.core.messages import ServerState
from fedsim.engine.checkpoint import STATE, files_of, pack_tensors, saved_from, unpack_tensors
from fedsim.engine.transport import Link
from fedsim.records.lock import acquire, release
from fedsim.records.rounds import MANIFEST
from fedsim.records.wal import Log
from tests.calling import Command
from tests.engine.test_checkpoint import state
from tests.faults import toys
from tests.fuzz.conftest import seeds
from tests.fuzz.contents import (
    DAMAGES,
    Damage,
    Files,
    claims,
    edits,
    lengths,
    other_tensors,
    other_values,
    texts,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:Casting complex")  # numbers of no run


def whole() -> dict[str, bytes]:
    """The files of a round: frozen adapters, slots of three types, a lossy download's residual, what one bank keeps."""
    links = {
        bank.name: Link({"adapter/q.A": bytes(16)}, {"adapter/q.A": torch.ones(2, 3)}, {"q.A": torch.zeros(2, 3)})
        for bank in state().banks
    }
    return dict(files_of(state(), links, [(1, pack_tensors({"own": torch.ones(2)}))]))


NAMES = tuple(whole())


# ---------------------------------------------------------------------------------------------------------- reading


def examine(files: Files) -> str:
    """Read the files of a round as a resume does."""
    refusal = ""
    try:
        saved = saved_from(files)
    except CheckpointError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert refusal.startswith((*files, *NAMES))
        return "refused"
    require_well_typed(saved.state)
    assert set(saved.kept) | set(saved.links) <= {bank.name for bank in saved.state.banks}
    assert all(unpack_tensors(data) is not None for data in saved.kept.values())
    again = dict(files_of(saved.state, saved.links, ((1, data) for data in saved.kept.values())))
    assert files_equal(saved_from(again).state, saved.state), "what is used can be written and read again"
    return "used"


def require_well_typed(found: ServerState) -> None:
    assert type(found.round) is int
    for adapter in (found.adapter, *found.frozen):
        assert (type(adapter.rank), type(adapter.scaling)) == (int, float)
        assert all(tensor.dtype == torch.float32 for tensor in adapter.tensors.values())


def files_equal(left: ServerState, right: ServerState) -> bool:
    return dict(files_of(left, {}, [])) == dict(files_of(right, {}, []))


def peak_bytes() -> int:
    """The most address space that this process ever had: also what was asked for and never touched."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return 1024 * int(line.split()[1])


def test_what_is_whole_is_used() -> None:
    assert examine(whole()) == "used"


@pytest.mark.parametrize("damage", DAMAGES)
def test_some_of_each_damage(damage: Damage) -> None:
    cases = list(damage(whole()))
    for files in Random(3).sample(cases, min(len(cases), 300)):
        examine(files)


def test_nothing_is_allocated_by_a_size_that_is_claimed() -> None:
    before = peak_bytes()
    for files in itertools.chain(claims(whole()), lengths(whole())):
        examine(files)
    assert peak_bytes() - before < 2**26
    torch.empty(2**30)  # 4 GB, of which nothing is touched: the control
    assert peak_bytes() - before > 2**31


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("damage", DAMAGES)
def test_all_of_each_damage(damage: Damage, fuzz_report) -> None:
    with fuzz_report(f"a round's files: {damage.__name__}") as counts:
        for files in damage(whole()):
            counts[examine(files)] += 1
    assert counts["refused"]


# ------------------------------------------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy's directory after three of four rounds, left in good order."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    toys.run(toys.plan(folder, 3))
    release(acquire(folder, steal=True))
    return folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that it becomes when nothing happens."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    toys.run(toys.plan(folder, 4))
    return folder


def newest(run: Path) -> dict[str, bytes]:
    (place,) = run.glob("rounds/000003")
    return {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.name != MANIFEST}


def sign(run: Path, files: Files) -> None:
    """Make these the files of the newest round, as whoever may write to the directory can."""
    place, head, journal = run / "rounds" / "000003", run / "HEAD", run / "journal.wal"
    before = (place / MANIFEST).read_bytes()
    manifest = json.loads(before)
    for name in manifest["files"]:
        (place / name).unlink()
    for name, data in files.items():
        (place / name).write_bytes(data)
    listed = {name: {"size": len(data), "sha256": sha256(data)} for name, data in files.items()}
    after = json.dumps({**manifest, "files": listed}).encode()
    (place / MANIFEST).write_bytes(after)
    head.write_text(head.read_text().replace(sha256(before), sha256(after)))
    records = Log(journal, CheckpointError).records
    journal.unlink()
    again = Log(journal, CheckpointError)
    for record in records:
        again.append(json.loads(json.dumps(record).replace(sha256(before), sha256(after))))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gone_on(stopped: Path, run: Path, files: Files) -> str:
    """How a run ends whose newest round holds these files."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(stopped, run)
    sign(run, files)
    try:
        toys.run(toys.plan(run, 4))
    except FedsimError as error:
        refusal, code = str(error), error.exit_code
    else:
        return "used"
    assert "\n" not in refusal
    assert code == CheckpointError.exit_code, refusal
    assert str(run) in refusal
    assert "begin again in another directory" in refusal
    return "exit 6"


def test_a_round_that_is_signed_again_is_used(stopped: Path, tmp_path: Path) -> None:
    assert gone_on(stopped, tmp_path / "run", newest(stopped)) == "used"
    assert json.loads((tmp_path / "run" / "HEAD").read_text())["round"] == 4


def test_the_remedy_that_is_named_is_one(stopped: Path, ended: Path, tmp_path: Path) -> None:
    """Without the round that cannot be used the run comes to the bits of one in which nothing happened."""
    run = tmp_path / "run"
    assert gone_on(stopped, run, {**newest(stopped), STATE: b"{}"}) == "exit 6"
    with pytest.raises(CheckpointError, match=f"remove {run}/rounds/000003 to go on from the round before"):
        toys.run(toys.plan(run, 4))
    shutil.rmtree(run / "rounds" / "000003")
    toys.run(toys.plan(run, 4))
    assert toys.hashes(run) == toys.hashes(ended)
    assert toys.charged(run) == toys.charged(ended)


def test_what_a_bank_keeps_is_refused_by_name_before_it_is_used(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = newest(stopped)
    for name in files:
        if name.startswith("kept-"):
            files[name] = pack_tensors({**unpack_tensors(files[name]), "codec/q.A": torch.zeros(7)})
    refusal = (
        r"run: round 3 is not of this run: what bank 'east' keeps: codec/q\.A has shape \(7,\) and type "
        r"torch\.float32, expected shape \(2, 3\) and type torch\.float32; .* or begin again in another directory$"
    )
    assert gone_on(stopped, tmp_path / "run", files) == "exit 6"
    with pytest.raises(CheckpointError, match=refusal):
        toys.run(toys.plan(tmp_path / "run", 4))
    monkeypatch.setattr("fedsim.engine.driver.require_kept_fits", lambda *_: None)
    with pytest.raises(FedsimError, match=r"round 4, bank") as failed:  # the control
        toys.run(toys.plan(tmp_path / "run", 4))
    assert failed.value.exit_code == 70


@pytest.mark.parametrize("part", ["received", "residual"])
def test_what_a_bank_received_is_refused_by_name(stopped: Path, tmp_path: Path, part: str) -> None:
    """Under the name of its own content, as who writes the file by fedsim's own means has it."""
    files = newest(stopped)
    saved = saved_from(files)
    links = dict(saved.links)
    for bank, link in links.items():
        received, residual = ({n: t[:, :1] for n, t in held.items()} for held in (link.received, link.residual))
        links[bank] = Link(link.digests, received, residual if part == "residual" else {})
    kept = {name: data for name, data in files.items() if name.startswith("kept-")}
    spoilt = {**dict(files_of(saved.state, links, [])), **kept}
    assert gone_on(stopped, tmp_path / "run", spoilt) == "exit 6"
    with pytest.raises(CheckpointError, match=r"what bank 'east' received: q\.A has shape \(2, 1\), expected \(2, 3\)"):
        toys.run(toys.plan(tmp_path / "run", 4))


def test_runs_go_on_from_some_rounds_that_are_signed_again(stopped: Path, tmp_path: Path) -> None:
    cases = [*other_tensors(newest(stopped)), *other_values(newest(stopped))]
    for files in Random(2).sample(cases, 25):
        gone_on(stopped, tmp_path / "run", files)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("damage", [other_tensors, *DAMAGES])
def test_runs_go_on_from_many_rounds_that_are_signed_again(
    damage: Damage, stopped: Path, tmp_path: Path, fuzz_report
) -> None:
    cases = list(damage(newest(stopped)))
    Random(1).shuffle(cases)
    with fuzz_report(f"a toy's newest round, signed again: {damage.__name__}") as counts:
        for _, files in zip(seeds(len(cases)), cases, strict=False):
            counts[gone_on(stopped, tmp_path / "run", files)] += 1
    assert counts["exit 6"]


# ------------------------------------------------------------------------------------------- what says which round


def around(run: Path) -> Iterator[dict[str, bytes | None]]:
    """New contents of HEAD, of LOCK, and of the newest manifest where HEAD is gone, which would vouch for it."""
    manifest = f"rounds/000003/{MANIFEST}"
    for name, others in (("HEAD", {}), (manifest, {"HEAD": None}), ("LOCK", {})):
        text = (run / name).read_bytes()
        yield from ({**others, name: json.dumps(changed).encode()} for changed in edits(json.loads(text), ()))
        yield from ({**others, name: other} for other in texts(text))


def taken_up(stopped: Path, ended: Path, run: Path, files: Mapping[str, bytes | None]) -> str:
    """How a run goes on whose directory holds these files: to its own bits, if it does."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(stopped, run)
    for name, data in files.items():
        if data is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(data)
    return toys.gone_on(run, ended, 4)


def test_runs_go_on_after_some_other_heads_and_locks(stopped: Path, ended: Path, tmp_path: Path) -> None:
    for files in Random(6).sample(list(around(stopped)), 30):
        taken_up(stopped, ended, tmp_path / "run", files)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs_go_on_after_all_other_heads_and_locks(stopped: Path, ended: Path, tmp_path: Path, fuzz_report) -> None:
    cases = list(around(stopped))
    Random(1).shuffle(cases)
    with fuzz_report("a toy's HEAD, MANIFEST.json without HEAD, LOCK") as counts:
        for _, files in zip(seeds(len(cases)), cases, strict=False):
            counts[taken_up(stopped, ended, tmp_path / "run", files)] += 1
    assert counts["exit 6"]
    assert counts["same bits"]


def test_a_manifest_reads_no_file_outside_its_round(stopped: Path, tmp_path: Path) -> None:
    """It lists one that the folder has, too: the name alone would do."""
    shutil.copytree(stopped, tmp_path / "run")
    (tmp_path / "secret").write_bytes(b"x")
    place = tmp_path / "run" / "rounds" / "000003"
    (place / "secret").write_bytes(b"x")
    manifest = json.loads((place / MANIFEST).read_text())
    entry = {"size": 1, "sha256": sha256(b"x")}
    manifest["files"] |= {"secret": entry, f"{tmp_path}/secret": entry}
    (place / MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / "run" / "HEAD").unlink()
    started = toys.run(toys.plan(tmp_path / "run", 4))[0]
    assert isinstance(started, Started)
    assert any(f"{tmp_path}/secret is missing; going back to round 2" in note for note in started.notes)


# ------------------------------------------------------------------------------------------------- the whole command

SCENARIO = """\
num_rounds: 3
seed: 5
data: {kind: loan_book, num_banks: 2, rows_per_bank: 30}
partition: {kind: by_column, column: bank}
model: {kind: embedded}
lora: {r: 2, target_modules: [q_proj]}
train: {local_steps: 1, batch_size: 4}
privacy: {kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-4}
strategy: {kind: fedsa_lora}
upload: [{kind: topk, density: 0.5, error_feedback: true}]
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_says_what_is_wrong_with_a_round(command: Command, fuzz_report) -> None:
    """Tensors of a round that the model does not have, or has in another shape."""
    Path("s.yaml").write_text(SCENARIO)
    fedsim.run("s.yaml", out="stopped", inline=True)
    cases = [*other_tensors(newest(Path("stopped"))), {**newest(Path("stopped")), STATE: b"[" * 100_000}]
    with fuzz_report("`fedsim resume`, a newest round that is signed again") as counts:
        for _, files in zip(seeds(len(cases)), Random(4).sample(cases, len(cases)), strict=False):
            shutil.rmtree("run", ignore_errors=True)
            shutil.copytree("stopped", "run")
            sign(Path("run"), files)
            answer = command("resume", "run", "--set", "num_rounds=4", "--inline", "--quiet")
            assert answer.code in (0, 6), answer
            assert not answer.code or (answer.err.count("\n"), answer.out) == (1, ""), answer
            counts[f"exit {answer.code}"] += 1
    assert counts["exit 6"]
