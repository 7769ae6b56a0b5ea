"""The cut: where the last assistant turn ends in a render, and what of the template's close the model said itself.

Render a short head, the last assistant turn and the tail's messages; cut after the assistant turn; take off what
the model said itself. No length is subtracted, no history is searched, and the template need not be
prefix-preserving. Knows nothing of tokens but the text of stop tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import FidelityKind, FidelityReport, StopReason
from chatenv_server.engine.controls import OPEN, strings_in, unmarked_length, without_marks
from chatenv_server.engine.conversation import SampledTurn
from chatenv_server.engine.forms import PreparedMessage, texts_of
from chatenv_server.engine.probe_messages import SENTINEL, unlike
from chatenv_server.engine.profile import Profile

_LONGEST_CALL_END: Final = 64
_KEY: Final = "zq7x"
"""Of a sentinel call's argument: a part of no control token, as a letter would be."""
_MARK: Final = re.compile(r"[^\w\s]")
"""What the end of a call holds, and no value by itself."""
Render = Callable[[Sequence[PreparedMessage]], str]
"""Renders messages as those of a tail are rendered."""


class Cut(NamedTuple):
    """A render, cut after the last assistant turn."""

    text: str
    """What stands after the cut."""
    position: int
    """First character after the cut in the whole render."""
    exact: bool
    """The template writes everything before the cut just as the model saw and said it."""
    turn: PreparedMessage
    """The assistant message that was rendered: the true one, or a sentinel turn."""
    rendered: str
    """The render that was cut."""
    whole: str
    """The render of the true turn."""
    asked: str
    """What the template writes for the head and its generation prompt."""
    escaped: tuple[str, ...] = ()
    """What after the cut would be a control token and is written as text: a sentence each."""


class Passage(NamedTuple):
    """A short conversation around the last sampled turn, whose renders are cut."""

    head: Sequence[PreparedMessage]
    """What stands before the turn: the constant head, or a skeleton."""
    said: PreparedMessage
    """The turn, in the template's form."""
    tail: Sequence[PreparedMessage]
    """The messages after it."""
    render: Render
    asked: str
    """What the template writes for the head and its generation prompt, the text the turn was sampled after."""

    def around(self, turn: PreparedMessage) -> list[PreparedMessage]:
        """All of it, with a certain turn."""
        return [*self.head, turn, *self.tail]

    def rendered(self, turn: PreparedMessage) -> str:
        """What the template writes of that. Raises TemplateRejectedError."""
        return self.render(self.around(turn))


def cuts_after(passage: Passage, last: SampledTurn) -> Iterator[Cut]:
    """Render a passage, and cut after the last turn.

    Where the template writes the turn as it was sampled there is one cut, at the end of what was sampled. Where it does
    not, or where nothing was said that could tell, sentinel turns of the same shape are rendered in its place, the
    likeliest first, and cut after the last sentinel.

    Raises:
        TemplateRejectedError: the template rejects the messages.
    """
    said, asked = passage.said, passage.asked
    whole = passage.rendered(said)
    spoken = asked + last.text
    exact = Cut(whole[len(spoken) :], len(spoken), True, said, whole, whole, asked)
    is_exact = whole.startswith(spoken)
    if is_exact and last.text:
        yield exact
        return
    doubtful: list[Cut] = []
    found = False
    sentinel = unlike(SENTINEL, strings_in(passage.tail))
    for sentinel_turn in _sentinel_turns(said, sentinel):
        try:
            rendered = passage.rendered(sentinel_turn)
        except TemplateRejectedError:
            continue  # a shape that this template does not take; another one may do
        if sentinel not in rendered:
            continue
        found = True
        position = rendered.rindex(sentinel) + len(sentinel)
        cut = Cut(rendered[position:], position, False, sentinel_turn, rendered, whole, asked)
        if is_exact and cut.text == exact.text:
            yield exact  # nothing that was said is found anywhere: some templates leave such a turn out
        elif _tells_end(cut, last):
            yield cut
        else:
            doubtful.append(cut)
    yield from doubtful
    if is_exact and not found:
        yield exact


def with_turn_as_text(cut: Cut, marked: PreparedMessage, passage: Passage) -> Cut | None:
    """The same cut with the control-token strings marked that the model spelt, should the template repeat them.

    None where the template writes another tail after the turn with marks.

    Args:
        marked: the turn that was cut after, marked.
        passage: what was cut.
    """
    rendered = passage.rendered(marked)
    seen, wanted = without_marks(rendered), without_marks(cut.text)
    if not seen.endswith(wanted):
        return None
    position = unmarked_length(rendered, len(seen) - len(wanted))
    text = rendered[position:]
    repeated = ("control-token strings of this turn, repeated after it, were encoded as text",)
    escaped = repeated if text.count(OPEN) > cut.text.count(OPEN) else ()
    return cut._replace(text=text, position=position, turn=marked, rendered=rendered, escaped=escaped)


def _tells_end(cut: Cut, last: SampledTurn) -> bool:
    """Whether it can be told where the turn ends after a cut: a stop token says so, or the end of its calls."""
    if last.stop_id is not None or not cut.turn.get("tool_calls"):
        return True
    return _length_of_call_end(cut.text, last, 2 * _LONGEST_CALL_END) > 0


def _sentinel_turns(said: PreparedMessage, sentinel: str) -> list[PreparedMessage]:
    """The turn's shapes with sentinels for its texts.

    Some templates write the content of a calling turn after the tools' results; the shape without content is for them.
    """
    content = said.get("content")
    text = [{"type": "text", "text": sentinel}] if isinstance(content, list) else sentinel
    plain: PreparedMessage = {"role": said["role"], "content": text}
    if not said.get("tool_calls"):
        return [plain]
    calls = [_with_sentinel(call, sentinel) for call in said["tool_calls"]]
    silent = {**plain, "content": type(text)(), "tool_calls": calls}
    calling = [{**plain, "tool_calls": calls}, silent] if content else [silent]
    return [*calling, plain]


def _with_sentinel(call: Mapping[str, Any], sentinel: str) -> dict[str, Any]:
    function = call.get("function", {})
    as_text = isinstance(function.get("arguments"), str)
    arguments: Any = f'{{"{_KEY}": "{sentinel}"}}' if as_text else {_KEY: sentinel}
    return {**call, "function": {**function, "arguments": arguments}}


@dataclass
class Remainder:
    """What is left of a cut's text once that is off which the model said itself."""

    text: str
    taken: str
    """What was taken off."""
    reports: list[FidelityReport] = field(default_factory=list)


def take_off_said(cut: Cut, last: SampledTurn, stop_text: str, limit: int, profile: Profile) -> Remainder:
    """Take off the part of the turn's close that the sampled span already holds.

    Args:
        stop_text: text of the stop token that ends the span; empty where it has none.
        limit: where the first message's own text begins after the cut; no stop token is looked for beyond it.
    """
    if stop_text:
        return _take_off_stop(cut, last, stop_text, limit, profile)
    if last.stop_reason is StopReason.STOP:
        return _take_off_stop_string(cut, last, limit, profile)
    remainder = _from_closer(cut, last, limit, profile)
    remainder.reports.append(
        _report(
            FidelityKind.TRUNCATED_TURN_CLOSED,
            last,
            "the turn has no stop token; its close was written as template tokens",
        )
    )
    return remainder


def _take_off_stop(cut: Cut, last: SampledTurn, stop_text: str, limit: int, profile: Profile) -> Remainder:
    found = _find(stop_text, cut.text, limit)
    if found >= 0:
        taken = cut.text[: found + len(stop_text)]
        remainder = Remainder(cut.text[len(taken) :], taken)
        if cut.exact and taken != last.close:
            remainder.reports.append(
                _rewritten(last, "the template writes more before the turn's close than was sampled")
            )
        return remainder
    remainder = _through_closer(cut, limit, profile)
    calls = bool(profile.call_closers and cut.turn.get("tool_calls"))
    if profile.last_closers[:1] == (stop_text,) and stop_text not in profile.closers and not calls:
        remainder.reports.append(_rewritten(last, "the template closes this turn differently once it is not the last"))
    else:
        remainder.reports.append(
            _report(
                FidelityKind.NONCANONICAL_STOP,
                last,
                "the turn ended in another stop token than the template's, which was left out",
            )
        )
    return remainder


def _find(token: str, text: str, limit: int) -> int:
    """Where the template writes a control token in the first `limit` characters; -1 where it does not.

    One that is marked is a message's own text.
    """
    found = text.find(token, 0, max(limit, 0))
    while found > 0 and text[found - 1] == OPEN:
        found = text.find(token, found + 1, limit)
    return found


def _through_closer(cut: Cut, limit: int, profile: Profile) -> Remainder:
    for closer in profile.closers_of(cut.turn):
        found = _find(closer, cut.text, limit)
        if found >= 0:
            end = found + len(closer)
            return Remainder(cut.text[end:], cut.text[:end])
    return Remainder(cut.text, "")


def _from_closer(cut: Cut, last: SampledTurn, limit: int, profile: Profile) -> Remainder:
    """Keep the whole close; what a call with sentinels left before it is not part of it."""
    if cut.exact or not cut.turn.get("tool_calls"):
        return Remainder(cut.text, "")
    starts = [found for closer in profile.closers_of(cut.turn) if (found := _find(closer, cut.text, limit)) >= 0]
    start = min(starts) if starts else _length_of_call_end(cut.text, last, limit)
    return Remainder(cut.text[start:], cut.text[:start])


def _length_of_call_end(text: str, last: SampledTurn, limit: int) -> int:
    """How much of a text ends the last call, where the turn ended with it: up to what the turn itself ends in."""
    content = str(last.message.get("content") or "").rstrip()
    if content and last.text.rstrip().endswith(content):
        return 0
    for length in range(min(len(last.text), limit, _LONGEST_CALL_END), 0, -1):
        end = last.text[-length:]
        found = text.find(end, 0, limit) if _MARK.search(end) else -1
        if found >= 0:
            return found + length
    return 0


def _take_off_stop_string(cut: Cut, last: SampledTurn, limit: int, profile: Profile) -> Remainder:
    whole = _from_closer(cut, last, limit, profile)
    own = "".join(texts_of(cut.turn))
    held = last.text.rpartition(own)[2] if own else ""
    if cut.exact and held.isspace():
        # The turn was read without the white space of its stop string, so the cut lies in the close.
        return Remainder(whole.text, whole.taken, [_overlap(last, len(held))])
    overlap = overlap_of(last.text, whole.text[:limit])
    if not overlap:
        return whole
    return Remainder(whole.text[overlap:], whole.taken + whole.text[:overlap], [_overlap(last, overlap)])


def overlap_of(text: str, more: str) -> int:
    """Length of the longest end of a text that another one begins with.

    In one pass over both (Knuth, Morris, Pratt 1977, "Fast pattern matching in strings").
    """
    more = more[: len(text)]
    if not more:
        return 0
    shorter: list[int] = []
    """For each beginning of `more`, the length of the longest beginning that it ends in, but itself."""

    def longest(length: int, letter: str) -> int:
        while length and more[length] != letter:
            length = shorter[length - 1]
        return length + (more[length] == letter)

    for place, letter in enumerate(more):
        shorter.append(longest(shorter[-1], letter) if place else 0)
    overlap = 0
    for letter in text[len(text) - len(more) :]:
        overlap = longest(overlap, letter)
    return overlap


def _overlap(last: SampledTurn, length: int) -> FidelityReport:
    detail = f"the turn already holds {length} characters of the template's close"
    return _report(FidelityKind.STOP_STRING_OVERLAP, last, detail)


def escaped_in(cut: Cut, last: SampledTurn) -> list[FidelityReport]:
    """The reports for what was written as text after a turn."""
    return [_report(FidelityKind.CONTROL_TOKEN_ESCAPED, last, detail) for detail in cut.escaped]


def rewritten(last: SampledTurn) -> FidelityReport:
    """The report for a turn that the template writes differently in history than it was sampled."""
    return _rewritten(last, "the template writes this turn differently in history than it was sampled")


def _rewritten(last: SampledTurn, detail: str) -> FidelityReport:
    return _report(FidelityKind.HISTORY_REWRITTEN, last, detail)


def _report(kind: FidelityKind, last: SampledTurn, detail: str) -> FidelityReport:
    return FidelityReport(kind, detail, token_index=last.start, message_index=last.message_index)
