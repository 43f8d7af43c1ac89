"""pydantic's errors in plain words, at their place in the file: ``expected integer, got string "ten"``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedsim.core.document import Document
from fedsim.core.errors import Problem
from fedsim.core.strict_yaml import KeyPath, resolve

Unknown = Callable[
    [KeyPath, Any, list[str]], str
]  # path and value of a key that nobody reads, known keys -> what to say

EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "mapping",
    "float_type": "number",
    "int_from_float": "integer",
    "int_type": "integer",
    "list_type": "list",
    "model_type": "mapping",
    "string_type": "string",
    "tuple_type": "list",
}
BOUNDS = {
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
}
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class _Fault:
    """One of pydantic's errors. ``anchor`` is the value with several allowed types, if the error is of one of them."""

    path: KeyPath  # below the validated data; of a missing key, the mapping that lacks it
    anchor: KeyPath | None
    details: Any

    @property
    def is_mismatch(self) -> bool:
        return self.path == self.anchor and self.details["type"] in (*EXPECTED, "literal_error")


def explain(
    error: ValidationError, document: Document, prefix: KeyPath, model: type[BaseModel], unknown: Unknown
) -> list[Problem]:
    """One problem per wrong value. ``prefix`` is where the data that ``model`` refused stands in the document."""
    root: Any = document.data
    for part in prefix:
        root = root.get(part, {}) if isinstance(root, dict) else root[int(part)]
    faults = [_fault(details, root) for details in error.errors(include_url=False)]
    problems = []
    for group in _by_anchor(faults):
        if all(fault.is_mismatch for fault in group):
            problems.append(document.problem((*prefix, *group[0].path), _mismatch([fault.details for fault in group])))
            continue
        for fault in group:
            if fault.is_mismatch:  # another of the allowed types came closer
                continue
            path, details = (*prefix, *fault.path), fault.details
            if details["type"] == "extra_forbidden":
                message = unknown(path, details["input"], _known(model, fault.path[:-1]))
                problems.append(Problem(document.where(path), document.problem(path[:-1], "").key, message))
            else:
                problems.append(document.problem(path, _message(details)))
    return problems


def shown(value: Any) -> str:
    """A value after the name of its type: ``string "ten"``."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    kind = {bool: "boolean", int: "integer", float: "number"}.get(type(value), "string")
    return f"{kind} {_short(value)}"


def _fault(details: Any, root: Any) -> _Fault:
    """Parts of pydantic's location that are not in the data name one of several allowed types; they are left out."""
    loc = details["loc"][:-1] if details["type"] == "missing" else details["loc"]
    path: KeyPath = ()
    anchor: KeyPath | None = None
    entry: Any = root
    for part in loc:
        inside = part in entry if isinstance(entry, dict) else isinstance(entry, list) and part in range(len(entry))
        if inside:
            entry, path = entry[part], (*path, part)
        elif anchor is None:
            anchor = path
    return _Fault(path, anchor, details)


def _by_anchor(faults: Sequence[_Fault]) -> Iterator[list[_Fault]]:
    """Faults of one value that may have several types together, every other fault alone."""
    together: dict[object, list[_Fault]] = {}
    for number, fault in enumerate(faults):
        together.setdefault(number if fault.anchor is None else fault.anchor, []).append(fault)
    yield from together.values()


def _known(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that a model allows at a path."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = next(iter(_models(model.model_fields[part].annotation)), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _mismatch(alternatives: Sequence[Any]) -> str:
    """Of a value that has none of the allowed types."""
    value, kinds = alternatives[0]["input"], [details["type"] for details in alternatives]
    choices = [choice for details in alternatives if details["type"] == "literal_error" for choice in _choices(details)]
    close = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    hint = f" (did you mean {close[0]!r})" if close else ""
    if kinds == ["literal_error"]:
        got = repr(value) if isinstance(value, str) else _short(value)
        return f"one of {', '.join(choices)}; got {got}{hint}"
    names = [EXPECTED[kind] for kind in kinds if kind in EXPECTED] + [f'"{choice}"' for choice in choices]
    expected = " or ".join(dict.fromkeys(names))
    return f"expected {expected}, got {shown(value)}{hint or _remedy(names, value)}"


def _remedy(names: Sequence[str], value: Any) -> str:
    if isinstance(value, str):
        meant = resolve(value)
        if ("integer" in names and type(meant) is int) or ("number" in names and type(meant) in (int, float)):
            return "; remove the quotes"
        if "true or false" in names and value.lower() in ("yes", "no", "on", "off", "y", "n"):
            return "; YAML 1.2 knows true and false only"
    elif "string" in names and isinstance(value, bool | int | float):
        return "; quote it"
    return ""


def _message(details: Any) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind == "missing":
        name = details["loc"][-1]
        return f"{name!r} is required" if isinstance(name, str) else f"must have more entries (got {len(value)})"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_too_short":
        return "must not be empty"
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"must have {bound} entries (got {context['actual_length']})"
    if kind in BOUNDS:
        bounds = {name: _number(bound) for name, bound in context.items()}
        return f"{BOUNDS[kind].format(**bounds)} (got {_short(value)})"
    if kind in EXPECTED or kind == "literal_error":
        return _mismatch([details])
    message = str(details["msg"])
    return f"{message[:1].lower()}{message[1:]} (got {shown(value)})"


def _choices(details: Any) -> list[str]:
    """pydantic's ``'a', 'b' or True`` as a list of texts."""
    found = re.findall(r"'((?:[^'\\]|\\.)*)'|([^\s,']+)", details["ctx"]["expected"])
    return [text or {"True": "true", "False": "false"}.get(other, other) for text, other in found if other != "or"]


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
