"""What to say about a key that nobody reads: whose name it is, where it belongs, or what was probably meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedsim.build.families import Families
from fedsim.core.errors import suggest
from fedsim.core.names import FLAT, SWITCHES, foreign
from fedsim.core.registry import Config
from fedsim.core.scenario import Scenario
from fedsim.core.strict_yaml import KeyPath


def unknown_field(families: Families, path: KeyPath, value: Any, known: list[str]) -> str:
    """One sentence. ``known`` are the keys that are allowed where this one stands."""
    name = str(path[-1])
    unknown = f"unknown field {name!r}"
    kinds = [] if _depth(path) != 2 else [kind for kind, config in _configs(families, path[0]) if name in config]
    if kinds:
        return f"{unknown}; it is a knob of {', '.join(kinds)}"
    if sentence := foreign(name):
        return sentence
    if inner := [sentence for key in _keys(value) if (sentence := foreign(key))]:
        return f"{unknown}; {', '.join(inner)}"
    if sections := [section for section in _sections_with(families, name) if section != path[0]]:
        return f"{unknown}; it belongs under {' or '.join(map(repr, sections))}"
    candidates = [*known, *FLAT, *SWITCHES] if len(path) == 1 else known
    close = suggest(name, candidates).replace(" Did", "; did")
    return unknown + (close or (f"; known: {', '.join(known)}" if known else "; there is nothing to set here"))


def _depth(path: KeyPath) -> int:
    return sum(isinstance(part, str) for part in path)


def _configs(families: Families, section: str | int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, fields) of the registered plug-ins of an entry."""
    registry = families.get(str(section))
    for kind in registry or ():
        config: type[Config] = registry.config(kind) if registry else Config
        yield kind, dict(config.model_fields)


def _sections_with(families: Families, name: str) -> Iterator[str]:
    """The sections and plug-in entries that have a key of this name."""
    for section, field in Scenario.model_fields.items():
        fields = getattr(field.annotation, "model_fields", {})
        if (section not in families and name in fields) or any(
            name in config for _, config in _configs(families, section)
        ):
            yield section


def _keys(value: Any) -> Iterator[str]:
    """All keys inside a value of an unknown key: FederatedScope's and Plato's files are nested otherwise than ours."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
