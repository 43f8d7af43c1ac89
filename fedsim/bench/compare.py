"""A workload by fedsim and by the bare loop, one after the other, and the ratio of the two."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.bench.measure import measure
from fedsim.bench.workloads import WORKLOADS, Workload, write
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from torch import Tensor

MOST_ERROR = 1e-4  # of the update, relative: float32 sums in another order over all rounds


def bench(name: str) -> dict[str, Any]:
    """Figures of fedsim on the workload, with those of the bare loop under ``bare`` and the ratio of their rates.

    FedsimError when the two adapters differ by more than rounding.
    """
    return compare(name, WORKLOADS[name])


def compare(name: str, workload: Workload) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = write(workload, Path(folder))
        bare, (start, reference) = _run("bare", name, workload, file)
        ours, (_, adapter) = _run("ours", name, workload, file)
    error = relative_error(adapter, start, reference)
    if not error <= MOST_ERROR:
        raise FedsimError(f"{name}: fedsim's adapter differs from the bare loop's by {error:.1e} of the update")
    ratio = ours["client_updates_per_s"] / bare["client_updates_per_s"]
    return {**ours, "rel_err": error, "ratio_to_bare": round(ratio, 2), "bare": bare}


def relative_error(adapter: Tensor, start: Tensor, reference: Tensor) -> float:
    """How far two adapters are apart, over how far training has moved the second."""
    return float((adapter - reference).norm() / (reference - start).norm())


def _run(which: str, name: str, workload: Workload, file: Path) -> tuple[dict[str, Any], tuple[Any, Any]]:
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        measured = measure([sys.executable, "-m", "fedsim.bench.child", which, str(file), folder])
        times = json.loads((Path(folder) / "times.json").read_text())
        ends = load_file(Path(folder) / "adapter.safetensors")
    rounds = [end - start for start, end in pairwise(times)]
    median, total = statistics.median(rounds), times[-1] - measured.start
    return {
        "framework": "fedsim" if which == "ours" else "bare loop, PEFT + Opacus",
        "workload": name,
        "total_s": round(total, 3),
        "startup_s": round(times[0] - measured.start, 3),
        "first_round_done_s": round(times[1] - measured.start, 3),
        "median_round_s": round(median, 4),
        "client_updates_per_s": round(workload.sampled / median, 1),
        "tokens_per_s": round(workload.tokens_per_round / median),
        "peak_rss_mb": round(measured.rss_mb),
        "peak_pss_mb": round(measured.pss_mb),
        "exit_s": round(measured.wall_s - total, 3),
        "cpu_s": round(measured.cpu_s, 1),
        "procs": measured.processes,
        "other_cores": round(measured.other_cores, 2),
    }, (ends["first"], ends["last"])


def as_text(figures: dict[str, Any]) -> str:
    """Both contenders side by side."""
    bare = figures["bare"]
    lines = [f"{figures['workload']:24s} {'fedsim':>12s} {'bare loop':>12s}"]
    lines += [f"{key:24s} {figures[key]:>12} {value:>12}" for key, value in bare.items() if not isinstance(value, str)]
    lines.append(f"ratio of client updates/s {figures['ratio_to_bare']:.2f}; relative error {figures['rel_err']:.1e}")
    return "\n".join(lines)
