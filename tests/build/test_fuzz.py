"""Whatever stands in a file or after --set: a scenario, or problems with their places, and nothing else."""

from __future__ import annotations

import random
import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.build.load import check, load_scenario
from fedsim.core.errors import ScenarioError
from tests.build.fake import FAMILIES
from tests.build.test_load import WHOLE

VALUES = [
    "",
    "~",
    "true",
    "no",
    "-1",
    "0",
    "1e400",
    ".nan",
    "010",
    "'8'",
    "[]",
    "{}",
    "[[1]]",
    "{kind: x}",
    "*a",
    "!!str x",
]
VALUES += [
    "{kind: 3}",
    "a: b",
    "\t",
    "'",
    '"\\0"',
    "x" * 300,
    "9" * 401,
    "9" * 399,
    "../../etc",
    "os:system",
    "é",
    "\u2028",
]


def mutated(seed: int) -> bytes:
    """The whole scenario with one to three things wrong: dropped, repeated, renamed, retyped, cut or flipped."""
    rng = random.Random(seed)
    text = WHOLE
    for _ in range(rng.randint(1, 3)):
        lines = text.splitlines(keepends=True) or ["\n"]
        place = rng.randrange(len(lines))
        action = rng.randrange(7)
        if action == 0:
            del lines[place]
        elif action == 1:
            lines.insert(rng.randrange(len(lines)), lines[place])
        elif action == 2:
            lines[place] = re.sub(r"(\w)(\w*):", rf"\g<2>{rng.choice('xyz-.')}:", lines[place], count=1)
        elif action == 3:
            lines[place] = re.sub(r": *[^:,}\n]+", lambda _: f": {rng.choice(VALUES)}", lines[place], count=1)
        elif action == 4:
            lines[place] = "  " + lines[place]
        elif action == 5:
            lines[place] = lines[place][: rng.randrange(len(lines[place]))]
        else:
            lines[place] = lines[place].replace(rng.choice("abcdeiou:,{}[]"), rng.choice("ab:{}[]#&*!|>'\"%@`\n\t"), 1)
        text = "".join(lines)
    body = bytearray(text.encode())
    if body and rng.random() < 0.2:
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_mutated_file_gives_problems_with_places_and_nothing_else(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(mutated(seed))
    for problem in check([path], FAMILIES):
        assert re.fullmatch(rf"{re.escape(str(path))}:\d+:\d+", problem.where)
        assert problem.exit_code in (2, 4, 8)
        assert problem.message
        assert "\n" not in str(problem)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab:{}[]-#&*!|>'\"%@`\n\t ,?.0189\\uU\u00e9\u0085\ufeff\x00"), max_size=40))
def test_any_text_gives_problems_and_nothing_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(text.encode())
    assert all(problem.where.startswith(f"{path}:") for problem in check([path], FAMILIES))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        ["num_rounds", "lora.r", "upload[0].kind", "upload.9", "data.path", "model", "a.b.c", "privacy-x", "", "x..y"]
    ),
    st.sampled_from(VALUES),
)
def test_any_override_gives_a_scenario_or_problems(tmp_path: Path, path: str, value: str) -> None:
    file = tmp_path / "fuzz.yaml"
    file.write_text(WHOLE)
    assert all(where.startswith(("--set #1", f"{file}:")) for where in places_of_problems(file, f"{path}={value}"))


def places_of_problems(file: Path, assignment: str) -> list[str]:
    try:
        load_scenario(file, [assignment], FAMILIES)
    except ScenarioError as error:
        return [problem.where for problem in error.problems]
    return []
