"""Control-token strings inside message text: found, marked before rendering, told apart afterwards.

A message that spells `<|im_end|>` must not end a turn. Marks are two private-use characters around the string;
templates pass them through, and the codec encodes what stands between them as ordinary text. Agrees with
transformers' `sanitize_control_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_OPEN, _CLOSE = "\U000f0000", "\U000f0001"
_ANY_MARK = re.compile(f"[{_OPEN}{_CLOSE}]")


class ControlTokens:
    """The strings that a chat template writes as control tokens. Immutable."""

    def __init__(self, control_texts: Iterable[str], added_texts: Iterable[str]) -> None:
        self._control = any_of(control_texts)
        added = any_of(added_texts).pattern
        self._marked = re.compile(f"{_OPEN}({added}){_CLOSE}|{_ANY_MARK.pattern}")

    def occur_in(self, value: Any) -> bool:
        """Whether a message, or anything made of strings, lists and mappings, holds a control-token string."""
        return any(map(self.occur_in_text, strings_in(value)))

    def occur_in_text(self, text: str) -> bool:
        """Whether one text holds a control-token string."""
        return self._control.search(text) is not None or has_marks(text)

    def mark(self, value: Any) -> Any:
        """A copy of `value` with every control-token string in it marked. Keys of mappings are left alone."""
        return map_strings(value, self._mark_text)

    def _mark_text(self, text: str) -> str:
        # Marks that are there already are dropped, or a caller could forge one.
        return self._control.sub(f"{_OPEN}\\g<0>{_CLOSE}", _ANY_MARK.sub("", text))

    def split(self, rendered: str) -> list[tuple[str, bool]]:
        """The rendered text in pieces of (text, is_control_text), without the marks.

        A lone mark, left over where a template cut a string in two, is dropped but still parts the text.
        """
        if not has_marks(rendered):
            return [(rendered, False)]
        parts = self._marked.split(rendered)
        return [(part, index % 2 == 1) for index, part in enumerate(parts) if part]


def has_marks(text: str) -> bool:
    """Whether anything in the text is marked."""
    # At once for most text: a string knows whether it holds any character as high as these.
    return _OPEN in text or _CLOSE in text


def without_marks(text: str) -> str:
    """The text as a reader sees it."""
    return _ANY_MARK.sub("", text)


def strings_in(value: Any) -> Iterable[str]:
    """Every string in a structure of lists and mappings, keys of mappings excepted."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a structure of lists and mappings with every string changed, keys of mappings excepted."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_strings(item, change) for item in value]
    return value


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of `texts`, the longest first."""
    longest_first = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
