"""How a template lays a turn out: what it writes around the thought and around the content.

Learnt from renders of known messages, so that what the template adds is taken off again and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from chatenv_server.engine.parsing.calls import Notation
from chatenv_server.engine.parsing.literal import shared_start
from chatenv_server.engine.parsing.probes import PROBE_TYPES
from chatenv_server.engine.parsing.turn import ProbeRender
from chatenv_server.values import value

_OPENING_TAG = re.compile(r"(?P<bracket>[<\[])(?P<name>[\w:]+)[>\]]\s*\Z")


@dataclass(frozen=True, slots=True)
class Around:
    """What a template writes before and after a content."""

    before: str = ""
    after: str = ""

    def strip(self, text: str, opening: str) -> str:
        """`text` without what stands around it; where less of the whitespace is there, without that.

        `opening` is what the prompt wrote of it, which is nothing that anybody said.
        """
        return strip_end(self.strip_start(text, opening), self.after)

    def strip_start(self, text: str, opening: str) -> str:
        """`text` without what stands before it; without `opening`, where the prompt wrote another beginning."""
        rest = strip_start(_led_by(self.before, text), self.before)
        return text.removeprefix(opening) if rest == text else rest


@dataclass(frozen=True, slots=True)
class Thought:
    """What a template writes around a thought."""

    opener: str
    closer: str

    def begin(self, turn: str) -> int | None:
        """Where the thought begins, or None if the turn does not open one."""
        tag = self.opener.strip()
        left, right = self.opener.split(tag, 1) if tag else ("", self.opener)
        rest = strip_start(_led_by(self.opener, turn), left)
        if not rest.startswith(tag):
            return None
        return len(turn) - len(strip_start(rest[len(tag) :], right))


@value
class Split:
    """A turn, its thought taken apart from the rest."""

    reasoning: str | None
    rest: str


@dataclass(frozen=True)
class Layout:
    """The frame of a template's turns."""

    thought: Thought | None
    contents: Mapping[tuple[bool, bool], Around]
    """What stands around the content, by (after a thought, before calls)."""
    gaps: Mapping[bool, str]
    """What stands before the calls of a turn without content, by after a thought or not."""
    end_of_calls: str
    """What stands after the last call."""

    def split(self, turn: str) -> Split:
        """Take the thought off a turn; one that is never closed reaches to the end."""
        thought = self.thought
        if thought is None or thought.opener.strip() not in turn or self._is_plain(turn):
            return Split(None, turn)
        begin = thought.begin(turn)
        if begin is None:
            return Split(None, turn)
        closing_tag = thought.closer.lstrip()
        reasoning, closed, rest = turn[begin:].partition(closing_tag)
        if not closed:
            return Split(reasoning, "") if self._opens_thoughts() else Split(None, turn)
        return Split(strip_end(reasoning, thought.closer.removesuffix(closing_tag)), rest)

    def content(self, text: str, opening: str, *, after_thought: bool) -> str:
        """The content of a turn without calls, which begins with `opening`, if that is no part of its thought."""
        return self._around(after_thought, before_calls=False).strip(text, opening)

    def content_before_calls(self, text: str, opening: str, *, after_thought: bool) -> str:
        """The content of a turn, from the text before its first call."""
        gap = self.gaps.get(after_thought, self.gaps.get(False, ""))
        if _led_by(gap, text) == gap:
            return ""
        around = self._around(after_thought, before_calls=True)
        # Where nothing would be left, what separates content from calls was itself meant as the content.
        return around.strip(text, opening) or around.strip_start(text, opening)

    def knows(self, opening: str) -> bool:
        """Whether the template begins turns with `opening`, or `opening` leaves a thought open."""
        if any(lead.startswith(opening) for lead in self._plain_leads):
            return True
        thought = self.thought
        # Where a thought is opened by no words, those of a prompt are no part of one, nor of a content.
        if thought is None or (opening.strip() and not thought.opener.strip()):
            return False
        return thought.begin(opening) is not None and thought.closer.strip() not in opening

    def _is_plain(self, turn: str) -> bool:
        """Whether the turn begins as the template begins one without a thought; with an empty one, say."""
        return turn.startswith(self._leads_without_thought)

    @cached_property
    def _leads_without_thought(self) -> tuple[str, ...]:
        """What tells a turn without a thought by its beginning."""
        opener = self.thought.opener if self.thought else ""
        return tuple(lead for lead in self._plain_leads if lead.strip() and len(lead) > len(opener))

    def _opens_thoughts(self) -> bool:
        """Whether what begins like a thought is one, even if it is never closed."""
        thought = self.thought
        if thought is None or thought.opener.strip():
            return thought is not None
        # Where nothing opens it, a turn without a thought has to close an empty one.
        return all(thought.closer.strip() in lead for lead in self._plain_leads)

    @cached_property
    def _plain_leads(self) -> list[str]:
        """What the template begins turns without a thought with."""
        leads = [around.before for (thought, _), around in self.contents.items() if not thought]
        return leads + [gap for thought, gap in self.gaps.items() if not thought]

    def _around(self, after_thought: bool, before_calls: bool) -> Around:
        known = self.contents.get((after_thought, before_calls))
        if known is not None:
            return known
        before = self.contents.get((after_thought, False), Around()).before
        after = self.contents.get((False, before_calls), Around()).after
        return Around(before, after)


@dataclass(frozen=True, slots=True)
class _Seen:
    opener: str | None
    content: Around | None
    gap: str
    calls: bool
    end_of_calls: str


def learn_layout(renders: Iterable[ProbeRender], notation: Notation, opening: str) -> Layout:
    """Read the layout off renders, the calls of which are written in `notation`.

    `opening` is the end of the generation prompt, as far as it belongs to the turn. If it opens a thought and
    no render shows one, because the template drops thoughts from the history, the closing tag ends it.
    """
    looks = ((render, _look(render, notation)) for render in renders)
    seen = [one for render, one in looks if one.calls == bool(render.message.get("tool_calls"))]
    after = [one for one in seen if one.opener is not None]
    shown = any(one.opener is None and one.content and one.content.before == opening for one in seen)
    # What the template writes before a plain text is no thought that only the prompt opens.
    thought = None if shown else _opened_by(opening)
    closer = ""
    if after:
        closer = shared_start([one.content.before if one.content else one.gap for one in after]).rstrip()
        # A thought that ends in whitespace alone cannot be told from what follows it.
        thought = Thought(after[0].opener or "", closer) if closer else None
    contents: dict[tuple[bool, bool], Around] = {}
    gaps: dict[bool, str] = {}
    for one in seen:
        thinks = one.opener is not None
        if one.content is not None:
            before = one.content.before.removeprefix(closer) if thinks else one.content.before
            contents.setdefault((thinks, one.calls), Around(before, one.content.after))
        elif one.calls:
            gaps.setdefault(thinks, one.gap.removeprefix(closer) if thinks else one.gap)
    end_of_calls = next((one.end_of_calls for one in seen if one.calls), "")
    return Layout(thought, contents, gaps, end_of_calls)


def _look(render: ProbeRender, notation: Notation) -> _Seen:
    """Find the parts of a known message in what the template made of it."""
    reasoning, content = render.message.get("reasoning_content"), render.message.get("content")
    opener, text = None, render.text
    if reasoning and reasoning in text:
        opener, text = text.split(reasoning, 1)
    spans = [span for span in notation.spans(text, PROBE_TYPES) if span.calls]
    gap = text[: spans[0].start] if spans else text
    around = Around(*gap.split(content, 1)) if content and content in gap else None
    return _Seen(opener, around, gap, bool(spans), text[spans[-1].end :] if spans else "")


def _opened_by(opening: str) -> Thought | None:
    tag = _OPENING_TAG.search(opening)
    if tag is None:
        return None
    # What stands between the opening tag and the thought is taken to stand between it and the closing tag, too.
    space = opening[len(opening.rstrip()) :]
    return Thought(opening, f"{space}{tag['bracket']}/{tag['name']}{'>' if tag['bracket'] == '<' else ']'}")


def _led_by(lead: str, text: str) -> str:
    """`text` from `lead` on, where nothing but white space stands before that: a prompt may write more of it there."""
    if not lead.strip() or text.startswith(lead):
        return text
    bare = text.lstrip()
    return bare if bare.startswith(lead) else text


def strip_start(text: str, lead: str) -> str:
    """`text` without `lead`; if `lead` is only whitespace, without as much of its end as is there."""
    while not text.startswith(lead):
        if lead.strip():
            return text
        lead = lead[1:]
    return text[len(lead) :]


def strip_end(text: str, trail: str) -> str:
    """`text` without `trail`; if `trail` is only whitespace, without as much of its beginning as is there."""
    while not text.endswith(trail):
        if trail.strip():
            return text
        trail = trail[:-1]
    return text.removesuffix(trail)
