"""Arguments of a call held against the JSON schema of a tool.

Knows the keywords that schemas made of Python functions have; what others demand is left to the tool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = Mapping[str, Any]

_CLASSES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


class BadArgumentsError(ValueError):
    """Arguments that a tool cannot be called with. The message is a sentence for the model that wrote them."""


def checked_arguments(arguments: Mapping[str, Any], parameters: Schema) -> dict[str, Any]:
    """The arguments, whole numbers as int where the schema says integer.

    Raises:
        BadArgumentsError: one is missing, unknown, or does not fit.
    """
    properties: Mapping[str, Schema] = parameters.get("properties", {})
    for name in parameters.get("required", ()):
        if name not in arguments:
            raise BadArgumentsError(f"the argument {name!r} is missing")
    for name in arguments:
        if name not in properties:
            raise BadArgumentsError(f"there is no argument {name!r}, only {_listed(properties)}")
    return {name: _checked(value, properties[name], repr(name)) for name, value in arguments.items()}


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "calls without any"


def _checked(value: Any, schema: Schema, place: str) -> Any:
    """The value as the schema has it; `place` names it in errors."""
    if value is None and schema.get("nullable"):
        return None
    if "anyOf" in schema:
        return _checked_any(value, schema["anyOf"], place)
    value = _of_type(value, schema.get("type"), place)
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        raise BadArgumentsError(f"{place} has to be one of {schema['enum']}")
    if isinstance(value, list):
        return _checked_list(value, schema, place)
    if isinstance(value, dict) and isinstance(inner := schema.get("additionalProperties"), Mapping):
        return {key: _checked(item, inner, f"{place}[{key!r}]") for key, item in value.items()}
    return value


def _checked_any(value: Any, schemas: Sequence[Schema], place: str) -> Any:
    for schema in schemas:
        with contextlib.suppress(BadArgumentsError):
            return _checked(value, schema, place)
    raise BadArgumentsError(f"{place} fits none of the forms that it may have")


def _checked_list(value: list[Any], schema: Schema, place: str) -> list[Any]:
    if "prefixItems" in schema:
        schemas = schema["prefixItems"]
        if len(value) != len(schemas):
            raise BadArgumentsError(f"{place} has to have {len(schemas)} items, and has {len(value)}")
    else:
        schemas = [schema.get("items", {})] * len(value)
    return [_checked(item, each, f"{place}[{index}]") for index, (item, each) in enumerate(zip(value, schemas))]  # noqa: B905


def _of_type(value: Any, named: str | Sequence[str] | None, place: str) -> Any:
    """The value, as an int where it is a whole number and the type `integer`."""
    names = [named] if isinstance(named, str) else list(named or ())
    if not names or any(_is_of_type(value, name) for name in names):
        return value
    if "integer" in names and isinstance(value, float) and value.is_integer():
        return int(value)
    raise BadArgumentsError(f"{place} has to be of type {' or '.join(names)}")


def _is_of_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):  # which is an int to Python, and none to JSON
        return name == "boolean"
    return isinstance(value, _CLASSES.get(name, object))


def _same(value: Any, allowed: Any) -> bool:
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
