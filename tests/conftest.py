"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedsim.engine.cluster import Cluster
from fedsim.engine.resources import Actors
from tests.calling import Command


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads that wait for a core which others use make the tiny products of tests many times slower.

    Of every test anew: trainers set their own number.
    """
    torch.set_num_threads(1)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, in a folder with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, which is not part of the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data sets of shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Actors]:
    """The one Ray instance of a test session, with room for two small actors beside each other."""
    root = Path(__file__).resolve().parents[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
        wanted = Actors(num_actors=2, cpus=0.25)
        with Cluster(wanted) as cluster:
            yield cluster.wait(wanted, cohort=2)
