"""The plain path: any object with `apply_chat_template` and `decode`, of which nothing else is known.

Tails are found by comparing token ids: two renders that differ only in a dummy assistant message share everything
after it. Costs the tail, whatever the history. What is merged across a boundary cannot be seen here, so the server
says `plain_path`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import FidelityKind, FidelityReport, Message, StopReason, TokenText
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array, as_token_ids
from chatenv_server.engine.conversation import (
    EMPTY_TAIL,
    KnownText,
    ReadTurn,
    RenderOptions,
    Reopening,
    SampledTurn,
    Tail,
    TailPlace,
)
from chatenv_server.engine.encodings import UNREADABLE

_HEAD: Message = {"role": "user", "content": "a"}
_DUMMIES = ("b", "c d")


class PlainPath:
    """A tokenizer that is only known by `apply_chat_template` and `decode`."""

    exact = False
    features = ("plain_path",)
    turn_parser = "verbatim"
    template_fingerprint = ""

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        for name in ("apply_chat_template", "decode"):
            if not callable(getattr(tokenizer, name, None)):
                raise TypeError(
                    f"a tokenizer needs `apply_chat_template` and `decode`; {type(tokenizer).__name__} has no `{name}`"
                )
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        self.tokenizer_fingerprint = hashlib.sha256(name.encode()).hexdigest()
        """SHA-256 of the tokenizer's name: nothing else is known of it."""

    @property
    def control_tokens(self) -> tuple[tuple[int, str, bool], ...]:
        """(id, text, whether it ends a sampled turn); only the stop tokens are known, without their texts."""
        return tuple((token_id, "", True) for token_id in sorted(self.stop_ids))

    def token_text(self, token_id: int) -> TokenText:
        """What a token decodes to by itself; an empty text where the tokenizer does not tell."""
        try:
            text = str(self.tokenizer.decode([token_id]))
        except Exception:  # noqa: BLE001 - anybody's code, asked about ids that it may never have heard of
            return TokenText(b"")
        return TokenText(text.encode(errors="replace"), token_id in self.stop_ids)

    def renderer(self, options: RenderOptions) -> PlainRenderer:
        """The path under one episode's options."""
        return PlainRenderer(self, options)


class PlainRenderer:
    """A plain tokenizer under certain options."""

    reads_history = False
    sees_rewrites = False

    def __init__(self, path: PlainPath, options: RenderOptions) -> None:
        self.options = options
        self._tokenizer = path.tokenizer
        self._stop_ids = path.stop_ids

    def _apply(self, messages: Sequence[Mapping[str, Any]], prompt: bool) -> Int32Array:
        tools = None if self.options.tools is None else list(self.options.tools)
        try:
            rendered = self._tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                add_generation_prompt=prompt,
                tokenize=True,
                return_dict=False,
                **self.options.template_kwargs,
            )
        except Exception as error:
            raise TemplateRejectedError(
                f"the tokenizer's apply_chat_template rejects these messages ({type(error).__name__})", field="messages"
            ) from error
        return as_token_ids(rendered["input_ids"] if isinstance(rendered, Mapping) else rendered)

    def opening(self, messages: Sequence[Message], reopening: Reopening | None = None) -> Tail:
        """Everything up to the first sampled token: `apply_chat_template(messages)`."""
        if not messages:
            return EMPTY_TAIL
        asked, unasked = (self._apply(messages, prompt) for prompt in (self.options.add_generation_prompt, False))
        return Tail(asked, _prompt_length(asked, unasked), self._starts(messages, len(unasked)))

    def opening_inside(self, messages: Sequence[Message]) -> Tail:
        """Not known here: where a message ends in tokens, nobody can tell."""
        raise TemplateRejectedError("continue_final_message needs a fast tokenizer", field="continue_final_message")

    def _starts(self, messages: Sequence[Message], end: int) -> tuple[int, ...]:
        """First token of each message: the length of the render of those before it, where that is a length at all."""
        starts = [0]
        for count in range(1, len(messages)):
            try:
                starts.append(min(end, max(starts[-1], len(self._apply(messages[:count], False)))))
            except TemplateRejectedError:
                starts.append(starts[-1])
        return tuple(starts)

    def tail(self, place: TailPlace, messages: Sequence[Message]) -> Tail:
        """Everything after the sampled turn: what two renders with different dummies for it have in common."""
        if not messages:
            return EMPTY_TAIL
        asked = self._after_dummy(messages, self.options.add_generation_prompt)
        unasked = self._after_dummy(messages, False)
        taken, report = self._said(asked, place.last)
        tokens = asked[taken:]
        prompt = _prompt_length(asked, unasked)
        closes = len(self._after_dummy([], False)) - taken
        starts = (max(0, min(closes, len(tokens) - prompt)),) * len(messages)
        return Tail(tokens, prompt, starts, (report,) if report is not None else ())

    def _after_dummy(self, messages: Sequence[Message], prompt: bool) -> Int32Array:
        first, second = (
            self._apply([_HEAD, {"role": "assistant", "content": text}, *messages], prompt) for text in _DUMMIES
        )
        shared = _shared_end(first, second)
        return first[len(first) - shared :]

    def _said(self, close: Int32Array, last: SampledTurn) -> tuple[int, FidelityReport | None]:
        """How much of the close the sampled span already holds, and what is to be told about it."""
        if last.stop_id is None:
            if last.stop_reason is StopReason.STOP or len(close) == 0:
                return 0, None
            return 0, FidelityReport(
                FidelityKind.TRUNCATED_TURN_CLOSED,
                "the turn has no stop token; its close was written as template tokens",
                last.start,
                last.message_index,
            )
        if len(close) and int(close[0]) == last.stop_id:
            return 1, None
        found = [int(i) for i in np.flatnonzero(close == last.stop_id)[:1]]
        if found and found[0] < len(self._after_dummy([], False)):
            return found[0] + 1, None
        return 0, FidelityReport(
            FidelityKind.NONCANONICAL_STOP,
            "the turn ended in another stop token than the template's",
            last.start,
            last.message_index,
        )

    def read_turn(
        self, ids: Int32Array, before: Int32Array, index: int, *, prompted: bool, known: KnownText | None = None
    ) -> ReadTurn:
        """Decode a sampled span; its text stays verbatim. Nothing tells that it could be decoded in parts."""
        stop_id = int(ids[-1]) if len(ids) and int(ids[-1]) in self._stop_ids else None
        text = self.text_of(ids if stop_id is None else ids[:-1])
        stops = np.flatnonzero(np.isin(ids[:-1], list(self._stop_ids)))
        return ReadTurn(
            {"role": "assistant", "content": text},
            text,
            "",
            stop_id,
            undecodable=UNREADABLE in text,
            inner_stop=int(stops[0]) if len(stops) else None,
        )

    def says_controls(self, ids: Int32Array, message: Message) -> bool:
        """Nothing is escaped here, so nobody need know."""
        return False

    def text_of(self, ids: Int32Array) -> str:
        """The text of a stretch of the stream."""
        return str(self._tokenizer.decode(ids.tolist()))

    def in_form(self, message: Message) -> Message:
        """The message as it is: nothing is known of forms here."""
        return message

    def whole_tokens(self, messages: Sequence[Message], prompt: bool) -> Int32Array:
        """The full rendering of a conversation."""
        return self._apply(messages, prompt) if messages else EMPTY_TOKENS

    def beginnings(self, messages: Sequence[Message]) -> Callable[[int, bool], Int32Array]:
        """The full rendering of so many leading messages of a conversation."""
        return lambda count, prompt: self.whole_tokens(messages[:count], prompt)


def _prompt_length(asked: Int32Array, unasked: Int32Array) -> int:
    if len(asked) > len(unasked) and np.array_equal(asked[: len(unasked)], unasked):
        return len(asked) - len(unasked)
    return 0


def _shared_end(left: Int32Array, right: Int32Array) -> int:
    shared = min(len(left), len(right))
    different = np.flatnonzero(left[len(left) - shared :] != right[len(right) - shared :])
    return shared - int(different[-1]) - 1 if len(different) else shared
