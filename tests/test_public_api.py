"""What ``import fedsim`` offers, and what it costs."""

import subprocess
import sys

import pytest

import fedsim


def test_every_public_name_is_there() -> None:
    assert len(set(fedsim.__all__)) == len(fedsim.__all__)
    for name in fedsim.__all__:
        assert getattr(fedsim, name).__doc__, name


def test_nothing_else_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulate'"):
        fedsim.simulate  # noqa: B018


def test_the_import_is_cheap() -> None:
    heavy = ["torch", "pandas", "ray", "transformers", "peft", "pydantic", "sklearn", "opacus"]
    code = f"import sys, fedsim; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_methods_cost_torch_alone() -> None:
    heavy = ["pandas", "ray", "transformers", "peft", "sklearn", "opacus", "datasets", "bitsandbytes"]
    code = f"import sys, fedsim.strategies; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
