"""From pydantic's JSON schema to the structural schema of a CustomResourceDefinition.

pydantic writes `$ref`, `anyOf` with null and `additionalProperties: false`; none of these is structural (FACTS.md).
Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_DROPPED = ("title", "propertyNames")


def structural(model: type[BaseModel], *, defaults: bool) -> Schema:
    """The structural schema of a model, with its defaults or without."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, definitions=schema.get("$defs", {}), defaults=defaults)


def _convert(node: Schema, *, definitions: Mapping[str, Schema], defaults: bool) -> Schema:
    node = _resolved(node, definitions)
    result: Schema = {}
    for key, value in node.items():
        if key in _DROPPED or (key == "additionalProperties" and isinstance(value, bool)):
            continue
        if key == "properties":
            result[key] = {
                name: _convert(each, definitions=definitions, defaults=defaults)
                for name, each in value.items()
            }
        elif key in {"items", "additionalProperties"}:
            result[key] = _convert(value, definitions=definitions, defaults=defaults)
        else:
            result[key] = value
    _settle_default(result, defaults=defaults)
    return result


def _resolved(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Without references and null branches; what stands beside a reference (its description) wins over it."""
    while True:
        rest = {key: value for key, value in node.items() if key not in {"$defs", "$ref", "anyOf"}}
        if "$ref" in node:
            node = definitions[node["$ref"].removeprefix("#/$defs/")] | rest
            continue
        branches = [branch for branch in node.get("anyOf", []) if branch != {"type": "null"}]
        if len(branches) != 1:
            return rest | ({"anyOf": branches} if branches else {})
        node = branches[0] | rest


def _settle_default(node: Schema, *, defaults: bool) -> None:
    """Parents default to {} and let their children say the rest; an empty list or map needs no default."""
    default = node.get("default")
    if default is None or not defaults or default == [] or (default == {} and "properties" not in node):
        node.pop("default", None)
    elif "properties" in node:
        node["default"] = {}


def paths(schema: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field below a schema with its path, e.g. `spec.storage.size`; list items as `[]`, map values as `{}`."""
    for name, each in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path, each
        yield from paths(each, path)
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(key), Mapping):
            yield prefix + mark, schema[key]
            yield from paths(schema[key], prefix + mark)
