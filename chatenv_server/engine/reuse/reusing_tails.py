"""Tails that are put together without a search or a cut: those of one message after one finished turn.

What the template writes around such a message is told by one recording of all the renders that its tail took
(`tail_recording.py`). It holds for every other exchange of the same shape whose texts meet the conditions, and whose
turn the template writes as it was sampled, or not, as it did then. Nothing is rendered, except to see whether a
pending rewrite has come. Anything out of the ordinary is left to the writer of tails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from chatenv_client.models import Message
from chatenv_server.engine.conversation import Tail, TailPlace
from chatenv_server.engine.isolated_texts import Surroundings
from chatenv_server.engine.reuse.recording import are_met, shape_of
from chatenv_server.engine.reuse.recordings import Recordings
from chatenv_server.engine.reuse.tail_recording import TailRecording, WriteWith, learn
from chatenv_server.engine.tails import TailWriter
from chatenv_server.values import value


class Exchange(NamedTuple):
    """A finished turn and the one message after it, taken apart."""

    shape: Any
    texts: list[str]
    """The turn's, then the message's."""
    given: str
    """The message's content, which is one of them."""


@value
class RecordedTail:
    """A recording, and how its tail is encoded with another message in it."""

    recording: TailRecording
    around: Surroundings
    head: int
    """Characters of `around.before` ahead of the message's part; 0 where that begins at a control token before."""
    foot: int
    """Characters of `around.after` that are of the generation prompt; 0 where that begins at a control token after."""

    def marks(self, given: str) -> tuple[int, ...]:
        """Where message and prompt begin in what is encoded with the message, if tokens do not tell always."""
        if not (self.head or self.foot):
            return ()
        return self.head, len(self.around.before) + len(given) + len(self.around.after) - self.foot


class ReusingTails:
    """A writer of tails that reuses what it wrote. Safe for threads.

    Args:
        writer: writes what cannot be put together.
        write_with: makes another writer of the same tails, on a template that is filled in another way.
    """

    def __init__(self, writer: TailWriter, write_with: WriteWith) -> None:
        self._writer = writer
        self._write_with = write_with
        self._needs = writer.template.needs
        self._controls = writer.template.chat_format.controls
        self._codec = writer.template.chat_format.codec
        self._recordings: Recordings[RecordedTail] = Recordings()

    def tail(self, place: TailPlace, messages: Sequence[Message]) -> Tail:
        """What the template writes after the last sampled turn for the messages that follow it.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        exchange, pending = self._exchange(place, messages), place.pending
        if exchange is None:
            return self._writer.tail(place, messages)
        # Which turn is pending is no part of the shape, so whether its rewrite has come is asked every time.
        brings_rewrite = pending is not None and self._writer.brings_rewrite(place, pending, messages)
        known = self._recordings.of((brings_rewrite, exchange.shape))
        for each in known.recordings:
            if _fits(each.recording, exchange.texts, place.last.text):
                return self._tail_of(each, exchange.given, place)
        tail = self._writer.tail(place, messages)
        # Nothing is learnt from texts that were marked, or would have to be: what the marks do is done unseen.
        if not self._controls.occur_in((place.last.message, messages[0])):
            known.learn(lambda: self._record(place, messages[0], exchange, tail))
        return tail

    def _exchange(self, place: TailPlace, messages: Sequence[Message]) -> Exchange | None:
        """The turn and the message after it, where the turn has come to its end and the message is but a text."""
        last, added = place.last, self._codec.added
        if len(messages) != 1 or last.stop_id not in added.parting_ids:
            return None
        given = messages[0].get("content")
        if not given or type(given) is not str or "tool_calls" in messages[0]:
            return None
        if "tool_calls" in last.message and not self._is_in_form(last.message):
            return None
        if messages[0]["role"] == "tool" and self._writer.unmatched(last, messages):
            return None
        texts: list[str] = []
        said = shape_of(last.message, texts)
        count = len(texts)
        prompted = self._writer.turns.was_prompted(last)
        # Where nothing was said, the cut looks for the turn in another way; a text may be empty where some was said.
        told = last.stop_id, last.close, prompted, place.pending is None, not last.text, *map(bool, texts)
        shape: tuple[Any, ...] = (told, said, shape_of(messages[0], texts))
        if self._spell_control_tokens(texts[count:]):
            return None
        suffices = self._writer.heads.suffices(place.history)
        if self._needs.system or not suffices:
            shape = (*shape, _digest(self._writer.heads.system_of(place.history.first())))
        if not suffices:
            shape = (*shape, _digest(self._writer.heads.shape(place.history)))
        return Exchange(shape, texts, given)

    def _is_in_form(self, message: Message) -> bool:
        """Whether the template gets the calls of a message as they are: what is made of texts before goes unseen."""
        as_text = self._writer.template.profile.forms.arguments_as_text
        return all(isinstance(call["function"].get("arguments"), str) is as_text for call in message["tool_calls"])

    def _spell_control_tokens(self, texts: Sequence[str]) -> bool:
        """Whether texts that were given have to be marked before they are rendered."""
        return any(map(self._controls.occur_in_text, texts))

    def _record(self, place: TailPlace, message: Message, exchange: Exchange, tail: Tail) -> RecordedTail | None:
        """A recording that gives the tail it was learnt from; None where there is none."""
        recording, stop_id = learn(self._write_with, place, message, exchange.texts, tail), place.last.stop_id
        if recording is None or stop_id is None or self._writer.forgeries.may_join(recording.before, recording.after):
            return None
        around = self._codec.isolated_texts.surroundings(stop_id, recording.before, recording.after)
        if around is None:
            return None
        head = recording.start - (len(recording.before) - len(around.before))
        foot = recording.prompt - (len(recording.after) - len(around.after))
        known = RecordedTail(recording, around, max(0, head), max(0, foot))
        alike = self._tail_of(known, exchange.given, place)
        return known if alike == tail and alike.tokens.tolist() == tail.tokens.tolist() else None

    def _tail_of(self, known: RecordedTail, given: str, place: TailPlace) -> Tail:
        """The recorded tail with another message in it, after another turn."""
        recording, marks = known.recording, known.marks(given)
        ids, tokens, _ = self._codec.isolated_texts.encode_in(known.around, given, marks)
        starts, prompt = recording.tail.message_starts, recording.tail.generation_prompt_length
        if marks:
            starts = (tokens[0],) if known.head else starts
            prompt = len(ids) - tokens[1] if known.foot else prompt
        reports, pending = recording.reports_for(place), recording.pending_after(place.last)
        return Tail(ids, prompt, starts, reports, pending)


def _digest(value: Any) -> bytes:
    """What stands for a value in a shape, which is kept: system prompts and calls may be long."""
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).digest()


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
