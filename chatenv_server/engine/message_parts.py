"""Where each message's part of a rendered text begins: after the close of the message before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.locate import Place
from chatenv_server.engine.profile import Profile


class _Close(NamedTuple):
    """What closes a message."""

    text: str
    is_next: bool
    """Whether it stands right where the message's text ends. Else the template wrote more of the message before it."""


_NONE = _Close("", is_next=True)


class MessageParts:
    """Finds the parts of messages in what one template writes. Safe for threads."""

    def __init__(self, profile: Profile, common_prefix: Callable[[str, str], str]) -> None:
        self._role_closes = profile.role_closes
        self._call_close = profile.call_close
        self._common_prefix = common_prefix

    def starts(self, text: str, places: Sequence[Place], messages: Sequence[PreparedMessage], close: str) -> list[int]:
        """First character of each message's part.

        Args:
            text: what was rendered.
            places: where the texts of the messages stand in it.
            messages: in the template's form.
            close: what the template writes before the first message: the close of a turn.
        """
        starts: list[int] = []
        passed, before = 0, _Close(close, is_next=True)
        limits = _limits(places, len(text))
        for place, message, limit in zip(places, messages, limits, strict=True):
            starts.append(self._start(text, passed, limit, before, has_text=_has_text(place)))
            passed, before = max(starts[-1], place.stop), self._close_of(message, place)
        return starts

    def _start(self, text: str, passed: int, limit: int, close: _Close, *, has_text: bool) -> int:
        """After a close that stands from `passed` on and before `limit`; `passed` itself where it does not."""
        if close.is_next or not close.text.strip():
            return passed + len(self._common_prefix(text[passed:limit], close.text))
        # Up to a text, the last is right: arguments may spell a close, what a template writes before a text does not.
        found = text.rfind(close.text, passed, limit) if has_text else text.find(close.text, passed, limit)
        return passed if found < 0 else found + len(close.text)

    def _close_of(self, message: PreparedMessage, place: Place) -> _Close:
        if message.get("tool_calls"):
            return _Close(self._call_close, is_next=False)
        if place.dropped or place.elsewhere:
            return _NONE
        return _Close(self._role_closes.get(message.get("role", ""), ""), is_next=place.stop > place.start)


def _has_text(place: Place) -> bool:
    return place.stop > place.start or (place.altered and not place.elsewhere)


def _limits(places: Sequence[Place], end: int) -> list[int]:
    """Where the next text begins at each place, its own or a later one's; the end where none comes."""
    limits = []
    for place in reversed(places):
        end = place.start if _has_text(place) else end
        limits.append(end)
    return limits[::-1]
