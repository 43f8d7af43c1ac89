"""The JSON Schema of a scenario file, for editors: sections, every registered plug-in with its knobs, FinLoRA's names."""

from __future__ import annotations

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
        definitions[registry.family] = {"oneOf": [*kinds, _out_of_tree(registry)]}
    for entry, registry in families.items():
        reference = {"$ref": f"#/$defs/{registry.family}"}
        described = {key: schema["properties"][entry].get(key) for key in ("description", "default")}
        kept = {key: value for key, value in described.items() if value is not None}
        listed = entry in ("upload", "download")
        schema["properties"][entry] = {**({"type": "array", "items": reference} if listed else reference), **kept}
    for name, path in FLAT.items():
        schema["properties"][name] = {"description": f"another name of {dotted(path)}"}
    schema["properties"]["federated_learning"] = {"const": True, "description": "accepted, as in FinLoRA's files"}
    schema["properties"]["use_dp_lora"] = {"type": "boolean", "description": "another name of privacy.kind: dp_sgd"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fedsim scenario"}


def _kind(registry: Registry[Any], kind: str, definitions: Schema) -> Schema:
    """The schema of one plug-in entry; what it refers to goes into ``definitions`` under the plug-in's name."""
    template = f"#/$defs/{registry.family}.{kind}.{{model}}"
    knobs = registry.config(kind).model_json_schema(ref_template=template)
    definitions.update({f"{registry.family}.{kind}.{name}": inner for name, inner in knobs.pop("$defs", {}).items()})
    summary = (registry[kind].__doc__ or "").strip().partition("\n")[0]
    return {
        "title": kind,
        "description": summary or kind,
        "type": "object",
        "properties": {"kind": {"const": kind}, **knobs.get("properties", {})},
        "required": ["kind", *(name for name in knobs.get("required", ()))],
        "additionalProperties": False,
    }


def _out_of_tree(registry: Registry[Any]) -> Schema:
    return {
        "title": f"{registry.family} of another package",
        "type": "object",
        "properties": {"kind": {"type": "string", "pattern": ":", "description": "my_package.module:Class"}},
        "required": ["kind"],
    }
