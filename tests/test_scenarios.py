"""Every scenario that ships is a good one."""

from pathlib import Path

import pytest

from fedsim.build.load import check, load_grid

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "scenarios").rglob("*.yaml"))


def test_there_are_scenarios() -> None:
    assert ROOT / "scenarios" / "quickstart.yaml" in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_has_no_problem_and_loads(path: Path) -> None:
    assert check([path]) == []
    assert load_grid(path)
