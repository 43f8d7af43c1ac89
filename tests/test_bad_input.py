"""Bad input from the command line: the exit code and the line that the user gets, before anything is started.

Keys, types and ranges of a scenario are in ``tests/build/test_bad_input.py``; here is everything around them: files,
syntax, data, models, resources, places and overrides.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.calling import Command, StartedRay

FINE = {
    "num_rounds": "1",
    "data": "{kind: loan_book, num_banks: 3, rows_per_bank: 20}",
    "partition": "{kind: by_column, column: bank}",
    "model": "{kind: embedded}",
    "train": "{local_steps: 1, batch_size: 4}",
}
CSV = "text,label,bank\n" + "".join(f"loan {i},{'good' if i % 3 else 'bad'},b{i % 3}\n" for i in range(30))
DP = "{kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 1e-5}"


def table(**knobs: str) -> str:
    given = {"path": "loans.csv", "text": '"{text}"', "label": "label", "labels": "{good: good, bad: bad}"}
    given |= {"test": "{fraction: 0.2}", **knobs}
    return f"{{kind: table, {', '.join(f'{key}: {value}' for key, value in given.items())}}}"


# name: (text of the scenario file, exit code, the answer)
TEXTS = {
    "nothing": ("", 2, r"s.yaml:1:1: expected a mapping with 'num_rounds', 'data', 'model', ...; got nothing"),
    "only a comment": ("# later\n", 2, r"s.yaml:1:1: expected a mapping with .*; got nothing"),
    "a number": ("3\n", 2, r"s.yaml:1:1: expected a mapping with .*; got 3"),
    "a list": ("- a\n", 2, r"s.yaml:1:1: expected a mapping with .*; got a list"),
    "a tab": ("a:\n\tb: 1\n", 2, r"s.yaml:2:1: a tab cannot stand here; indent with spaces"),
    "an open bracket": ("a: [1,\nb: 2\n", 2, r"s.yaml:3:1: .*; a bracket opened on line 1 is not closed"),
    "bad indentation": ("a: 1\n  b: 2\n", 2, r"s.yaml:2:4: unexpected ':'; quote the text, or check the indentation"),
    "a control character": ("a: \x01\n", 2, r"s.yaml:1:4: character U\+0001 is not allowed"),
    "two documents": ("a: 1\n---\nb: 2\n", 2, r"s.yaml:2:1: one document per file \(second starts at line 2\)"),
    "a key twice": ("a: 1\na: 2\n", 2, r"s.yaml:2:1: 'a' given twice \(lines 1 and 2\)"),
    "an alias": ("a: 1\nb: *x\n", 8, r"s.yaml:2:4: b: aliases are not allowed; write the value out"),
    "an anchor": ("a: &x 1\n", 8, r"s.yaml:1:4: a: anchors are not allowed; .*"),
    "a merge key": ("a: {<<: {b: 1}}\n", 8, r"s.yaml:1:5: a: merge keys \(<<\) are not allowed; .*"),
    "a tag": ("a: !!python/object:os.system x\n", 8, r"s.yaml:1:4: a: tags are not allowed \(got .*os.system\)"),
    "not UTF-8": (b"a: 1\nb: \xff\n", 2, r"s.yaml:2:1: is not UTF-8 \(byte 0xff\); save it as UTF-8"),
    "over a MiB": ("#" * (1 << 20) + "\n#", 2, r"s.yaml: is larger than 1 MiB; .*"),
    "much too deep": ("a: " + "[" * 99 + "\n", 2, r"s.yaml:1:\d+: a\S*: nested deeper than 20 levels"),
}

# name: (what the scenario has instead, exit code, the answer)
SCENARIOS = {
    # privacy
    "delta above one over the smallest bank": (
        {"privacy": "{kind: dp_sgd, noise_multiplier: 1.0, dp_delta: 0.2}"},
        2,
        r"s.yaml:6:1: privacy: delta 0.2 >= 1/\d+ \(smallest bank\); use <= .*",
    ),
    "no noise and no target": (
        {"privacy": "{kind: dp_sgd, dp_delta: 1e-5}"},
        2,
        r"s.yaml:6:1: privacy: give noise_multiplier .*, dp_epsilon .*, or both .*",
    ),
    "an epsilon out of reach": (
        {"privacy": "{kind: dp_sgd, dp_epsilon: 1e-6, dp_delta: 1e-9}"},
        2,
        r"s.yaml:6:1: privacy: at bank-0\d: dp_epsilon 1e-06 is out of reach: noise_multiplier 1024 still spends .*",
    ),
    # resources
    "one and a half GPUs": ({"resources": "{gpus_per_client: 1.5}"}, 4, r"s.yaml:6:13: resources.gpus_per_client: .*"),
    "more CPUs than there are": (
        {"resources": "{cpus_per_client: 5000}"},
        4,
        r"s.yaml:6:1: resources: need 1 x 5000 CPU = 5000, cluster has \d+; lower resources.cpus_per_client",
    ),
    "no CPU": ({"resources": "{cpus_per_client: 0}"}, 2, r"s.yaml:6:13: resources.cpus_per_client: must be > 0 .*"),
    # model
    "no such folder": ({"model": "{kind: hf, id: ./base}"}, 3, r"s.yaml:4:1: model: no model folder './base'"),
    "not a Hub name": ({"model": "{kind: hf, id: 'a b c'}"}, 3, r"s.yaml:4:1: model: 'a b c' is neither a folder .*"),
    "remote code": (
        {"model": "{kind: hf, id: org/base, trust_remote_code: true}"},
        2,
        r"s.yaml:4:33: model: unknown field 'trust_remote_code'; known: .*",
    ),
    "pickled weights": ({"model": "{kind: hf, id: pickled}"}, 3, r"s.yaml:4:1: model: .* has no \*.safetensors .*"),
    "target modules of another model": (
        {"lora": "{target_modules: [query]}"},
        3,
        r"s.yaml:6:8: lora.target_modules: 'query' matches nothing in model .*q_proj, up_proj, v_proj",
    ),
    # data
    "no such file": ({"data": table(path="loan.csv")}, 3, r"s.yaml:2:1: data: loan.csv: no such file. Did you .*"),
    "a folder": ({"data": table(path=".")}, 3, r"s.yaml:2:1: data: .: is a folder, not a file; name a file in it.*"),
    "a pipe": ({"data": table(path="pipe.csv")}, 3, r"s.yaml:2:1: data: pipe.csv: is not a regular file"),
    "a pattern of nothing": ({"data": table(path="x*.csv")}, 3, r"s.yaml:2:1: data: x\*.csv: no file matches .*"),
    "no table": ({"data": table(path="/etc/hostname")}, 3, r"s.yaml:2:1: data: /etc/hostname: expected a file .*"),
    "no such column": (
        {"data": table(label="lable")},
        3,
        r"s.yaml:2:1: data: loans.csv: no column 'lable' for the label. Did you mean 'label'\? Columns: .*",
    ),
    "a label outside the set": (
        {"data": table(labels="{good: good, poor: bad}")},
        3,
        r"s.yaml:2:1: data: loans.csv:2: column 'label': got 'bad', expected one of 'good', 'poor'; also .* more rows",
    ),
    "a row too long": ({"data": table(path="long.csv")}, 3, r"s.yaml:2:1: data: long.csv:32: 5 values, but .* 3 .*"),
    "no text": ({"data": table(path="null.csv")}, 3, r"s.yaml:2:1: data: null.csv:2: no text: 'text' empty .*"),
    "mixed encodings": ({"data": table(path="mixed.csv")}, 3, r"s.yaml:2:1: data: mixed.csv: is not UTF-8 .*"),
    "an empty file": ({"data": table(path="empty.csv")}, 3, r"s.yaml:2:1: data: empty.csv: is empty"),
    "a header alone": ({"data": table(path="header.csv")}, 3, r"s.yaml:2:1: data: header.csv: has columns but no rows"),
    "no Parquet": ({"data": table(path="a.parquet")}, 3, r"s.yaml:2:1: data: a.parquet: is not a Parquet file .*"),
    "a broken line": (
        {"data": "{kind: jsonl, path: broken.jsonl}", "partition": "{kind: iid, num_banks: 2}"},
        3,
        r"s.yaml:2:1: data: broken.jsonl:2: not a JSON object: .* at column 17",
    ),
    "no row to test on": (
        {"data": table(test="{column: bank, value: b7}")},
        3,
        r"s.yaml:2:1: data: .*b7.*",
    ),
    # split
    "more banks than rows": (
        {"partition": "{kind: iid, num_banks: 500}"},
        3,
        r"s.yaml:3:1: partition: bank-\d+ gets 0 training rows .*: use fewer banks or a milder split .*",
    ),
    "a split too uneven": (
        {"partition": "{kind: dirichlet, num_banks: 20, alpha: 1e-3}"},
        3,
        r"s.yaml:3:1: partition: .*",
    ),
    "more banks than the column has": (
        {"partition": "{kind: by_column, column: bank, num_banks: 9}"},
        3,
        r"s.yaml:3:1: partition: column 'bank' has 3 values .*, but num_banks is 9; .*",
    ),
}

# name: (what stands behind ``fedsim``, exit code, the answer)
COMMANDS = {
    "no such scenario": (("check", "fine.yml"), 2, r"fine.yml: no such file; did you mean fine.yaml\?"),
    "a folder for a scenario": (("check", "."), 2, r"\.: is a folder; name a scenario file in it"),
    "a pipe for a scenario": (("check", "pipe.csv"), 2, r"pipe.csv: is not a regular file"),
    "an unknown key to set": (
        ("run", "fine.yaml", "--set", "seed=1", "--set", "lora.rr=3"),
        2,
        r"--set #2: lora: unknown field 'rr'; did you mean 'r'\?",
    ),
    "a bad value to set": (("run", "fine.yaml", "--set", "num_rounds=ten"), 2, r"--set #1: num_rounds: expected .*"),
    "nothing to set": (("run", "fine.yaml", "--set", "num_rounds"), 2, r"--set #1: expected path=value, got .*"),
    "a used directory": (("run", "fine.yaml", "--inline", "--out", "used"), 6, r"run directory used is not empty; .*"),
    "a file for a directory": (
        ("run", "fine.yaml", "--inline", "--out", "loans.csv"),
        6,
        r"cannot make run directory loans.csv: .*; choose another",
    ),
    "no place for a directory": (
        ("run", "fine.yaml", "--inline", "--out", "/proc/none/run"),
        6,
        r"cannot make run directory /proc/none/run: .*; choose another",
    ),
    "outside the roots": (
        ("run", "outside.yaml", "--data-root", "used"),
        8,
        r"outside.yaml:2:21: data.path: \S+ resolves to \S+, outside the data roots \(\S+\)",
    ),
    "no runs to compare": (("compare", "nowhere"), 6, r"nowhere is not a folder; give run directories .*"),
    "no runs to report": (("report", "used"), 6, r"no ended run in used; .*"),
    "no run to watch": (("watch", "./nowhere"), 6, r"nowhere is no run directory; .*"),
    "data to inspect": (("inspect", "missing.yaml"), 3, r"missing.yaml:2:1: data: none.csv: no such file.*"),
    "privacy to plan": (("plan", "delta.yaml"), 2, r"delta.yaml:6:1: privacy: delta 0.2 >= 1/\d+ .*"),
    "a place that no node has": (("submit", "fine.yaml", "--out", "here"), 2, r"--out: must be an absolute path .*"),
    "Ray Client": (("run", "fine.yaml"), 4, r"cannot join 'ray://head:10001': Ray Client is not supported; .*"),
}


def write(name: str, changes: dict[str, str]) -> None:
    entries = {**FINE, **changes}
    Path(name).write_text("".join(f"{key}: {value}\n" for key, value in entries.items()))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in a folder that holds every file named above."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "loans.csv": CSV,
        "long.csv": CSV + "a,b,c,d,e\n",
        "null.csv": "text,label,bank\n" + ",good,b1\n" * 9,
        "empty.csv": "",
        "header.csv": "text,label,bank\n",
        "a.parquet": "PAR1",
        "broken.jsonl": '{"prompt": "a", "answer": "b"}\n{"prompt": "a", answer}\n',
        "used/notes": "mine",
        "pickled/config.json": '{"model_type": "llama"}',
        "pickled/tokenizer.json": "{}",
        "pickled/pytorch_model.bin": "\x80\x02",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path("mixed.csv").write_bytes(CSV.encode() + b"\xff\xfe,good,b1\n")
    os.mkfifo("pipe.csv")
    write("fine.yaml", {})
    write("missing.yaml", {"data": table(path="none.csv")})
    write("outside.yaml", {"data": table()})
    write("delta.yaml", {"privacy": DP.replace("1e-5", "0.2")})
    return Command(monkeypatch)


def answered(command: Command, arguments: tuple[str, ...], code: int, line: str) -> None:
    answer = command(*arguments)
    assert (answer.out, answer.code) == ("", code), answer
    assert re.fullmatch(line, answer.err.rstrip("\n")), answer.err
    assert not list(Path("results").glob("*"))


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str, command: Command) -> None:
    text, code, line = TEXTS[name]
    Path("s.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    answered(command, ("check", "s.yaml"), code, line)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, command: Command) -> None:
    changes, code, line = SCENARIOS[name]
    write("s.yaml", changes)
    answered(command, ("run", "s.yaml"), code, line)


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, code, line = COMMANDS[name]
    if name == "Ray Client":
        monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    answered(command, arguments, code, line)


def test_the_scenario_is_fine_and_would_have_started_ray(command: Command) -> None:
    """The control: none of the answers above is for another reason, and starting Ray would have been seen."""
    assert command("check", "fine.yaml").code == 0
    with pytest.raises(StartedRay):
        command("run", "fine.yaml")


@pytest.mark.parametrize("value", ["1e-4", "1.0E-4", ".0001"])
def test_numbers_as_yaml_1_2_has_them(command: Command, value: str) -> None:
    write("s.yaml", {"train": f"{{lr: {value}}}"})
    assert command("check", "s.yaml").code == 0


def test_a_byte_order_mark_is_no_character(command: Command) -> None:
    Path("s.yaml").write_bytes(b"\xef\xbb\xbf" + Path("fine.yaml").read_bytes())
    assert command("check", "s.yaml").code == 0
