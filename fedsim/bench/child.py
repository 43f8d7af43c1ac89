"""One contender in a process of its own: ``python -m fedsim.bench.child ours|bare SCENARIO OUT``.

OUT is a folder: ``times.json`` holds the Unix time of the start and the end of every round, ``adapter.safetensors`` the
global adapter before the first and after the last round, as vectors.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any


def _ours(file: Path, out: Path) -> Iterator[object]:
    """The adapter, or None where a round ended without showing it."""
    from fedsim.build.run import run
    from fedsim.core.adapter import flatten
    from fedsim.core.events import RoundRow, Served

    with closing(run(file, out=out / "run")) as events:
        for event in events:
            if isinstance(event, RoundRow):
                yield None
            elif isinstance(event, Served) and event.bank is None:
                yield flatten(event.adapter.tensors)


def _bare(file: Path) -> Iterator[object]:
    from fedsim.bench.bare import rounds
    from fedsim.engine.resources import usable_cpus

    yield from rounds(file, usable_cpus())


def main() -> None:
    which, file, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    times: list[float] = []
    seen: list[Any] = []  # tensors
    for adapter in _ours(file, out) if which == "ours" else _bare(file):
        if adapter is None or which == "bare":
            times.append(time.time())
        if adapter is not None:
            seen.append(adapter)
    from safetensors.torch import save_file

    save_file({"first": seen[0].clone(), "last": seen[-1].clone()}, out / "adapter.safetensors")
    (out / "times.json").write_text(json.dumps(times), encoding="utf-8")


if __name__ == "__main__":
    main()
