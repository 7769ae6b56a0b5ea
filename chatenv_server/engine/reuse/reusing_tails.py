"""Tails that are put together without a render, a search or a cut: those of one message after one finished turn.

What the template writes around such a message is told by one recording of all the renders that its tail took
(`tail_lesson.py`). It holds for every other exchange of the same shape whose texts meet the conditions, and whose turn
the template writes as it was sampled, or not, as it did then. Anything out of the ordinary is left to the writer of
tails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from chatenv_client.models import FidelityReport, Message, MessageSnapshot
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.conversation import PendingRewrite, SampledTurn, Tail
from chatenv_server.engine.isolated_texts import Surroundings
from chatenv_server.engine.locate import Place
from chatenv_server.engine.reuse.recording import are_met, shape_of
from chatenv_server.engine.reuse.recordings import Recordings
from chatenv_server.engine.reuse.tail_lesson import TailRecording, WriteWith, learn
from chatenv_server.engine.tail_encoder import WrittenTail
from chatenv_server.engine.tails import TailWriter


class Tails(Protocol):
    """Writes the tails of episodes, as `TailWriter` does."""

    def tail(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        before: Int32Array,
        pending: PendingRewrite | None,
    ) -> Tail:
        """See `Renderer`."""


class Exchange(NamedTuple):
    """A finished turn and the one message after it, both nothing but texts."""

    shape: Any
    texts: list[str]
    """The turn's, then the message's."""
    given: str
    """The message's content, which is one of them."""


class ReusingTails:
    """A writer of tails that reuses what it wrote. Safe for threads.

    Args:
        writer: writes what cannot be put together.
        write_with: makes another writer of the same tails, on a template that is filled in another way.
    """

    def __init__(self, writer: TailWriter, write_with: WriteWith) -> None:
        self._writer = writer
        self._write_with = write_with
        self._profile = writer.template.profile
        self._controls = writer.template.chat_format.controls
        self._codec = writer.template.chat_format.codec
        self._recordings: Recordings[tuple[TailRecording, Surroundings | None]] = Recordings()

    def tail(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        before: Int32Array,
        pending: PendingRewrite | None,
    ) -> Tail:
        """What the template writes after the sampled turn `last` for the messages that follow it; see `Renderer`.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        exchange = self._exchange(history, last, messages) if pending is None else None
        if exchange is None:
            return self._writer.tail(history, last, messages, before, pending)
        known = self._recordings.of(exchange.shape)
        for recording, surroundings in known.recordings:
            if _fits(recording, exchange.texts, last.text):
                return self._tail_of(recording, surroundings, exchange.given, last, before)
        tail = self._writer.tail(history, last, messages, before, None)
        known.learn(lambda: self._record(history, last, messages[0], exchange, before, tail))
        return tail

    def _exchange(self, history: MessageSnapshot, last: SampledTurn, messages: Sequence[Message]) -> Exchange | None:
        """The turn and the message after it, where both are nothing but texts and the turn has come to its end."""
        if len(messages) != 1 or last.stop_id not in self._codec.added.parting_ids:
            return None
        given = messages[0].get("content")
        if not given or type(given) is not str or "tool_calls" in last.message or "tool_calls" in messages[0]:
            return None
        texts: list[str] = []
        said = shape_of(last.message, texts)
        count = len(texts)
        prompted = self._writer.turns.was_prompted(last)
        shape: tuple[Any, ...] = (last.stop_id, last.close, prompted, said, shape_of(messages[0], texts))
        if self._spell_control_tokens(texts[count:]):
            return None
        if self._profile.needs_system or self._profile.needs_skeleton:
            shape = (*shape, repr(history.first()))
        if self._profile.needs_skeleton:
            shape = (*shape, repr(self._writer.heads.outlines(history)))
        return Exchange(shape, texts, given)

    def _spell_control_tokens(self, texts: Sequence[str]) -> bool:
        """Whether texts that were given have to be marked before they are rendered."""
        return any(map(self._controls.occur_in_text, texts))

    def _record(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        message: Message,
        exchange: Exchange,
        before: Int32Array,
        tail: Tail,
    ) -> tuple[TailRecording, Surroundings | None] | None:
        """A recording that gives the tail it was learnt from; None where there is none."""
        recording = learn(self._write_with, history, last, message, exchange.texts, tail)
        if recording is None or last.stop_id is None:
            return None
        around = self._codec.isolated_texts.surroundings(last.stop_id, recording.before, recording.after)
        if around is not None and not _tells_all(around, tail):
            around = None
        alike = self._tail_of(recording, around, exchange.given, last, before)
        if alike.tokens.tolist() != tail.tokens.tolist() or alike[1:] != tail[1:]:
            return None
        if around is not None:
            self._codec.isolated_texts.expect(message["role"], around)
        return recording, around

    def _tail_of(
        self, recording: TailRecording, around: Surroundings | None, given: str, last: SampledTurn, before: Int32Array
    ) -> Tail:
        """The recorded tail with another message in it, after another turn."""
        reports = recording.tail.reports
        if reports:
            reports = tuple(
                FidelityReport(report.kind, report.detail, last.start, last.message_index) for report in reports
            )
        if around is not None:
            return recording.tail._replace(tokens=self._codec.isolated_texts.encode_in(around, given), reports=reports)
        place = Place(len(recording.before), len(recording.before) + len(given))
        text = recording.before + given + recording.after
        return self._writer.encoder.tail(
            WrittenTail(text, ({},), (place,), close=recording.close, reports=reports), before
        )


def _fits(recording: TailRecording, texts: Sequence[str], said: str) -> bool:
    """Whether a recording holds for other texts, and for a turn that reads `said`."""
    if not are_met(recording.conditions, texts):
        return False
    try:
        written: str = recording.said.of(texts)
    except Exception:  # noqa: BLE001 - an expression that fails for these texts has no answer for them
        return False
    sampled = recording.asked + said
    return written == sampled + recording.taken if recording.exact else not written.startswith(sampled)


def _tells_all(around: Surroundings, tail: Tail) -> bool:
    """Whether message and generation prompt begin in what is always the same, at tokens that are always the same."""
    return tail.message_starts[0] <= len(around.lead) and tail.generation_prompt_length <= len(around.trail)
