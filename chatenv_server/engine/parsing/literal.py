"""Fixed text of a template as a pattern that forgives other white space, since models space calls as they like."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from chatenv_server.engine.parsing.cursor import Cursor

FIRST_TAG = re.compile(r"\s*[^\s<\[]*(?:<[^<>\n]+>|\[[A-Z_]+\])")
"""A text's beginning through its first tag, where no word stands before that."""
_SPACE = re.compile(r"(\s+)")
_DIGITS = re.compile(r"\d+")
_NAME_MARK, _KEY_MARK = "\ue0f0", "\ue0f1"


def with_marks(text: str, name: str, key: str = "") -> str:
    """A literal in which the name of the function, and of an argument, stand for whatever name is read."""
    text = text.replace(name, _NAME_MARK)
    return text.replace(key, _KEY_MARK) if key else text


def has_marks(literal: str) -> bool:
    """Whether a literal repeats a name that was read before."""
    return _NAME_MARK in literal or _KEY_MARK in literal


def unmarked(literal: str) -> str:
    """A literal as far as no name stands in it."""
    return re.split(f"[{_NAME_MARK}{_KEY_MARK}]", literal, maxsplit=1)[0]


def filled(literal: str, name: str, key: str = "") -> str:
    """A literal with the names that were read."""
    return literal.replace(_NAME_MARK, name).replace(_KEY_MARK, key)


def pattern_of(literal: str, *, bare_before: bool = False, bare_after: bool = False, numbered: bool = False) -> str:
    """The source of a pattern that finds `literal`, whatever its white space.

    Args:
        bare_before: a text that is written as it is stands before it. White space there belongs to the literal only
            as far as the literal has it.
        bare_after: the same after it.
        numbered: digits in it count calls, and may be others.
    """
    pieces = _SPACE.split(literal)
    parts = []
    for index, piece in enumerate(pieces):
        if not index % 2:
            escaped = re.escape(piece)
            parts.append(_DIGITS.sub(r"\\d+", escaped) if numbered else escaped)
        elif (index == 1 and not pieces[0] and bare_before) or (
            index == len(pieces) - 2 and not pieces[-1] and bare_after
        ):
            parts.append(f"(?:{re.escape(piece)})?")
        else:
            parts.append(r"\s+" if _parts_words(pieces[index - 1], pieces[index + 1]) else r"\s*")
    return "".join(parts)


def _parts_words(before: str, after: str) -> bool:
    return before[-1:].isalnum() and after[:1].isalnum()


@dataclass(frozen=True, slots=True)
class Fixed:
    """A literal that is due where it is looked for."""

    text: str
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, literal: str, *, numbered: bool = False) -> Fixed:
        """Make the pattern of a literal."""
        return cls(literal.strip(), re.compile(pattern_of(literal, numbered=numbered)))

    def expect(self, cursor: Cursor) -> None:
        """Step over it. Raises Malformed."""
        cursor.match(self.pattern, repr(self.text))


def shared_start(texts: Sequence[str]) -> str:
    """The longest beginning that all of `texts` have, of which there is at least one."""
    return os.path.commonprefix(texts)  # noqa: RUF071 - character by character is what is wanted


def before_open_tag(text: str) -> str:
    """A text as far as no tag begins in it that does not end in it: two different tags may begin alike."""
    ends = [(text.rfind(opener), text.rfind(closer)) for opener, closer in ("<>", "[]")]
    return text[: min((opener for opener, closer in ends if opener > closer), default=len(text))]


def shared_end(left: str, right: str) -> str:
    """The longest end that both have and that begins within no tag."""
    if left == right:
        return left
    shared = shared_start([left[::-1], right[::-1]])[::-1]
    before = left.removesuffix(shared)
    for opener, closer in ("<>", "[]"):
        closed, opened = shared.find(closer), shared.find(opener)
        if closed >= 0 and (opened < 0 or closed < opened) and opener in before.rsplit(closer, 1)[-1]:
            shared = shared[closed + 1 :]
    return shared
