"""A recording: under which conditions a template writes what it wrote once, and what it writes then.

Also how a message is taken apart into its shape, which has to be the same, and its texts, which need not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from chatenv_client.models import is_plain
from chatenv_server.engine.reuse.traced_text import Condition, Texts

_SETTLED_KEYS: Final = frozenset({"role", "type"})
"""Texts under these keys belong to the shape: templates decide by them and seldom write them."""
_LONGEST_SETTLED: Final = 64
"""Characters of such a text, and of a key: shapes are kept, and callers choose what is in them."""
_MOST_ITEMS: Final = 64
"""Items of a mapping or list in a shape that is kept."""


class Recording(NamedTuple):
    """What a template wrote, and under which conditions it writes the same for other texts."""

    conditions: tuple[Condition, ...]
    text: Any
    """A string, or an expression of one."""

    def written_for(self, texts: Texts) -> str | None:
        """What the template writes for other texts; None where it decides otherwise."""
        if not are_met(self.conditions, texts):
            return None
        try:
            return self.text if type(self.text) is str else str(self.text.of(texts))
        except Exception:  # noqa: BLE001 - an expression that fails for these texts has no answer for them
            return None


def are_met(conditions: tuple[Condition, ...], texts: Texts) -> bool:
    """Whether other texts meet all conditions. One that fails for them is not met."""
    try:
        for condition in conditions:
            if not condition.is_met(texts):
                return False
    except Exception:  # noqa: BLE001 - the same
        return False
    return True


def shape_of(message: Any, texts: list[str]) -> Any:
    """What a message is beside its texts, to be compared; the texts are added to `texts`, in order."""
    if is_plain(message) and next(iter(message)) == "role":  # as below, and nearly all messages are such
        role, content = message.values()
        if type(role) is str and len(role) <= _LONGEST_SETTLED:
            texts.append(content)
            return ("role", role), "content"
    if type(message) is str:
        texts.append(message)
        return str
    if isinstance(message, (Mapping, list, tuple)) and len(message) > _MOST_ITEMS:
        return object()  # like no other
    if isinstance(message, Mapping):
        return _shape_of_mapping(message, texts)
    if isinstance(message, (list, tuple)):
        return (type(message), *[shape_of(item, texts) for item in message])
    return type(message), repr(message)  # since 1 == True == 1.0 and 0.0 == -0.0


def _shape_of_mapping(message: Mapping[Any, Any], texts: list[str]) -> Any:
    shape: list[Any] = []
    for key, value in message.items():
        if type(key) is not str or len(key) > _LONGEST_SETTLED:
            return object()
        if _is_settled(key, value):
            shape.append((key, value))
        elif type(value) is str:
            texts.append(value)
            shape.append(key)
        else:
            shape.append((key, shape_of(value, texts)))
    return tuple(shape)


def _is_settled(key: str, value: Any) -> bool:
    return key in _SETTLED_KEYS and type(value) is str and len(value) <= _LONGEST_SETTLED


def with_texts(message: Any, texts: Iterator[str]) -> Any:
    """A copy of a message with other texts, in the order of `shape_of`."""
    if type(message) is str:
        return next(texts)
    if isinstance(message, Mapping):
        return {key: value if _is_settled(key, value) else with_texts(value, texts) for key, value in message.items()}
    if isinstance(message, (list, tuple)):
        return type(message)([with_texts(item, texts) for item in message])
    return message
