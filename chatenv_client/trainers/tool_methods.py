"""Python methods made of the JSON schemas of tools, for trainers that make schemas of methods."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

_TYPES: Final[Mapping[str, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def method_of(schema: Mapping[str, Any]) -> Callable[..., str]:
    """A method that calls a tool by `self._call(name, arguments)`.

    Args:
        schema: the function's, with a name. transformers makes the same one of the method's signature and docstring.
    """
    parameters = schema.get("parameters", {})
    given, required = parameters.get("properties", {}), parameters.get("required", ())
    kinds = {name: _type_of(each) for name, each in given.items()}
    signature = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    for name in sorted(given, key=lambda name: name not in required):
        default = inspect.Parameter.empty if name in required else given[name].get("default")
        signature.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kinds[name])
        )

    def method(self: Any, **arguments: Any) -> str:
        return str(self._call(schema["name"], arguments))

    result = {"return": _type_of(schema["return"])} if "return" in schema else {}
    lines = [f"    {name}: {_line(each.get('description') or name)}" for name, each in given.items()]
    method.__name__ = method.__qualname__ = schema["name"]
    method.__doc__ = "\n".join([_line(schema.get("description") or schema["name"]), "", "Args:", *lines])
    method.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    method.__annotations__ = {**kinds, **result}
    return method


def _type_of(schema: Mapping[str, Any]) -> Any:
    """The type that stands for a JSON schema, as far as Python's has a word for it."""
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    kind: Any = schema.get("type", "string")
    found: Any = _TYPES[kind[0] if isinstance(kind, list) else kind]
    if found is list and "type" in schema.get("items", {}):
        found = types.GenericAlias(list, (_type_of(schema["items"]),))
    return found | None if schema.get("nullable") or (isinstance(kind, list) and "null" in kind) else found


def _line(text: str) -> str:
    return " ".join(text.split())
