"""``--data-root``: nothing outside is read, by whatever way a scenario names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.build.load import load_grid
from fedsim.build.roots import problems, require_inside
from fedsim.build.run import resume
from fedsim.core.errors import DataError, ScenarioError

SCENARIO = "num_rounds: 1\nnum_clients: 2\ndata: {{kind: table, path: {path}}}\nmodel: {{kind: {model}}}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, a model folder, and links of both kinds that lead out of it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "base", root / "linked", outside):
        folder.mkdir(parents=True)
    for file in (root / "a.csv", root / "base" / "config.json", outside / "secret.csv", tmp_path / "rootless.csv"):
        file.write_text("x")
    (root / "link.csv").symlink_to(outside / "secret.csv")
    (root / "inside.csv").symlink_to(root / "a.csv")
    (root / "linked" / "config.json").symlink_to(outside / "secret.csv")
    return root


def check(root: Path, path: str, model: str = "embedded", *changes: str) -> str:
    file = root / "s.yaml"
    file.write_text(SCENARIO.format(path=path, model=model))
    try:
        require_inside(load_grid(file, changes), [root])
    except ScenarioError as error:
        return f"{error.exit_code} {error}".replace(str(root.parent), "")
    return ""


@pytest.mark.parametrize("path", ["a.csv", "./linked/../a.csv", "inside.csv", "missing.csv", "a*.csv"])
def test_inside(root: Path, path: str) -> None:
    assert check(root, path) == ""


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("../outside/secret.csv", "/outside/secret.csv"),
        ("../rootless.csv", "/rootless.csv"),  # its name begins as the root's
        ("link.csv", "/root/link.csv"),
        ("l*.csv", "/root/link.csv"),
        ("../outside/*.csv", "/outside/*.csv"),
    ],
)
def test_outside(root: Path, path: str, file: str) -> None:
    said = check(root, path)
    assert said.startswith(f"8 /root/s.yaml:3:21: data.path: {file} resolves to /")
    assert said.endswith(", outside the data roots (/root)")


def test_a_model_folder_and_what_is_in_it(root: Path) -> None:
    assert check(root, "a.csv", "hf, id: base") == ""
    assert "/root/s.yaml:4:19: model.id: /root/linked/config.json resolves to" in check(root, "a.csv", "hf, id: linked")
    assert check(root, "a.csv", "hf, id: org/name") == ""  # the Hub's


def test_a_noise_key(root: Path) -> None:
    privacy = "privacy={kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-5, noise: secure, noise_key: /etc/hostname}"
    assert "--set #1: privacy.noise_key: /etc/hostname resolves to" in check(root, "a.csv", "embedded", privacy)


def test_without_roots_nothing_is_refused(root: Path) -> None:
    (root / "s.yaml").write_text(SCENARIO.format(path="../outside/secret.csv", model="embedded"))
    runs = load_grid(root / "s.yaml")
    assert list(problems(runs, [root]))
    assert list(problems(runs, [])) == []


def test_a_run_that_goes_on_is_asked_too(root: Path) -> None:
    """Its scenario may have been written, or changed, by somebody else."""
    run = root / "run"
    run.mkdir()
    (run / "scenario.yaml").write_text(SCENARIO.format(path=root.parent / "outside" / "secret.csv", model="embedded"))
    with pytest.raises(ScenarioError, match="outside the data roots") as caught:
        list(resume(run, data_roots=[root]))
    assert caught.value.exit_code == 8
    with pytest.raises(DataError):  # control: the file is read, and is no table
        list(resume(run))
