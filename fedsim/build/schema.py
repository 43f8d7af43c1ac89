"""The JSON Schema of scenario files, for editors: sections, every registered plug-in's knobs, FinLoRA's names."""

from __future__ import annotations

import sys
from typing import Any

from fedsim.build.families import FAMILIES, Families
from fedsim.core.names import FLAT
from fedsim.core.registry import Registry
from fedsim.core.scenario import Scenario
from fedsim.core.strict_yaml import dotted

Schema = dict[str, Any]


def json_schema(families: Families = FAMILIES) -> Schema:
    """Draft 2020-12. A plug-in entry is ``oneOf`` the registered kinds, told apart by a constant ``kind``."""
    schema = Scenario.model_json_schema()
    definitions: Schema = schema["$defs"]
    del definitions["Plugin"]
    for registry in {id(registry): registry for registry in families.values()}.values():
        kinds = [_kind(registry, kind, definitions) for kind in registry]
        definitions[_name(registry)] = {"oneOf": [*kinds, _out_of_tree(registry)]}
    for entry, registry in families.items():
        reference = {"$ref": f"#/$defs/{_name(registry)}"}
        described = {key: schema["properties"][entry].get(key) for key in ("description", "default")}
        kept = {key: value for key, value in described.items() if value is not None}
        listed = entry in ("upload", "download")
        schema["properties"][entry] = {**({"type": "array", "items": reference} if listed else reference), **kept}
    schema["properties"]["vary"] = _vary()
    for name, path in FLAT.items():
        schema["properties"][name] = {"description": f"another name of {dotted(path)}"}
    schema["properties"]["federated_learning"] = {"const": True, "description": "accepted, as in FinLoRA's files"}
    schema["properties"]["use_dp_lora"] = {"type": "boolean", "description": "another name of privacy.kind: dp_sgd"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fedsim scenario"}


def _vary() -> Schema:
    """Dotted keys cannot be listed: any name may stand before a list of values."""
    values = {"type": "array", "minItems": 1}
    lists = {"type": "object", "minProperties": 1, "additionalProperties": values}
    paired = {**lists, "description": "lists of one length that are walked together"}
    about = "lists of values by key, dotted as after --set: every combination is a run"
    return {**lists, "description": about, "properties": {"paired": paired}}


def _name(registry: Registry[Any]) -> str:
    return registry.family.replace(" ", "_")  # a reference is a URI


def _kind(registry: Registry[Any], kind: str, definitions: Schema) -> Schema:
    """The schema of one plug-in entry; what it refers to goes into ``definitions`` under the plug-in's name."""
    prefix = f"{_name(registry)}.{kind}"
    knobs = registry.config(kind).model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    definitions.update({f"{prefix}.{name}": inner for name, inner in knobs.pop("$defs", {}).items()})
    summary = (sys.modules[registry[kind].__module__].__doc__ or "").partition("\n")[0]  # a file is a plug-in
    return {
        "title": kind,
        "description": summary or kind,
        "type": "object",
        "properties": {"kind": {"const": kind}, **knobs.get("properties", {})},
        "required": ["kind", *knobs.get("required", ())],
        "additionalProperties": False,
    }


def _out_of_tree(registry: Registry[Any]) -> Schema:
    return {
        "title": f"{registry.family} of another package",
        "type": "object",
        "properties": {"kind": {"type": "string", "pattern": ":", "description": "my_package.module:Class"}},
        "required": ["kind"],
    }
