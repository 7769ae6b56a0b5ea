"""Which texts may have made a control token of a render that none of them spells: told without rendering anew.

Three signs are looked for, and nearly every render has none of them. Texts begin or end in a part of the token, and
others, or the template, have the rest. A text spells one when it is altered as the template may alter it. A mark has
lost its other half, so the template cut a text off there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from chatenv_server.engine.controls import CLOSE, OPEN, ControlTokens
from chatenv_server.engine.template import ChatTemplate

Span = tuple[int, int]
"""A part of a text: its first character, and the one after its last."""


class _Token(NamedTuple):
    """A control token, and what of it stands at the edges of the template's own texts."""

    text: str
    beginnings: tuple[str, ...]
    ends: tuple[str, ...]
    begun: bool
    """Whether a text of the template's own ends in a beginning of it."""
    ended: bool
    """Whether a text of the template's own begins in an end of it."""


class _Edges(NamedTuple):
    """How texts begin and end that may join into any of certain tokens."""

    beginnings: frozenset[str]
    """Of the tokens."""
    ends: frozenset[str]
    first: frozenset[str]
    """Characters that a beginning begins with."""
    last: frozenset[str]
    """Characters that an end ends with."""
    longest: int
    """Characters of the longest beginning or end."""
    whole: str
    """All tokens."""

    @classmethod
    def of(cls, texts: Collection[str]) -> _Edges:
        """Those of the tokens that read so."""
        cuts = [(text[:length], text[length:]) for text in texts for length in range(1, len(text))]
        beginnings, ends = frozenset(start for start, _ in cuts), frozenset(end for _, end in cuts)
        first, last = frozenset(start[0] for start in beginnings), frozenset(end[-1] for end in ends)
        return cls(beginnings, ends, first, last, max(map(len, ends), default=0), "\0".join(texts))

    def may_join(self, text: str) -> bool:
        """Whether a text begins, ends, or stands in the middle of one of the tokens, with other texts around it."""
        start, end = text[: self.longest], text[-self.longest :]
        # Nearly all texts have no such character there.
        if not self.first.isdisjoint(end) and any(end[at:] in self.beginnings for at in range(len(end))):
            return True
        if not self.last.isdisjoint(start) and any(start[:stop] in self.ends for stop in range(1, len(start) + 1)):
            return True
        return len(text) <= self.longest + 1 and text in self.whole


class SuspectFinder:
    """Looks for the signs on one template and tokenizer. Safe for threads."""

    def __init__(self, template: ChatTemplate, controls: ControlTokens) -> None:
        self._controls = controls
        self._alterations = template.alterations
        self._literals: Final = [text for text in template.literal_text.split("\0") if text]
        self._tokens: dict[str, _Token] = {}
        self._edges = _Edges.of(controls.control.texts)

    def are_known(self, rendered: str, spans: Sequence[Span]) -> bool:
        """Whether all control tokens of a render are spelt as they are, in no form that a normaliser undoes."""
        return {rendered[start:stop] for start, stop in spans} <= self._controls.control.texts

    def may_be(self, text: str) -> bool:
        """Whether a text can be a suspect in any render whose control tokens are known."""
        return OPEN in text or any(
            self._edges.may_join(form) or (form != text and self._holds_unmarked(form))
            for form in self._forms(text)
            if form
        )

    def of(self, rendered: str, spans: Sequence[Span], texts: Collection[str]) -> set[str]:
        """The suspects among the texts that a render was made of; empty where nothing is suspicious.

        Args:
            rendered: the render.
            spans: its control tokens that are not marked, all of them known.
            texts: what callers and models gave; those that cannot be suspects may be left out.
        """
        spelt = {rendered[start:stop] for start, stop in spans}
        forms = [(text, form) for text in texts for form in self._forms(text) if form]
        altered = {text for text, form in forms if self._alterations and form != text and self._holds_unmarked(form)}
        joined = set().union(*(self._joined(self._token(own), forms) for own in spelt))
        return altered | joined | _cut_off(rendered, spans, texts)

    def may_join(self, before: str, after: str) -> bool:
        """Whether a text between these two may become a part of a control token."""
        tokens = map(self._token, self._controls.control.texts)
        return any(before.endswith(token.beginnings) or after.startswith(token.ends) for token in tokens)

    def _forms(self, text: str) -> set[str]:
        """A text, and what the template may make of it."""
        return {text, text.strip(), *(alter(text) for alter in self._alterations)}

    def _holds_unmarked(self, text: str) -> bool:
        return bool(self._controls.unmarked_in(text))

    def _joined(self, token: _Token, forms: Sequence[tuple[str, str]]) -> set[str]:
        """The texts that a token may have been joined of, if it may have been at all."""
        beginning = {text for text, form in forms if form.endswith(token.beginnings)}
        ending = {text for text, form in forms if form.startswith(token.ends)}
        if not (token.begun or beginning) or not (token.ended or ending):
            return set()
        return beginning | ending | {text for text, form in forms if form in token.text}

    def _token(self, text: str) -> _Token:
        if text not in self._tokens:
            lengths = range(1, len(text))
            beginnings, ends = tuple(text[:length] for length in lengths), tuple(text[length:] for length in lengths)
            begun = any(literal.endswith(beginnings) for literal in self._literals)
            ended = any(literal.startswith(ends) for literal in self._literals)
            self._tokens[text] = _Token(text, beginnings, ends, begun, ended)
        return self._tokens[text]


def _cut_off(rendered: str, spans: Sequence[Span], texts: Collection[str]) -> set[str]:
    """The texts that hold marks, where one stands beside a control token that is not marked."""
    if not any(rendered[start - 1 : start] == OPEN or rendered[stop : stop + 1] == CLOSE for start, stop in spans):
        return set()
    return {text for text in texts if OPEN in text}
