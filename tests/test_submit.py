"""``fedsim submit``: the command, what travels, and what is refused because no node could find it."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.submit import submission

SCENARIO = "num_rounds: 3\nnum_clients: 4\ndata: {kind: loan_book, num_banks: 4}\nmodel: {kind: embedded}\n"
TABLE = "num_rounds: 3\nnum_clients: 4\ndata: {kind: table, path: loans.csv}\nmodel: {kind: hf, id: base}\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a scenario, results and data in it."""
    for name in ("scenarios/a [1].yaml", "scenarios/other.yaml", "results/runs/x/rounds.jsonl", "loans.csv", "key"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SCENARIO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_is_the_job(root: Path) -> None:
    job = submission(Path("scenarios/a [1].yaml"), ["seed=3", "name=i"], Path("/shared/runs/a b"))
    words = shlex.split(job.command("http://head:8265"))
    given = dict(zip(words[4:12:2], words[5:13:2], strict=True))
    assert words[:4] == ["ray", "job", "submit", "--no-wait"]
    assert given["--address"] == "http://head:8265"
    assert given["--submission-id"] == job.id
    assert given["--working-dir"] == str(root)
    assert json.loads(given["--metadata-json"]) == dict(job.metadata)
    assert shlex.join(words[words.index("--") + 1 :]) == job.entrypoint
    run = ["fedsim", "run", "scenarios/a [1].yaml", "--out", "/shared/runs/a b", "--resume", "auto", "--check-nodes"]
    assert shlex.split(job.entrypoint) == [*run, "--set", "seed=3", "--set", "name=i"]


def test_ray_s_own_command_line_makes_the_same_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner
    from ray.dashboard.modules.job import cli

    sent = {}

    class Client:
        def submit_job(self, **given: object) -> str:
            sent.update(given)
            return "id"

        def get_version(self) -> str:
            return "4"

    monkeypatch.setattr(cli, "_get_sdk_client", lambda *_, **__: Client())
    job = submission(Path("scenarios/a [1].yaml"), ["name=a"], Path("/shared/a"))
    done = CliRunner().invoke(cli.submit, shlex.split(job.command())[3:])
    assert done.exit_code == 0, done.output
    assert (sent["entrypoint"], sent["submission_id"], sent["metadata"]) == (job.entrypoint, job.id, job.metadata)
    assert sent["runtime_env"] == {"working_dir": str(root), "excludes": list(job.excludes)}


@pytest.mark.parametrize("name", ["scenarios/a [1].yaml", "deep/er/#b !.yaml", "top.yaml"])
def test_only_the_scenario_travels(root: Path, name: str) -> None:
    from ray._private.runtime_env.packaging import create_package

    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(SCENARIO)
    job = submission(Path(name), ["name=a"], Path("/shared/a"))
    create_package(job.working_dir, root / "sent.zip", include_gitignore=True, excludes=list(job.excludes))
    with zipfile.ZipFile(root / "sent.zip") as archive:
        assert [entry for entry in archive.namelist() if not entry.endswith("/")] == [name]


def test_a_file_elsewhere_is_sent_from_its_own_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "b.yaml").write_text(SCENARIO)
    job = submission(folder / "b.yaml", [], Path("/shared/a"))
    assert job.working_dir == str(folder)
    assert shlex.split(job.entrypoint)[2] == "b.yaml"


def test_the_name_holds_the_digest_and_the_attempt(root: Path) -> None:
    def name(changes: list[str], attempt: int = 1) -> str:
        return submission(Path("scenarios/a [1].yaml"), ["name=a", *changes], Path("/shared/a"), attempt).id

    assert name([]) == name(["num_rounds=3"])
    assert name([]) != name(["num_rounds=4"])
    assert name([], 2) == f"{name([])}-2"
    assert name([]).startswith("a-")


def test_a_grid_is_one_job(root: Path) -> None:
    Path("grid.yaml").write_text(SCENARIO + "vary: {seed: [1, 2]}\n")
    assert submission(Path("grid.yaml"), [], Path("/shared/a")).id.startswith("grid-")


def test_what_only_this_machine_can_find_is_refused_with_its_place(root: Path) -> None:
    Path("t.yaml").write_text(TABLE)
    Path("base").mkdir()
    with pytest.raises(ScenarioError) as caught:
        submission(Path("t.yaml"), [], Path("runs/a"))
    assert str(caught.value).splitlines() == [
        "t.yaml:3:21: data.path: 'loans.csv' is a place on this machine, and only the scenario file is sent; "
        "name an absolute path that every node has, e.g. --set data.path=/shared/loans.csv",
        "t.yaml:4:19: model.id: 'base' is a place on this machine, and only the scenario file is sent; "
        "name an absolute path that every node has, e.g. --set model.id=/shared/base",
        "--out: must be an absolute path that every node of the cluster has (got 'runs/a')",
    ]
    changes = ["data.path=/shared/loans.csv", "model.id=/shared/base"]
    assert submission(Path("t.yaml"), changes, Path("/shared/a")).id


def test_a_hub_name_is_no_path(root: Path) -> None:
    Path("t.yaml").write_text(TABLE.replace("loans.csv", "/shared/loans.csv").replace("id: base", "id: org/base"))
    assert submission(Path("t.yaml"), [], Path("/shared/a")).id
