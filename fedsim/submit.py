"""A run as a job of a Ray cluster: the command that sends it, or the sending.

Of all files only the scenario's own travels. Data, base model and run directory lie at absolute paths that every node
has; ``--check-nodes`` makes the run look before it starts. A scenario that was sent once is not sent again by mistake:
the job's name holds the scenario's digest, and Ray refuses a name twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fedsim.build.load import GridRun, load_grid
from fedsim.core.errors import Problem, ScenarioError
from fedsim.core.scenario import PATH_KNOBS


@dataclass(frozen=True, slots=True)
class Submission:
    """What ``ray job submit`` is given."""

    id: str
    entrypoint: str  # a line for a shell
    working_dir: str
    excludes: tuple[str, ...]  # patterns as in .gitignore
    metadata: Mapping[str, str]

    def command(self, address: str | None = None) -> str:
        """The same as a line for a shell. Without an address Ray looks at RAY_API_SERVER_ADDRESS and RAY_ADDRESS."""
        words = ["ray", "job", "submit", "--no-wait"]
        words += ["--address", address] if address else []
        words += ["--submission-id", self.id, "--metadata-json", json.dumps(self.metadata)]
        words += ["--working-dir", self.working_dir, "--runtime-env-json", json.dumps({"excludes": self.excludes})]
        return shlex.join([*words, "--", *shlex.split(self.entrypoint)])


def submission(file: Path, changes: Sequence[str], out: Path, attempt: int = 1, steal_lock: bool = False) -> Submission:
    """The job that runs a scenario file with ``key=value`` changes into ``out``, a directory that all nodes share.

    An attempt above 1 goes on with what an earlier one left; ``steal_lock`` where that ran on a head that is gone.
    ScenarioError with every problem of the file, and for paths that no node can find.
    """
    runs = load_grid(file, changes)
    problems = [problem for run in runs for problem in _local_paths(run)]
    if not PurePosixPath(out).is_absolute():
        message = f"must be an absolute path that every node of the cluster has (got {str(out)!r})"
        problems.append(Problem("--out", "", message))
    if problems:
        raise ScenarioError(dict.fromkeys(problems))
    digest = hashlib.sha256("".join(run.scenario.digest() for run in runs).encode()).hexdigest()
    root, inside = _root(file)
    words = ["fedsim", "run", inside.as_posix(), "--out", str(out), "--resume", "auto", "--check-nodes"]
    words += ["--steal-lock"] if steal_lock else []
    for change in changes:
        words += ["--set", change]
    name = runs[0].scenario.name
    return Submission(
        id=f"{name}-{digest[:8]}" + (f"-{attempt}" if attempt > 1 else ""),
        entrypoint=shlex.join(words),
        working_dir=str(root),
        excludes=tuple(_everything_but(inside)),
        metadata={"fedsim_scenario": name, "fedsim_digest": digest, "fedsim_out": str(out)},
    )


def send(job: Submission, address: str | None = None) -> None:
    """Do what the command does. ResourceError when the cluster cannot be reached or has had a job of this name."""
    from fedsim.engine.jobs import Jobs

    Jobs(address).submit(job.id, job.entrypoint, job.working_dir, job.excludes, job.metadata)


def _local_paths(run: GridRun) -> list[Problem]:
    """A problem for each file name that means something on this machine only."""
    problems = []
    for entry, knob in PATH_KNOBS:
        section = run.document.data.get(entry)
        written = section.get(knob) if isinstance(section, dict) else None
        resolved = getattr(run.scenario, entry).knobs.get(knob)
        if not isinstance(written, str) or os.path.isabs(written):
            continue
        if knob == "path" or resolved != written:  # an id that is no folder here is the Hub's
            message = (
                f"{written!r} is a place on this machine, and only the scenario file is sent; name an absolute path "
                f"that every node has, e.g. --set {entry}.{knob}=/shared/{Path(written).name}"
            )
            problems.append(run.document.problem((entry, knob), message))
    return problems


def _root(file: Path) -> tuple[Path, Path]:
    """(the folder that is sent, the scenario file inside it): the current one where the file lies in it."""
    file = Path(os.path.abspath(file))
    here = Path.cwd()
    root = here if file.is_relative_to(here) else file.parent
    return root, file.relative_to(root)


def _everything_but(inside: Path) -> list[str]:
    """Patterns that leave nothing of a folder but one file. The folder itself is asked for too, as ``.``."""
    patterns = ["/*", "!/."]
    for parent in list(reversed(inside.parents))[1:]:
        patterns += [f"!/{_literal(parent)}", f"/{_literal(parent)}/*"]
    return [*patterns, f"!/{_literal(inside)}"]


def _literal(path: Path) -> str:
    """Without a meaning for characters that are special in a pattern."""
    return "".join(f"\\{char}" if char in "\\*?[]!# " else char for char in path.as_posix())
