"""``fedsim doctor``: can fedsim work here, and has a killed run left anything behind? Starts nothing."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from fedsim.core.errors import CheckpointError, ResourceError
from fedsim.engine import leftovers
from fedsim.engine.resources import usable_cpus
from fedsim.records.lock import LOCK, holder_of
from fedsim.records.record import RUNS
from fedsim.records.text import human_bytes

State = Literal["ok", "warn", "fail"]
GIB = 1 << 30
NEEDED = ("torch", "ray", "transformers", "peft", "bitsandbytes", "opacus", "dp-accounting", "safetensors")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer. ``remedy`` is empty where all is well."""

    name: str
    state: State
    found: str
    remedy: str = ""


def doctor(clean: bool = False, runs: Path | None = None) -> list[Finding]:
    """Everything that is looked at. ``clean`` ends the processes of killed runs and removes their folders.

    ``runs`` (default: results/runs) holds run directories. The lock of a killed run needs no cleaning: whoever goes on
    with the run takes it over.
    """
    return [finding for check in CHECKS for finding in check()] + [*_locks(runs or RUNS), *_leftovers(clean)]


def exit_code(findings: Sequence[Finding]) -> int:
    """That of a ResourceError where something must be mended before a run can go."""
    return ResourceError.exit_code if any(one.state == "fail" for one in findings) else 0


def as_text(findings: Sequence[Finding]) -> str:
    """A table, remedies under their lines."""
    width = max(len(one.name) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{one.state:<4}  {one.name:<{width}}  {one.found}")
        lines += [f"{'':<{width + 8}}-> {one.remedy}"] if one.remedy else []
    return "\n".join(lines)


def as_rows(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [asdict(one) for one in findings]


# ------------------------------------------------------------------------------------------------------------ checks


def _versions() -> Iterator[Finding]:
    found, missing = [f"python {platform.python_version()}"], []
    for package in NEEDED:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    remedy = f"pip install {' '.join(missing)}" if missing else ""
    yield Finding("versions", "fail" if missing else "ok", ", ".join(found), remedy)


def _cpus() -> Iterator[Finding]:
    cpus, threads = usable_cpus(), os.environ.get("OMP_NUM_THREADS")
    told = f"{cpus} usable of {os.cpu_count()}" + (f", OMP_NUM_THREADS {threads}" if threads else "")
    crowded = threads is not None and threads.isdigit() and int(threads) > cpus
    remedy = f"unset OMP_NUM_THREADS or set it to at most {cpus}" if crowded else ""
    yield Finding("cpus", "warn" if crowded else "ok", told, remedy)


def _memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available
    remedy = "end other programs, or lower resources.num_actors" if free < 2 * GIB else ""
    yield Finding("memory", "warn" if remedy else "ok", f"{human_bytes(free)} available", remedy)


def _shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Ray's object store lies there; where it does not fit, Ray uses the disk and is slow."""
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    remedy = "give the container more, e.g. docker run --shm-size=2g" if free < GIB else ""
    yield Finding("shared memory", "warn" if remedy else "ok", f"{human_bytes(free)} free in {folder}", remedy)


def _disk() -> Iterator[Finding]:
    places = {"disk of runs": RUNS, "disk of Ray": Path("/tmp")}
    for name, place in places.items():
        there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
        usage = shutil.disk_usage(there)
        full = usage.used / usage.total
        state: State = "fail" if full > 0.95 else "warn" if usage.free < GIB else "ok"
        remedy = "" if state == "ok" else "make room: above 95 % Ray refuses to spill, and checkpoints need space"
        yield Finding(name, state, f"{human_bytes(usage.free)} free ({full:.0%} used)", remedy)
        if not os.access(there, os.W_OK):
            yield Finding(name, "fail", f"{there} cannot be written", "give --out a folder that can")


def _home() -> Iterator[Finding]:
    home = Path.home()
    writable = os.access(home, os.W_OK)
    remedy = "" if writable else "set HOME to a folder that can be written: caches of models lie there"
    yield Finding("home", "ok" if writable else "warn", "writable" if writable else "cannot be written", remedy)


def _ray() -> Iterator[Finding]:
    address, mode = os.environ.get("RAY_ADDRESS"), os.environ.get("RAY_AUTH_MODE")
    told = f"joins RAY_ADDRESS {address}" if address else "a private session for each run"
    yield Finding("ray", "ok", f"{told}; RAY_AUTH_MODE {mode or 'not set'}")
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        open_ = stat.S_IMODE(token.stat().st_mode) & 0o077
        told = f"{token} can be read by others" if open_ else f"{token} is private"
        yield Finding("ray token", "warn" if open_ else "ok", told, f"chmod 600 {token}" if open_ else "")


def _devices() -> Iterator[Finding]:
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    told = ", ".join(f"{gpu.name} ({human_bytes(gpu.total_memory)})" for gpu in gpus)
    yield Finding("gpu", "ok", told or "none: everything runs on the CPU")
    able = bool(gpus) or "avx2" in _cpu_flags()
    told = "4-bit and 8-bit base models" if able else "no quantised base models: neither CUDA nor AVX2"
    yield Finding("quantisation", "ok" if able else "warn", told, "" if able else "use quant_bits: null")
    try:
        version("kernels")
    except PackageNotFoundError:
        return
    remedy = "pip uninstall kernels, or set HF_HUB_OFFLINE=1"
    yield Finding("kernels", "warn", "bitsandbytes would load native code from the Hub through this package", remedy)


def _cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str]:
    found = re.search(r"^flags\s*: (.*)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    return set(found[1].split()) if found else set()


def _locks(runs: Path) -> Iterator[Finding]:
    """Runs that ended without leaving in good order."""
    folders = sorted(path.parent for depth in ("*", "*/*") for path in runs.glob(f"{depth}/{LOCK}"))
    stale = [finding for folder in folders if (finding := _lock(folder))]
    yield from stale or [Finding("locks", "ok", f"{len(folders)} run directories in {runs}, none of a killed run")]


def _lock(folder: Path) -> Finding | None:
    go_on = f"fedsim resume {shlex.quote(str(folder))}"
    try:
        holder = holder_of(folder)
    except CheckpointError as error:
        return Finding("locks", "warn", str(error).partition(";")[0], f"{go_on} --steal-lock, if no process uses it")
    if holder is None or holder.pid is None or (holder.here and holder.alive):
        return None
    told = f"{folder} is locked by process {holder.pid} on {holder.host} since {holder.since}"
    if holder.here:
        return Finding("locks", "warn", f"{told}, which is gone", go_on)
    return Finding("locks", "warn", told, f"{go_on} --steal-lock, if that machine is gone for good")


def _leftovers(clean: bool) -> Iterator[Finding]:
    processes, folders = leftovers.processes(), leftovers.folders()
    if clean:
        leftovers.clean(processes, folders)
    for one in processes:
        told = f"process {one.pid} ({one.command}) of the killed run {one.run.partition('@')[0]}"
        yield Finding("left over", "warn", f"{told}{': ended' if clean else ''}", "" if clean else CLEAN)
    for folder in folders:
        told = f"folder {folder}{': removed' if clean else ''}"
        yield Finding("left over", "warn", told, "" if clean else CLEAN)
    if not processes and not folders:
        yield Finding("left over", "ok", "nothing")


CLEAN = "fedsim doctor --clean"
CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions,
    _cpus,
    _memory,
    _shared_memory,
    _disk,
    _home,
    _ray,
    _devices,
)
