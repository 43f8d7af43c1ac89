"""Placing actors is arithmetic, and a shortage is told with its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.core.errors import ResourceError
from fedsim.engine.resources import Actors, Node, cohorts, place, usable_cpus

LAPTOP, GPU_BOX = Node(cpus=4, gpus=0), Node(cpus=8, gpus=1)


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "room"),
    [
        (Node(4, 0), 1, 0, 4),
        (Node(4, 0), 1.5, 0, 2),
        (Node(0.3, 0), 0.1, 0, 3),  # 0.3 / 0.1 is 2.999... in floats
        (Node(8, 2), 1, 0.6, 2),  # two GPUs hold one each: 0.4 + 0.4 is no place
        (Node(8, 2), 1, 0.5, 4),
        (Node(8, 2), 1, 2, 1),
        (Node(2, 4), 1, 0.25, 2),
        (Node(4, 0), 1, 0.25, 0),
    ],
)
def test_room_on_a_node(node: Node, cpus: float, gpus: float, room: int) -> None:
    assert node.room(cpus, gpus) == room


@pytest.mark.parametrize(
    ("actors", "cohort", "nodes", "number"),
    [
        (Actors(), 12, [LAPTOP], 2),  # "auto" makes two cohorts: a third actor would only wait
        (Actors(banks_per_actor=1), 12, [LAPTOP], 4),
        (Actors(), 100, [LAPTOP], 4),
        (Actors(banks_per_actor=4), 12, [LAPTOP], 3),
        (Actors(gpus=0.25, banks_per_actor=1), 12, [LAPTOP, GPU_BOX], 4),
        (Actors(num_actors=2), 12, [LAPTOP], 2),
    ],
)
def test_number_of_actors(actors: Actors, cohort: int, nodes: list[Node], number: int) -> None:
    assert place(actors, cohort, nodes).num_actors == number


@pytest.mark.parametrize(
    ("actors", "nodes", "message"),
    [
        (
            Actors(num_actors=4, gpus=0.5),
            [GPU_BOX],
            "need 4 x 0.5 GPU = 2, cluster has 1; lower resources.gpus_per_client or resources.num_actors",
        ),
        (
            Actors(gpus=1),
            [LAPTOP],
            "need 1 x 1 GPU = 1, cluster has 0; lower resources.gpus_per_client",
        ),
        (
            Actors(num_actors=3, cpus=2),
            [LAPTOP],
            "need 3 x 2 CPU = 6, cluster has 4; lower resources.cpus_per_client or resources.num_actors",
        ),
        (
            Actors(num_actors=3, gpus=0.6, cpus=1),
            [Node(8, 2)],
            "need 3 actors of 0.6 GPU and 1 CPU, but the nodes and GPUs are cut so that 2 fit; "
            "lower resources.gpus_per_client or resources.cpus_per_client or resources.num_actors",
        ),
    ],
)
def test_a_shortage_is_refused_with_the_arithmetic(actors: Actors, nodes: list[Node], message: str) -> None:
    with pytest.raises(ResourceError) as caught:
        place(actors, 12, nodes)
    assert str(caught.value) == message
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("jobs", "actors", "sizes"),
    [
        (5, Actors(num_actors=2), [2, 3]),
        (5, Actors(num_actors=8), [2, 3]),  # the cut does not follow the number of actors
        (1, Actors(num_actors=8), [1]),
        (70, Actors(num_actors=1), [14, 14, 14, 14, 14]),
        (10, Actors(num_actors=2, banks_per_actor=4), [3, 3, 4]),
        (10, Actors(num_actors=7, banks_per_actor=4), [3, 3, 4]),
        (3, Actors(num_actors=1, banks_per_actor=1), [1, 1, 1]),
        (0, Actors(num_actors=2), []),
    ],
)
def test_cohorts_are_contiguous_and_even(jobs: int, actors: Actors, sizes: list[int]) -> None:
    groups = cohorts(jobs, actors)
    assert [len(group) for group in groups] == sizes
    assert [index for group in groups for index in group] == list(range(jobs))


@pytest.mark.parametrize(("text", "most"), [("50000 100000\n", 1), ("max 100000\n", 10_000), (None, 10_000)])
def test_a_container_limit_counts(tmp_path: Path, text: str | None, most: int) -> None:
    limit = tmp_path / "cpu.max"
    if text is not None:
        limit.write_text(text)
    assert 1 <= usable_cpus(limit) <= most
