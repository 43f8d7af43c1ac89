"""What a process imports ahead of ``load`` must exist: nobody would see the error."""

from __future__ import annotations

from importlib import import_module

import pytest

from fedsim.models import MODELS


@pytest.mark.parametrize("kind", [*MODELS])
def test_modules_that_are_imported_ahead_exist(kind: str) -> None:
    for module in MODELS[kind].modules:
        import_module(module)
