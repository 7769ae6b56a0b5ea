"""A call as a JSON object, or several as a JSON list of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatenv_server.engine.parsing.calls import NoCall, function_call
from chatenv_server.engine.parsing.cursor import Cursor, Malformed
from chatenv_server.engine.parsing.literal import Fixed
from chatenv_server.engine.parsing.turn import ToolCall
from chatenv_server.engine.parsing.types import ToolTypes

Path = tuple[Any, ...]
"""Keys from the outermost object of a call to something in it."""
NAME_IS_KEY = "\ue0f2"
"""A step of a path to the only value of an object, whose key is the function's name."""


@dataclass(frozen=True, slots=True)
class JsonUnit:
    """A JSON object that is a call, or a JSON list of them."""

    name: Path
    arguments: Path
    call_id: Path | None
    known: frozenset[str]
    """All keys of the outermost object that the template writes."""
    close: Fixed

    @property
    def writes_ids(self) -> bool:
        """Whether an id stands in each call."""
        return self.call_id is not None

    def read(self, cursor: Cursor, types: ToolTypes) -> list[ToolCall]:  # noqa: ARG002 - JSON says its types itself
        """Step over the value and what closes it."""
        value = cursor.json()
        calls = self._calls(value)
        self.close.expect(cursor)
        return calls

    def _calls(self, value: Any) -> list[ToolCall]:
        if not isinstance(value, list):
            return [self._call(value)]
        if not value:
            raise Malformed("names no function")
        return [self._call(item) for item in value]

    def _call(self, value: Any) -> ToolCall:
        if not isinstance(value, dict):
            raise Malformed("is not a JSON object")
        if self.name[-1] is NAME_IS_KEY:
            if len(value) != 1:
                raise Malformed("does not name one function")
            name, arguments = next(iter(value.items()))
            return function_call(name, arguments)
        value = self._respelt(value)
        call_id = _at(value, self.call_id) if self.call_id else value.get("id")
        if call_id is not None and not isinstance(call_id, str):
            raise Malformed("has an id that is not a string")
        unknown = next((key for key in value if key not in self.known and key not in ("id", "type")), None)
        if unknown is not None:
            raise (NoCall if self.arguments[0] not in value else Malformed)(f"has an unknown key {unknown!r}")
        return function_call(_at(value, self.name), _at(value, self.arguments), call_id)

    def _respelt(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """The object with the key of its arguments as the template spells it: models know two spellings."""
        mine = self.arguments[0]
        other = {"arguments": "parameters", "parameters": "arguments"}.get(mine)
        if other is None or mine in value or other not in value:
            return value
        return {mine if key == other else key: item for key, item in value.items()}


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
