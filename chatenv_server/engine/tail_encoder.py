"""Rendered text to a tail of the stream: its tokens, where each message begins, how long the generation prompt is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import FidelityKind, FidelityReport
from chatenv_client.reasons import Reason
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.controls import has_marks, seen_before
from chatenv_server.engine.conversation import PendingRewrite, Tail
from chatenv_server.engine.cut import Cut
from chatenv_server.engine.encodings import Encoded
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.heads import Heads
from chatenv_server.engine.locate import Place
from chatenv_server.engine.message_parts import MessageParts

_ANCHOR_TOKENS = 64
"""End of the committed stream that a tail may be encoded after."""


@dataclass
class WrittenTail:
    """What a template wrote from the end of what was sampled on, and what is known of it."""

    text: str
    prepared: Sequence[PreparedMessage]
    """The messages, in the template's form."""
    places: Sequence[Place]
    """Where each of them stands in the text."""
    close: str = ""
    """What the template writes before the first message of all: the close of the turn."""
    reports: Sequence[FidelityReport] = ()
    """What is not exact about the turn before."""
    faults: Sequence[FidelityReport] = ()
    """What is not exact about the messages."""
    pending_rewrite: PendingRewrite | None = None
    cut: Cut | None = None
    """Where the text was cut off a render; None for an opening, which is a render."""
    after_fallback: bool = False
    """Whether the skeleton was rendered before the text although the constant head should have done."""


class TailEncoder:
    """Encodes what one bound template writes. Safe for threads."""

    def __init__(self, template: BoundTemplate, heads: Heads) -> None:
        self._codec = template.chat_format.codec
        self._controls = template.chat_format.controls
        self._parts = MessageParts(template.profile, self._codec.common_prefix)
        self._asks = template.options.add_generation_prompt
        self._heads = heads

    def encode(self, text: str, before: Int32Array, marks: Sequence[int] = ()) -> Encoded:
        """Ids of a render that goes on after the tokens `before`.

        Raises:
            InvalidRequestError: a marked control-token string cannot be encoded as text.
        """
        try:
            return self._codec.encode_pieces(self._controls.split(text), before[-_ANCHOR_TOKENS:], marks)
        except ValueError as error:
            raise InvalidRequestError(
                f"a text spells a control token and cannot be escaped: {error}; remove it from the message",
                reason=Reason.CONTROL_TOKEN_IN_TEXT,
                field="messages",
            ) from error

    def tail(self, written: WrittenTail, before: Int32Array) -> Tail:
        """The tail of a render that goes on after the tokens `before`, of which only the end is read."""
        return self._tail(written, before, self.message_starts(written))

    def opening(self, written: WrittenTail, before: Int32Array) -> tuple[Tail, tuple[bool, ...]]:
        """The same of an opening; and of each message, whether a token begins where its part does.

        Else a token holds the end of one message's part and the beginning of the next one's.
        """
        starts = self.message_starts(written)
        after = [min(start + 1, len(written.text)) for start in starts]
        tail = self._tail(written, before, [*starts, *after])
        tokens, later = tail.message_starts[: len(starts)], tail.message_starts[len(starts) :]
        parted = tuple(token < next_token for token, next_token in zip(tokens, later, strict=True))
        return replace(tail, message_starts=tokens), parted

    def text_spans(self, text: str, places: Sequence[Place], before: Int32Array) -> list[tuple[int, int]]:
        """(start, stop) in a render's tokens of each place, as tokens that begin there; encodes the text once more."""
        edges = [edge for place in places for edge in (place.start, place.stop)]
        marks = self.encode(text, before, seen_before(text, edges) if has_marks(text) else edges).marks
        return list(zip(marks[::2], marks[1::2], strict=True))

    def _tail(self, written: WrittenTail, before: Int32Array, characters: list[int]) -> Tail:
        """The tail, with the tokens at some characters as the beginnings of messages."""
        text, prompt = written.text, self.prompt_at_end(written.text)
        if prompt:
            characters.append(len(text) - len(prompt))
        if has_marks(text):
            characters = seen_before(text, characters)
        encoded = self.encode(text, before, characters)
        prompt_length = len(encoded.ids) - encoded.marks.pop() if prompt else 0
        reports = [*written.reports, *([_boundary_merge(len(before))] if encoded.merged else []), *written.faults]
        return Tail(encoded.ids, prompt_length, tuple(encoded.marks), tuple(reports), written.pending_rewrite)

    def prompt_at_end(self, text: str) -> str:
        """The generation prompt, where a text ends in it; else nothing."""
        prompt = self._heads.generation_prompt if self._asks else ""
        return prompt if text.endswith(prompt) else ""

    def message_starts(self, written: WrittenTail) -> list[int]:
        """First character of each message's part: after the close of what stands before it."""
        return self._parts.starts(written.text, written.places, written.prepared, written.close)


def _boundary_merge(position: int) -> FidelityReport:
    detail = "text would merge across the end of the sampled span"
    return FidelityReport(FidelityKind.BOUNDARY_MERGE, detail, position)
