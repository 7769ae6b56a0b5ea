"""The types that tools' schemas give to arguments, for forms that leave them open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Types = frozenset[str]
"""Names of JSON schema types: `string`, `integer`, `number`, `boolean`, `null`, `array`, `object`."""

ToolTypes = Mapping[str, Mapping[str, Types]]
"""By function and argument, the types that the argument may have. What is not in it is open."""

_DEEPEST = 8


def types_of_tools(tools: Sequence[Any] | None) -> dict[str, dict[str, Types]]:
    """What the schemas of tools say of their arguments. Reads any JSON; what is no schema says nothing."""
    found: dict[str, dict[str, Types]] = {}
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        parameters = function.get("parameters") if isinstance(function, Mapping) else None
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if isinstance(properties, Mapping) and isinstance(function, Mapping) and isinstance(function.get("name"), str):
            allowed = {str(key): _types_of(schema, parameters, _DEEPEST) for key, schema in properties.items()}
            found[function["name"]] = {key: types for key, types in allowed.items() if types is not None}
    return found


def fits(value: Any, types: Types) -> bool:
    """Whether a value has one of the types."""
    name = _type_of(value)
    return name in types or (name == "integer" and "number" in types)


def _types_of(schema: Any, root: Any, levels_left: int) -> Types | None:
    if not isinstance(schema, Mapping) or not levels_left:
        return None
    if isinstance(schema.get("$ref"), str):
        return _types_of(_resolved(schema["$ref"], root), root, levels_left - 1)
    types = _own_types(schema)
    for key in ("anyOf", "oneOf", "allOf"):
        if types is None and isinstance(schema.get(key), list):
            parts = [_types_of(part, root, levels_left - 1) for part in schema[key]]
            known = [part for part in parts if part is not None]
            types = frozenset().union(*known) if known and (len(known) == len(parts) or key == "allOf") else None
    return types | {"null"} if types is not None and schema.get("nullable") is True else types


def _own_types(schema: Mapping[str, Any]) -> Types | None:
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(one for one in named if isinstance(one, str))
    if isinstance(schema.get("enum"), list):
        return frozenset(_type_of(value) for value in schema["enum"])
    return frozenset({_type_of(schema["const"])}) if "const" in schema else None


def _resolved(reference: str, root: Any) -> Any:
    place = root
    for step in reference.removeprefix("#/").split("/"):
        place = place.get(step) if isinstance(place, Mapping) else None
    return place


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "integer", float: "number", dict: "object", list: "array", type(None): "null"}
    return kinds[type(value)]
