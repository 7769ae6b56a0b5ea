"""The form in which a chat template wants its messages: content as text or parts, arguments as object or JSON text.

Callers give either form; this turns what was given into what the template writes without damage. Knows nothing of
tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatenv_server.engine.template import normalise

PreparedMessage = Mapping[str, Any]
"""A message in the form in which a template wants it."""


@dataclass(frozen=True, slots=True)
class Forms:
    """What the probe found out about a template's inputs."""

    parts_roles: frozenset[str] = frozenset()
    """Roles whose content must be a list of parts."""
    arguments_as_text: bool = False
    """Whether call arguments must be JSON text; objects otherwise."""

    def apply(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `message` in the template's form."""
        prepared = normalise(message)
        if "content" in prepared:
            prepared["content"] = self._content(prepared.get("role", ""), prepared["content"])
        if prepared.get("tool_calls"):
            prepared["tool_calls"] = [self._call(call) for call in prepared["tool_calls"]]
        return prepared

    def _content(self, role: str, content: Any) -> Any:
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if role in self.parts_roles else content
        if isinstance(content, list) and role not in self.parts_roles and all(is_text_part(part) for part in content):
            return "".join(part["text"] for part in content)
        return content

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        if "function" not in call:
            return dict(call)
        function = dict(call["function"])
        function["arguments"] = self._arguments(function.get("arguments", {}))
        return {**call, "type": call.get("type", "function"), "function": function}

    def _arguments(self, arguments: Any) -> Any:
        if self.arguments_as_text:
            return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        if not isinstance(arguments, str):
            return arguments
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return arguments
        return parsed if isinstance(parsed, dict) else arguments


def is_text_part(part: Any) -> bool:
    """Whether it is a part of a content that holds nothing but text."""
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def texts_of(message: Mapping[str, Any]) -> list[str]:
    """The texts of a message's content, in order: one, or one a text part; empty ones are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return [content] if content else []
    if isinstance(content, list):
        return [part["text"] for part in content if is_text_part(part) and part["text"]]
    return []


def with_text(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A copy of a message, in the template's form, whose content reads `text` in the same form."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": text}]}
    return {**message, "content": text}
