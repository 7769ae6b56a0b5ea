"""The form in which a template has to be given its messages, which apply_chat_template leaves to its caller.

Found here once more, without the engine's probe, so that what the engine makes of a message is held against another
reading than its own. Content is text or a list of parts; call arguments are an object or JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from chatenv_server.doctor.scenarios import calling, tool_result

_TEXT: Final = "Zq7xF6nG"

Write = Callable[[Sequence[Mapping[str, Any]]], str | None]
"""What the template writes for messages as they are; None where it rejects them."""


@dataclass(frozen=True, slots=True)
class GivenForm:
    """A form of messages."""

    parts: frozenset[str] = frozenset()
    """Roles whose content is a list of parts."""
    arguments_as_text: bool = False
    """Whether call arguments are JSON text; else objects."""

    def apply(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the message in this form."""
        given = dict(message)
        if isinstance(given.get("content"), str) and given.get("role") in self.parts:
            given["content"] = [{"type": "text", "text": given["content"]}]
        if given.get("tool_calls"):
            given["tool_calls"] = [self._call(call) for call in given["tool_calls"]]
        return given

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        arguments = call["function"]["arguments"]
        if self.arguments_as_text and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not self.arguments_as_text and isinstance(arguments, str):
            arguments = json.loads(arguments)
        return {**call, "function": {**call["function"], "arguments": arguments}}


def find_form(writers: Sequence[Write]) -> GivenForm:
    """The form in which a template writes messages without damage.

    Args:
        writers: the template under different options, such as with tools and without; one is enough that takes them.
    """

    def shows(form: GivenForm, messages: Sequence[Mapping[str, Any]], damage: Sequence[str]) -> bool:
        given = [form.apply(message) for message in messages]
        texts = [write(given) or write([form.apply(_SYSTEM), *given]) for write in writers]
        written = [text for text in texts if text is not None and _TEXT in text]
        return bool(written) and not any(sign in text for text in written for sign in damage)

    form = GivenForm()
    for role, messages in _EXAMPLES.items():
        parts = replace(form, parts=form.parts | {role})
        if not shows(form, messages, _REPR_OF_PARTS) and shows(parts, messages, _REPR_OF_PARTS):
            form = parts
    as_text = replace(form, arguments_as_text=True)
    as_object_is_damaged = not shows(form, _CALLED, _REPR_OF_ARGUMENTS)
    return as_text if as_object_is_damaged and shows(as_text, _CALLED, _ESCAPED_TWICE) else form


_SYSTEM: Final[Mapping[str, Any]] = {"role": "system", "content": "Zq7xS1vW"}
"""For templates that insist on one."""
_USER: Final[Mapping[str, Any]] = {"role": "user", "content": "Zq7xU1vW"}
_EXAMPLES: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "user": [{"role": "user", "content": _TEXT}],
    "assistant": [_USER, {"role": "assistant", "content": _TEXT}, _USER],
    "system": [{"role": "system", "content": _TEXT}, _USER],
    "tool": [_USER, calling({}, 0), tool_result(_TEXT, 0)],
}
_CALLED: Final[Sequence[Mapping[str, Any]]] = [
    _USER,
    calling({"city": _TEXT, "days": 3}, 0),
    tool_result("Zq7xT1vW", 0),
]
_REPR_OF_PARTS: Final = ("'text':",)
"""Python wrote the list of parts as it is."""
_REPR_OF_ARGUMENTS: Final = ("'city':",)
"""Python wrote the object as it is."""
_ESCAPED_TWICE: Final = ('\\"city\\"',)
"""The template wrote the JSON text as a JSON string."""
