"""What every node must have is looked for on every node, and the one that lacks it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.core.errors import ResourceError
from fedsim.engine import nodes
from fedsim.engine.nodes import require_everywhere


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """A data file of five bytes and a model folder."""
    (tmp_path / "loans.csv").write_text("a,b\n1")
    (tmp_path / "base").mkdir()
    return {"data.path": str(tmp_path / "loans.csv"), "model.id": str(tmp_path / "base")}


def pretend(monkeypatch: pytest.MonkeyPatch, **changes: int | None) -> None:
    """A cluster of two nodes; the second sees other sizes of the paths that end so (``mark``: the marked folder)."""

    def everywhere(asked: list[str]):
        here = {path: nodes._size(path) for path in asked}
        there = dict(here)
        for path in asked:
            for end, size in changes.items():
                if end in path or (end == "mark" and ".fedsim-seen" in path):
                    there[path] = size
        yield "10.0.0.1", here
        yield "10.0.0.2", there

    monkeypatch.setattr(nodes, "_everywhere", everywhere)


def test_all_nodes_alike(paths, tmp_path, monkeypatch) -> None:
    pretend(monkeypatch)
    require_everywhere(paths, tmp_path / "runs" / "a")
    assert not list(tmp_path.glob(".fedsim-seen*"))


@pytest.mark.parametrize(
    ("changes", "message", "key"),
    [
        ({"loans": None}, "loans.csv is missing on node 10.0.0.2; give every node the same files", "data.path"),
        ({"loans": 7}, "loans.csv has 7 bytes on node 10.0.0.2, here it has 5; give every node the same", "data.path"),
        ({"base": None}, "base is missing on node 10.0.0.2; give every node the same files", "model.id"),
        ({"mark": None}, "node 10.0.0.2 does not see the folder .* of this node; share it, or run on one", ""),
    ],
)
def test_the_node_is_named(paths, tmp_path, monkeypatch, changes, message, key) -> None:
    pretend(monkeypatch, **changes)
    with pytest.raises(ResourceError, match=message) as caught:
        require_everywhere(paths, tmp_path / "runs" / "a")
    assert caught.value.key == key
    assert not list(tmp_path.glob(".fedsim-seen*"))


def test_a_place_that_cannot_be_written_is_refused(paths, monkeypatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(ResourceError, match=r"cannot write to /proc: .*; choose another --out"):
        require_everywhere(paths, Path("/proc/fedsim/a"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_real_cluster_is_asked(paths, tmp_path) -> None:
    require_everywhere(paths, tmp_path)
    (_, sizes), *others = nodes._everywhere([paths["data.path"], str(tmp_path / "nowhere")])
    assert (sizes, others) == ({paths["data.path"]: 5, str(tmp_path / "nowhere"): None}, [])
