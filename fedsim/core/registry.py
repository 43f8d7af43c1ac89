"""Names become classes in one way and with one kind of error.

A family (strategies, codecs, partitioners, ...) is one sorted dict in its package's ``__init__``. A plug-in's
knobs are a nested ``Config`` next to the code that reads them. Outside the tree: ``kind: my_package.module:Class``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from fedsim.core.errors import suggest

T = TypeVar("T")


class Config(BaseModel):
    """Base of every plug-in's knobs: frozen, closed, and validated with the scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NoKnobs(Config):
    """The Config of a plug-in that has nothing to set."""


class Registry(Generic[T], Mapping[str, type[T]]):
    """An immutable, sorted family of plug-ins with a common base class."""

    def __init__(self, family: str, base: type[T], classes: Mapping[str, type[T]]) -> None:
        if list(classes) != sorted(classes):
            raise ValueError(f"{family}: keep the registry sorted by name")
        for name, cls in classes.items():
            if name != name.lower() or not issubclass(cls, base):
                raise ValueError(f"{family}: {name!r} must be lower case and a {base.__name__}")
        self.family, self.base, self._classes = family, base, dict(classes)

    def __getitem__(self, kind: str) -> type[T]:
        """The class called ``kind``, or the class at ``package.module:Class``; KeyError says what is known."""
        if kind in self._classes:
            return self._classes[kind]
        if ":" in kind:
            return self._import(kind)
        known = ", ".join(self._classes)
        raise KeyError(f"unknown {self.family} {kind!r}.{suggest(kind, self._classes)} Known: {known}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def _import(self, kind: str) -> type[T]:
        module, _, name = kind.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise KeyError(f"{self.family} {kind!r} is not of the form my_package.module:Class")
        try:
            cls = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise KeyError(f"{self.family} {kind!r} cannot be imported: {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise KeyError(f"{self.family} {kind!r} is not a {self.base.__name__}")
        return cls

    def config(self, kind: str) -> type[Config]:
        """The knobs of a plug-in."""
        cls: Any = self[kind]
        config: type[Config] = cls.Config
        return config

    def create(self, kind: str, knobs: Mapping[str, Any]) -> T:
        """A plug-in object from its name and its validated knobs. pydantic's ValidationError on bad knobs."""
        cls: Any = self[kind]
        plugin: T = cls(cls.Config.model_validate(dict(knobs)))
        return plugin
