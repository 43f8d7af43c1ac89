"""The shape of the house: a module imports its own package and lower layers, and a heavy library has one owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsim

ROOT = Path(fedsim.__file__).parent

LAYERS = {
    "core": 0,
    **dict.fromkeys(("codecs", "data", "models", "privacy", "records", "secagg", "strategies"), 1),
    "train": 2,
    **dict.fromkeys(("attacks", "engine"), 3),
    "build": 4,
    "bench": 5,
    "log": 5,
    "methods": 5,
    "options": 5,
    "stopping": 5,
    "submit": 5,
    "view": 5,
    "watch": 5,
    "cli": 6,
    "__init__": 7,  # the public names
}
OWNERS = {  # bench holds the loop without an engine that speed is measured against
    "accelerate": {"models"},
    "bitsandbytes": {"models"},
    "cryptography": {"privacy", "secagg"},
    "dp_accounting": {"privacy"},
    "opacus": {"bench", "privacy"},
    "pandas": {"data", "records"},
    "peft": {"bench", "models"},
    "ray": {"engine"},
    "transformers": {"bench", "models"},
}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def package_of(module: Path) -> str:
    """``strategies/fedavg.py`` and ``strategies/__init__.py`` -> strategies; ``cli.py`` -> cli."""
    return module.parts[0].removesuffix(".py")


def imports(source: str, package: str) -> Iterator[str]:
    """Dotted names of everything that a module imports anywhere, relative ones made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(["fedsim", package][: 3 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" if module == "fedsim" else module for alias in node.names)


def wrong_imports(source: str, package: str) -> list[str]:
    """What a module of ``package`` imports against the rules."""
    wrong = []
    for name in imports(source, package):
        library, _, rest = name.partition(".")
        if library == "fedsim":
            other = rest.partition(".")[0]
            known = other if other in LAYERS else "__init__"  # from fedsim import __version__
            allowed = known == package or LAYERS[known] < LAYERS[package] or other == "__version__"
            wrong += [] if allowed else [name]
        elif package not in OWNERS.get(library, {package}):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_imports_only_what_lies_below(module: Path) -> None:
    package = package_of(module)
    assert package in LAYERS, f"give {package} a place in LAYERS"
    assert wrong_imports((ROOT / module).read_text(), package) == []


@pytest.mark.parametrize(
    ("package", "line", "allowed"),
    [
        ("strategies", "from fedsim.core.adapter import add", True),
        ("strategies", "from fedsim.strategies.base import Strategy", True),
        ("strategies", "from . import base", True),
        ("strategies", "from fedsim.codecs import CODECS", False),
        ("strategies", "from fedsim import codecs", False),
        ("strategies", "from .. import codecs", False),
        ("strategies", "import fedsim.engine.driver", False),
        ("strategies", "def f():\n    from ray import remote", False),
        ("engine", "import ray.exceptions", True),
        ("core", "from fedsim.train import trainer", False),
        ("core", "import fedsim", False),
        ("cli", "from fedsim import __version__", True),
        ("cli", "from fedsim.build.load import check", True),
        ("build", "from fedsim.cli import app", False),
    ],
)
def test_the_rule_itself(package: str, line: str, allowed: bool) -> None:
    assert (wrong_imports(line, package) == []) is allowed


def test_methods_cost_torch_alone() -> None:
    code = "import fedsim.strategies, fedsim.codecs, sys; print([name for name in sys.argv[1:] if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *OWNERS], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
