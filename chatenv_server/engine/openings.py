"""The opening of a segment: everything that its chat template writes before the first turn sampled in it.

Where a segment begins that is not the episode's first, its opening mostly begins like the one before. What the two have
in common is not encoded again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import FidelityKind, FidelityReport, Message
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.controls import is_marked, strings_in, without_marks
from chatenv_server.engine.conversation import EMPTY_TAIL, OpeningText, Prefill, Reopening, Tail
from chatenv_server.engine.forgeries import FORGED, Forgeries
from chatenv_server.engine.forms import PreparedMessage, texts_of, with_text
from chatenv_server.engine.heads import SYSTEM_ROLES, Heads
from chatenv_server.engine.locate import Place, locate
from chatenv_server.engine.message_faults import message_reports
from chatenv_server.engine.probe_messages import SENTINEL, user
from chatenv_server.engine.rewrites import RewriteFinder
from chatenv_server.engine.tail_encoder import TailEncoder, WrittenTail

_MARK: Final = f"{SENTINEL} "
"""Written after the text that a model is to go on with. Its space shows whether the template trims texts."""


class _Beginning(NamedTuple):
    """A beginning of an opening whose tokens are known: leading messages that are written as they were before."""

    messages: int
    characters: int
    tokens: Int32Array
    character_starts: Sequence[int]
    """First character of each of the messages."""
    token_starts: Sequence[int]
    """First token of each of the messages."""
    parted: Sequence[bool]
    """As in `OpeningText`."""
    close: str = ""
    """What of the last message's close comes after the characters, and is encoded again."""


_NOTHING_KNOWN: Final = _Beginning(0, 0, EMPTY_TOKENS, (), (), ())
_MOST_TRIED: Final = 3
"""Beginnings that are tried. Where a message begins is known roughly for those that the template altered."""


def _known_beginnings(text: str, count: int, reopening: Reopening) -> Iterator[_Beginning]:
    """What an opening that says `text` of `count` messages may take over from the one before, the most first."""
    if reopening.known is not None:
        written, tokens, starts = reopening.known
        before, characters = written.text, written.starts
        most = min(count, reopening.same, len(characters) - 1)
        # The last message at whose beginning both texts are still the same.
        alike = bisect_left(range(1, most + 1), True, key=lambda i: not text.startswith(before[: characters[i]]))
        # A token that begins before the message holds characters of it, which would be written twice.
        for i in islice((i for i in range(alike, 0, -1) if written.parted[i]), _MOST_TRIED):
            yield _Beginning(i, characters[i], tokens[: starts[i]], characters[:i], starts[:i], written.parted[:i])
    yield _NOTHING_KNOWN


def _stands(known: _Beginning, tail: Tail) -> bool:
    """Whether an opening with this beginning is what it would be if nothing had been known.

    It is not where the beginning's tokens would be others if it were encoded with what follows, or where nothing but
    the beginning tells where the next message begins, because that has no text.
    """
    if known.messages == 0 or tail.opening is None:
        return True
    merges = any(one.kind is FidelityKind.BOUNDARY_MERGE for one in tail.reports)
    return not merges and all(tail.opening.parted[known.messages : known.messages + 1])


class OpeningWriter:
    """Writes openings for all episodes of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate, heads: Heads, encoder: TailEncoder, rewrites: RewriteFinder) -> None:
        self._template = template
        self._options = template.options
        self._asks = template.options.add_generation_prompt
        self._heads = heads
        self._encoder = encoder
        self._rewrites = rewrites
        self._forgeries = Forgeries(template)

    def opening(self, messages: Sequence[Message], reopening: Reopening | None = None) -> Tail:
        """Everything up to the first sampled token, equal to `apply_chat_template(messages, tokenize=True)`.

        Args:
            messages: the whole conversation.
            reopening: what is known where a segment begins that is not the episode's first.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        prepared = self._prepared(messages, reopening)
        text = self._render_unless_waiting(prepared)
        if text is None:
            return replace(EMPTY_TAIL, message_starts=(0,) * len(messages))
        pending = self._rewrites.find(messages, 0, self._heads.constant(messages))
        if reopening is None:
            tail = self._encoded(text, prepared, self._forgeries.suspicious(prepared), _NOTHING_KNOWN)
            faults = self._option_reports(text) if _has_spoken(prepared) else []
            return _with_reports(replace(tail, pending_rewrite=pending), (*tail.reports, *faults))
        before = () if reopening.known is None else reopening.known.written.suspicious[: reopening.same]
        suspicious = [*before, *self._forgeries.suspicious(prepared[len(before) :])]
        tail = next(
            tail
            for known in map(self._through_control, _known_beginnings(text, len(prepared), reopening))
            if _stands(known, tail := self._encoded(text, prepared, suspicious, known))
        )
        news = tuple(
            one for one in tail.reports if one.message_index is None or one.message_index >= reopening.recorded
        )
        # What was found in messages of the same tail is not found again where their text is taken over.
        there = () if reopening.known is None else reopening.known.written.reports
        known = [
            one
            for one in there
            if one.message_index is not None
            and reopening.recorded <= one.message_index < reopening.same
            and one not in news
        ]
        return _with_reports(replace(tail, pending_rewrite=pending), (*known, *news))

    def inside(self, messages: Sequence[Message]) -> Tail:
        """Everything up to the end of the last message's text, which a model is to go on with.

        Equal to `apply_chat_template(messages, continue_final_message=True, tokenize=True)`.

        Raises:
            TemplateRejectedError: the template rejects the messages, or does not write that text.
        """
        *before, last = self._prepared(messages, None)
        own = "".join(texts_of(last))
        rendered = self._template.render_opening([*before, with_text(last, own + _MARK)], False)
        end = rendered.rfind(SENTINEL)
        if end < 0 or own.strip() not in rendered:
            escaped = "; its control tokens are text unless control_token_policy is 'allow'" if is_marked(own) else ""
            raise TemplateRejectedError(
                f"the chat template does not write the message that is to go on{escaped}", field="messages"
            )
        # As transformers does it: where the template trims texts, the space at the end of this one is trimmed, too.
        text = rendered[:end] if rendered.startswith(_MARK, end) else rendered[:end].rstrip()
        start, prompted = self._start_of_turn(text, before, own)
        prepared = [*before, last]
        tail = self._encoded(text, prepared, self._forgeries.suspicious(prepared), _NOTHING_KNOWN)
        first = self._encoder.encode(text, EMPTY_TOKENS, [len(without_marks(text[:start]))]).marks[0]
        return replace(tail, generation_prompt_length=0, opening=None, prefill=Prefill(first, prompted))

    def _start_of_turn(self, text: str, before: Sequence[PreparedMessage], own: str) -> tuple[int, bool]:
        """Where the turn of an assistant begins that goes on after `before`, and whether after a generation prompt."""
        asked, unasked = (self._template.render_opening(before, prompt) if before else "" for prompt in (True, False))
        if text.startswith(asked):
            return len(asked), True
        if text.startswith(unasked):
            return len(unasked), False
        # With the turn, the template writes what comes before it otherwise: nothing but its own text is surely its own.
        return len(text[: text.rfind(own.strip())].rstrip()), False

    def _prepared(self, messages: Sequence[Message], reopening: Reopening | None) -> list[PreparedMessage]:
        """The messages in the template's form; those that an opening before held, too, as they were there."""
        if reopening is None:
            return [self._template.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        before = () if reopening.known is None else reopening.known.written.prepared[: reopening.same]
        more = (
            self._template.prepare(message, f"messages[{i}]")
            if i >= reopening.recorded
            else self._template.prepare_recorded(message, own=i in reopening.own)
            for i, message in enumerate(messages[len(before) :], start=len(before))
        )
        return [*before, *more]

    def _through_control(self, known: _Beginning) -> _Beginning:
        """The beginning without the token after its last control token, where one such stands there: a line break.

        What follows a control token that parts texts can be encoded by itself, and most of it was encoded before.
        """
        added = self._template.chat_format.codec.added
        if len(known.tokens) < 2 or known.tokens.item(-2) not in added.isolating_ids or known.tokens.item(-1) in added:
            return known
        close = self._template.chat_format.codec.decode(known.tokens[-1:])
        return known._replace(characters=known.characters - len(close), tokens=known.tokens[:-1], close=close)

    def _encoded(
        self,
        text: str,
        prepared: Sequence[PreparedMessage],
        suspicious: Sequence[Sequence[str]],
        known: _Beginning,
    ) -> Tail:
        """The tail of a rendered text whose beginning is known. Its reports are those on what comes after that."""
        rendered, count = text, known.messages
        text = self._forgeries.escaped(
            text, known.characters, prepared, prompt=self._asks, local=False, suspicious=suspicious
        )
        rest = text[known.characters :]
        places = locate(
            rest,
            prepared[count:],
            lambda others: self._template.render_opening([*prepared[:count], *others], self._asks)[known.characters :],
            self._template.literal_text,
        )
        faults = message_reports(prepared[count:], places, count, rest) if _has_spoken(prepared) else []
        if text is not rendered:
            faults.append(FidelityReport(FidelityKind.CONTROL_TOKEN_ESCAPED, FORGED))
        written = WrittenTail(rest, prepared[count:], places, close=known.close, faults=faults)
        tail, parted = self._encoder.opening(written, known.tokens)
        has_text = [_is_seen(message, place) for message, place in zip(prepared[count:], places, strict=True)]
        parted = (*known.parted, *map(all, zip(parted, has_text, [True, *has_text], strict=False)))
        starts = tuple(known.characters + start for start in self._encoder.message_starts(written))
        if not count:
            return replace(tail, opening=OpeningText(text, starts, parted, prepared, suspicious, places=places))
        return replace(
            tail,
            tokens=np.concatenate([known.tokens, tail.tokens]),
            message_starts=(*known.token_starts, *(len(known.tokens) + start for start in tail.message_starts)),
            opening=OpeningText(text, (*known.character_starts, *starts), parted, prepared, suspicious),
        )

    def _render_unless_waiting(self, prepared: Sequence[PreparedMessage]) -> str | None:
        """The opening's text; None where the template only waits for somebody to speak."""
        try:
            return self._template.render_opening(prepared, self._asks)
        except TemplateRejectedError:
            if _has_spoken(prepared):
                raise
            self._template.render_opening([*prepared, self._template.formed(user())], True)
            return None

    def _option_reports(self, text: str) -> list[FidelityReport]:
        """What the template makes of the options: arguments that it never reads, tools that it leaves out."""
        known = self._template.chat_format.template.variables | self._template.chat_format.special_tokens.keys()
        reports = [
            FidelityReport(FidelityKind.KWARG_UNUSED, f"the chat template never reads {name!r}")
            for name in self._options.template_kwargs
            if name not in known
        ]
        names = [tool.get("function", tool).get("name") for tool in self._options.tools or ()]
        if any(isinstance(name, str) and name not in without_marks(text) for name in names):
            reports.append(FidelityReport(FidelityKind.MESSAGE_DROPPED, "the chat template leaves out the tools"))
        if is_marked(text) and any(map(is_marked, strings_in(self._template.given(local=False)))):
            detail = "control-token strings in the tools or template arguments were encoded as text"
            reports.append(FidelityReport(FidelityKind.CONTROL_TOKEN_ESCAPED, detail))
        return reports


def _with_reports(tail: Tail, reports: tuple[FidelityReport, ...]) -> Tail:
    opening = None if tail.opening is None else tail.opening._replace(reports=reports)
    return replace(tail, reports=reports, opening=opening)


def _is_seen(message: PreparedMessage, place: Place) -> bool:
    """Whether a message has a text that stands where its turn is."""
    return not (place.dropped or place.elsewhere) and not all(map(str.isspace, texts_of(message)))


def _has_spoken(messages: Sequence[PreparedMessage]) -> bool:
    return any(message.get("role") not in SYSTEM_ROLES for message in messages)
