"""Broken data files, model folders: rows and weights, or an error that names the file, and nothing else."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.calling import Command
from tests.fuzz.conftest import seeds
from tests.fuzz.mutations import broken

SCENARIO = """\
num_rounds: 1
data: {data}
partition: {{kind: iid, num_banks: 2}}
model: {model}
lora: {{r: 2, target_modules: [q_proj]}}
train: {{local_steps: 1, batch_size: 2}}
"""
TEXT = '{kind: table, path: FILE, text: "{text}", label: label, labels: {good: good, bad: bad}, test: {fraction: 0.3}}'
ROWS = [{"text": f"loan {i}, term {i % 7}", "label": "bad" if i % 3 else "good", "rate": i / 3} for i in range(24)]
JSONL = "".join(f'{{"prompt": "loan {i}", "answer": "{"yes" if i % 2 else "no"}"}}\n' for i in range(20))
CSV = pd.DataFrame(ROWS).to_csv(index=False).encode()


def parquet() -> bytes:
    return pd.DataFrame(ROWS).to_parquet(index=False)


def npz(folder: Path) -> bytes:
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8)
    np.savez(folder / "made.npz", x=images, y=np.arange(20) % 2)
    return (folder / "made.npz").read_bytes()


# file name -> (its content, the scenario's data entry)
FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "a.csv": (lambda _: CSV, TEXT),
    "a.tsv": (lambda _: CSV.replace(b",", b"\t"), TEXT),
    "a.csv.gz": (lambda _: gzip.compress(CSV, mtime=0), TEXT),
    "a.parquet": (lambda _: parquet(), TEXT),
    "a.jsonl": (lambda _: JSONL.encode(), "{kind: jsonl, path: FILE, test: {fraction: 0.3}}"),
    "a.npz": (npz, "{kind: npz, path: FILE, test: {fraction: 0.3}}"),
}
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data file, and a model folder, as they should be."""
    folder = tmp_path_factory.mktemp("whole")
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content(folder))
    tiny.save_llama(folder / "llama")
    return folder


def with_data(command: Command, whole: Path, name: str, rng: Random | None) -> int:
    """Look at a data file, broken by ``rng``: the exit code."""
    body = (whole / name).read_bytes()
    Path(name).write_bytes(body if rng is None else broken(body, rng))
    model = "{kind: resnet}" if name.endswith("npz") else "{kind: embedded}"
    lora = "lora: {r: 2}\n" if name.endswith("npz") else ""
    text = SCENARIO.format(data=FILES[name][1].replace("FILE", name), model=model)
    Path("f.yaml").write_text(text if not lora else text.replace("lora: {r: 2, target_modules: [q_proj]}\n", lora))
    answer = command("inspect", "f.yaml")
    assert answer.code in (0, 3), answer
    assert "Traceback" not in answer.err
    if answer.code:
        (line,) = answer.err.splitlines()
        assert line.startswith("f.yaml:"), line
        assert name in line or "partition" in line, line
    return answer.code


def with_model(command: Command, whole: Path, name: str, rng: Random | None, out: str) -> int:
    """Run with a model folder of which one file is broken: the exit code."""
    shutil.rmtree("llama", ignore_errors=True)
    shutil.copytree(whole / "llama", "llama")
    if rng is not None:
        Path("llama", name).write_bytes(broken((whole / "llama" / name).read_bytes(), rng))
    Path("a.csv").write_bytes((whole / "a.csv").read_bytes())
    text = SCENARIO.format(data=TEXT.replace("FILE", "a.csv"), model="{kind: hf, id: llama}")
    Path("f.yaml").write_text(text)
    answer = command("run", "f.yaml", "--inline", "--out", out)
    assert answer.code in (0, 2, 3, 4, 7), answer
    assert "Traceback" not in answer.err
    return answer.code


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_read(command: Command, whole: Path, name: str) -> None:
    assert with_data(command, whole, name, None) == 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32))
def test_a_broken_file_is_read_or_named(command: Command, whole: Path, name: str, seed: int) -> None:
    with_data(command, whole, name, Random(seed))


def test_a_whole_model_is_trained(command: Command, whole: Path) -> None:
    assert with_model(command, whole, "config.json", None, "out") == 0


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MODEL_FILES), st.integers(0, 2**32))
def test_a_broken_model_is_trained_or_refused(command: Command, whole: Path, name: str, seed: int) -> None:
    shutil.rmtree("out", ignore_errors=True)
    with_model(command, whole, name, Random(seed), "out")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_broken_files(command: Command, whole: Path, fuzz_report) -> None:
    for name in FILES:
        with fuzz_report(f"`fedsim inspect`, {name[1:]} data") as counts:
            for seed in seeds(500):
                counts[f"exit {with_data(command, whole, name, Random(seed))}"] += 1
        assert counts["exit 3"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_broken_models(command: Command, whole: Path, fuzz_report) -> None:
    for name in MODEL_FILES:
        with fuzz_report(f"`fedsim run --inline`, a model's {name}") as counts:
            for seed in seeds(150):
                counts[f"exit {with_model(command, whole, name, Random(seed), f'out-{name}-{seed}')}"] += 1
