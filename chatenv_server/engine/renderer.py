"""A chat format under certain options (tools, arguments, clock, policies): openings, tails and sampled turns.

Holds no history; an episode's log hands over what is needed. Knows nothing of episodes by id or of gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from chatenv_client.errors import InvalidRequestError, TemplateRejectedError
from chatenv_client.models import ControlTokenPolicy, FidelityKind, FidelityReport, Message, MessageSnapshot, is_plain
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array
from chatenv_server.engine.codec import Encoded
from chatenv_server.engine.controls import has_marks, strings_in, without_marks
from chatenv_server.engine.conversation import EMPTY_TAIL, PendingRewrite, ReadTurn, RenderOptions, SampledTurn, Tail
from chatenv_server.engine.cut import Cut, PreparedMessage, cuts_behind, rewritten, take_off_said
from chatenv_server.engine.forms import texts_of
from chatenv_server.engine.frames import Exchange, Frame, Frames, Shape
from chatenv_server.engine.locate import Place, locate
from chatenv_server.engine.parsing import TurnParser
from chatenv_server.engine.probe import PROBE_CALL_ID, SENTINEL, assistant, user
from chatenv_server.engine.rewrites import first_to_forget, is_rewritten
from chatenv_server.engine.template import clock_at

if TYPE_CHECKING:
    from chatenv_server.engine.chat_format import ChatFormat

_ANCHOR_TOKENS = 64
"""End of the committed stream that a tail may be encoded behind."""


class TemplateRenderer:
    """A chat format under certain options, shared by all episodes that have the same. Safe for threads."""

    def __init__(self, chat_format: ChatFormat, options: RenderOptions) -> None:
        self._format = chat_format
        self._profile = chat_format.profile
        self._codec = chat_format.codec
        self.options = options
        self.reads_history = chat_format.profile.needs_skeleton
        self.rendered_characters = 0
        """Characters rendered so far, for tests; several threads may miscount."""
        self.encoded_characters = 0
        """Characters encoded so far."""
        self._asked: dict[bool, str] = {}
        self._frames = Frames()

    # -- what templates see -----------------------------------------------------------------------

    @cached_property
    def _variables(self) -> dict[str, Any]:
        tools = None if self.options.tools is None else self._marked(list(self.options.tools), "tools")
        return {
            **self._format.special_tokens,
            "documents": None,
            **self._marked(dict(self.options.template_kwargs), "chat_template_kwargs"),
            "tools": tools,
            "strftime_now": clock_at(self.options.clock_unix_seconds),
        }

    @cached_property
    def _tail_variables(self) -> dict[str, Any]:
        return self._variables if self._profile.needs_tools else {**self._variables, "tools": None}

    def _render_opening(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        return self._counted(self._format.template.render(messages, self._variables, add_generation_prompt=prompt))

    def _render_local(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        return self._counted(self._format.template.render(messages, self._tail_variables, add_generation_prompt=prompt))

    def _counted(self, text: str) -> str:
        self.rendered_characters += len(text)
        return text

    def prepare(self, message: Mapping[str, Any], path: str = "messages") -> PreparedMessage:
        """A message in the template's form, control-token strings in its texts marked.

        Raises:
            InvalidRequestError: it holds control-token strings and the policy is `reject`.
        """
        prepared: PreparedMessage = self._marked(self._profile.forms.apply(message), path)
        return prepared

    def _marked(self, value: Any, path: str) -> Any:
        policy = self.options.control_token_policy
        if policy is ControlTokenPolicy.ALLOW or not self._format.controls.occur_in(value):
            return value
        if policy is ControlTokenPolicy.REJECT:
            raise InvalidRequestError(
                "a text spells a control token of this tokenizer; remove it, or choose control_token_policy 'escape'",
                reason="CONTROL_TOKEN_IN_TEXT",
                field=path,
            )
        return self._format.controls.mark(value)

    # -- the opening ------------------------------------------------------------------------------

    def opening(self, messages: Sequence[Message]) -> Tail:
        """Everything up to the first sampled token, equal to `apply_chat_template(messages, tokenize=True)`.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        prepared = [self.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        text = self._render_unless_waiting(prepared)
        if text is None:
            return EMPTY_TAIL._replace(message_starts=(0,) * len(messages))
        places = locate(
            text,
            prepared,
            lambda others: self._render_opening(others, self.options.add_generation_prompt),
            self._literal_text,
        )
        reports = self._message_reports(prepared, places, 0, text) if _has_spoken(prepared) else []
        reports += self._term_reports(text) if _has_spoken(prepared) else []
        encoded = self._encode(text, EMPTY_TOKENS)
        starts = self._token_starts(text, encoded, self._message_starts(text, places, prepared, ""), EMPTY_TOKENS)
        return self._tail(text, encoded, starts, reports, self._new_watch(messages, 0, self._constant_head(messages)))

    def _render_unless_waiting(self, prepared: Sequence[PreparedMessage]) -> str | None:
        """The opening's text; None where the template only waits for somebody to speak."""
        try:
            return self._render_opening(prepared, self.options.add_generation_prompt)
        except TemplateRejectedError:
            if _has_spoken(prepared):
                raise
            self._render_opening([*prepared, self._profile.forms.apply(user())], True)
            return None

    def _term_reports(self, text: str) -> list[FidelityReport]:
        reports = [
            FidelityReport(FidelityKind.KWARG_UNUSED, f"the chat template never reads {name!r}")
            for name in self.options.template_kwargs
            if name not in self._format.template.variables and name not in self._format.special_tokens
        ]
        names = [tool.get("function", tool).get("name") for tool in self.options.tools or ()]
        if any(isinstance(name, str) and name not in without_marks(text) for name in names):
            reports.append(FidelityReport(FidelityKind.MESSAGE_DROPPED, "the chat template leaves out the tools"))
        return reports

    # -- tails ------------------------------------------------------------------------------------

    def tail(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        before: Int32Array,
        watch: PendingRewrite | None,
    ) -> Tail:
        """What the template writes behind the sampled turn `last` for the messages that follow it.

        Args:
            history: all messages before `last`; read only where the template's tails depend on them.
            before: (n,) int32, the committed stream; only its end is read.
            watch: an earlier message that later turns may make the template rewrite.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        exchange = self._exchange(last, messages) if self._learns_frames else None
        if exchange is not None and (frame := self._frames.find(exchange)) is not None:
            ids = self._encode_framed(frame, exchange.given, before)
            return Tail(ids, frame.generation_prompt_length, (frame.message_start,))
        tail = self._rendered_tail(history, last, messages, before, watch)
        if exchange is not None and not tail.reports:
            self._learn(exchange, tail, before)
        return tail

    def _rendered_tail(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        before: Int32Array,
        watch: PendingRewrite | None,
    ) -> Tail:
        prepared = [self.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        said = self._prepare_own(last.message)
        cut, places = self._cut(history, last, said, prepared)
        spoken = (place.start for place, message in zip(places, prepared, strict=True) if _stands_at(place, message))
        limit = next(spoken, len(cut.text))
        stop_text = self._stop_text(last.stop_id)
        rest = take_off_said(cut, last, stop_text, limit, self._profile)
        reports = ([] if cut.exact else [rewritten(last)]) + rest.reports
        if watch is not None and self._is_forgotten(watch, history, [said, *prepared]):
            reports.append(_forgotten(watch))
        end = before[-_ANCHOR_TOKENS:]
        encoded = self._encode(rest.text, end)
        if encoded.merged:
            reports.append(
                FidelityReport(
                    FidelityKind.BOUNDARY_MERGE, "text would merge across the end of the sampled span", len(before)
                )
            )
        reports += self._message_reports(prepared, places, last.message_index + 1, rest.text)
        places = [place.moved(len(rest.taken)) for place in places]
        close = self._profile.role_closes.get("assistant", "").removeprefix(last.close)
        watch = self._new_watch(messages, last.message_index + 1, self._constant_head(history.first()), last)
        starts = self._token_starts(rest.text, encoded, self._message_starts(rest.text, places, prepared, close), end)
        return self._tail(rest.text, encoded, starts, reports, watch)

    def _cut(
        self, history: MessageSnapshot, last: SampledTurn, said: PreparedMessage, tail: Sequence[PreparedMessage]
    ) -> tuple[Cut, list[Place]]:
        """Cut behind the constant head, or behind the skeleton where the template looks further back than that."""
        if not self._profile.needs_skeleton:
            head = self._constant_head(history.first())
            try:
                return self._cut_at(head, last, said, tail, self._asked_behind(head, self._was_prompted(last)))
            except TemplateRejectedError:
                pass  # a template may take these messages only in their true place
        head = self._skeleton(history)
        return self._cut_at(head, last, said, tail, self._render_local(head, self._was_prompted(last)))

    # -- tails that need no render ----------------------------------------------------------------

    @cached_property
    def _learns_frames(self) -> bool:
        profile = self._profile
        looks_around = profile.needs_skeleton or profile.needs_system or profile.forgets
        return self._format.template.is_traceable and not looks_around and not profile.forms.parts_roles

    def _exchange(self, last: SampledTurn, messages: Sequence[Message]) -> Exchange | None:
        """The turn and the messages behind it, where both are nothing but text and nothing needs a report."""
        if len(messages) != 1 or last.stop_id is None or not (_says(last.message) and _says(messages[0])):
            return None
        given: Any = messages[0]["content"]
        if last.message["content"] != last.text or self._format.controls.occur_in_text(given):
            return None
        shape = Shape(messages[0]["role"], last.stop_id, last.close, self._was_prompted(last))
        return Exchange(shape, last.text, given)

    def _learn(self, exchange: Exchange, tail: Tail, before: Int32Array) -> None:
        """Learn from an exchange what the template writes around others like it."""
        lesson = self._frames.lesson(exchange)
        if lesson is None:
            return
        messages = [
            {"role": "assistant", "content": lesson.said},
            {"role": exchange.shape.role, "content": lesson.given},
        ]
        try:
            whole = self._render_local([*self._constant_head(()), *messages], self.options.add_generation_prompt)
        except TemplateRejectedError:
            return  # taken only in its true place, behind the skeleton
        around = lesson.around_given(whole, self._literal_text)
        if around is None or not around[1].endswith(self._generation_prompt):
            return
        # The message's part has to begin where no text can move it.
        start = tail.message_starts[0]
        is_fixed = start == 0 or self._codec.parts(int(tail.tokens[start]))
        frame = lesson.frame(around, start, tail.generation_prompt_length)
        alike = self._encode_framed(frame, exchange.given, before)
        if is_fixed and self._prompt_token_count is not None and np.array_equal(alike, tail.tokens):
            self._frames.add(exchange, self._enclosed(frame, exchange, tail))

    def _enclosed(self, frame: Frame, exchange: Exchange, tail: Tail) -> Frame:
        """The frame with what is always the same about its ids, where that gives the tail it was learnt from."""
        enclosures = self._codec.enclosures
        enclosure = enclosures.find(exchange.shape.stop_id, frame.before, frame.after)
        if enclosure is None:
            return frame
        alike = enclosures.encode(enclosure, exchange.given)
        if alike is None or not np.array_equal(alike, tail.tokens):
            return frame
        enclosures.expect(exchange.shape.role, enclosure)
        return frame._replace(enclosure=enclosure)

    def _encode_framed(self, frame: Frame, given: str, before: Int32Array) -> Int32Array:
        if frame.enclosure is not None:
            self.encoded_characters += len(given)
            ids = self._codec.enclosures.encode(frame.enclosure, given)
            if ids is not None:
                return ids
        return self._encode(frame.before + given + frame.after, before[-_ANCHOR_TOKENS:]).ids

    def _was_prompted(self, last: SampledTurn) -> bool:
        """Whether the header of the turn was the prompt's, not the model's own."""
        return last.after_prompt and (last.prompted or not last.text.startswith(self._turn_header))

    def _cut_at(
        self,
        head: Sequence[PreparedMessage],
        last: SampledTurn,
        said: PreparedMessage,
        tail: Sequence[PreparedMessage],
        asked: str,
    ) -> tuple[Cut, list[Place]]:
        """The first cut behind which all messages of the tail are found; the first of all where there is none."""

        def render(messages: Sequence[PreparedMessage]) -> str:
            return self._render_local(messages, self.options.add_generation_prompt)

        first: tuple[Cut, list[Place]] | None = None
        for cut in cuts_behind(head, last, said, tail, render, asked):
            places = locate(cut.text, tail, partial(_behind_cut, render, head, cut), self._literal_text)
            if not any(place.dropped for place in places):
                return cut, places
            first = first or (cut, places)
        if first is None:
            raise TemplateRejectedError("the chat template leaves out the last assistant turn", field="messages")
        return first

    def _constant_head(self, opening: Sequence[Message]) -> list[PreparedMessage]:
        """What stands for all that came before; with the conversation's system message where tails depend on it."""
        return [*(self._system_of(opening) if self._profile.needs_system else ()), self._profile.forms.apply(user())]

    def _system_of(self, opening: Sequence[Message]) -> list[PreparedMessage]:
        """The system message that a conversation begins with, if it does."""
        return [self.prepare(message) for message in opening[:1] if message["role"] in ("system", "developer")]

    def _skeleton(self, history: MessageSnapshot) -> list[PreparedMessage]:
        """The true roles and calls with one-letter texts: O(messages), whatever their length."""
        system = self._system_of(history.first())
        return [
            *system,
            *(
                self._profile.forms.apply(self._outline(message, i))
                for i, message in enumerate(history.since(len(system)))
            ),
        ]

    def _outline(self, message: Message, index: int) -> dict[str, Any]:
        """A message without its flesh: of its texts one letter, and what the template looks for in texts."""
        outline: dict[str, Any] = {
            key: value for key, value in message.items() if key not in ("content", "reasoning_content")
        }
        own = "".join(texts_of(message))
        tested = "".join(text for text in self._format.template.tested_texts if text in own)
        if message.get("role") != "assistant" and self.options.control_token_policy is ControlTokenPolicy.ESCAPE:
            tested = self._format.controls.mark(tested)
        outline["content"] = (
            tested + chr(ord("a") + index % 26) if message.get("content") else message.get("content", "")
        )
        return outline

    def _asked_behind(self, head: Sequence[PreparedMessage], prompt: bool) -> str:
        """What the template writes for the constant head."""
        if len(head) > 1:
            return self._render_local(head, prompt)
        if prompt not in self._asked:
            self._asked[prompt] = self._render_local(head, prompt)
        return self._asked[prompt]

    # -- turns that the template forgets ----------------------------------------------------------

    def _new_watch(
        self,
        messages: Sequence[Message],
        first: int,
        head: Sequence[PreparedMessage],
        last: SampledTurn | None = None,
    ) -> PendingRewrite | None:
        if not self._profile.forgets:
            return None
        record = [*([last.message] if last is not None else []), *messages]
        start = first - (last is not None)
        late = self._profile.forgets_late
        return first_to_forget(record, start, self._prepare_own, partial(self._render_behind, head), late=late)

    def _is_forgotten(self, watch: PendingRewrite, history: MessageSnapshot, later: Sequence[PreparedMessage]) -> bool:
        head = self._constant_head(history.first())
        return is_rewritten(watch, later, self._prepare_own, partial(self._render_behind, head))

    def _prepare_own(self, message: Message | dict[str, Any]) -> PreparedMessage:
        """A message of ours or on record in the template's form, its texts unmarked."""
        return self._profile.forms.apply(self._with_call_ids(message))

    def _render_behind(self, head: Sequence[PreparedMessage], messages: Sequence[PreparedMessage]) -> str:
        return self._render_local([*head, *messages], False)

    def _with_call_ids(self, message: Message | dict[str, Any]) -> Message | dict[str, Any]:
        """The message with an id on every call, for templates that insist on one."""
        if not message.get("tool_calls"):
            return message
        calls = (
            [{"id": PROBE_CALL_ID, **call} for call in message["tool_calls"]]
            if self._profile.needs_call_ids
            else message["tool_calls"]
        )
        return {**message, "tool_calls": calls}

    # -- reports, spans, encoding -----------------------------------------------------------------

    @property
    def _literal_text(self) -> str:
        return self._format.template.literal_text

    def _message_reports(
        self, prepared: Sequence[PreparedMessage], places: Sequence[Place], first: int, text: str
    ) -> list[FidelityReport]:
        escaped = has_marks(text)
        return [
            FidelityReport(kind, detail, message_index=index)
            for index, (message, place) in enumerate(zip(prepared, places, strict=True), start=first)
            for kind, detail in _message_faults(message, place, text, escaped)
        ]

    def _encode(self, text: str, before: Int32Array) -> Encoded:
        self.encoded_characters += len(text)
        try:
            return self._codec.encode_pieces(self._format.controls.split(text), before)
        except ValueError as error:
            raise InvalidRequestError(
                f"a text spells a control token and cannot be escaped: {error}; remove it from the message",
                reason="CONTROL_TOKEN_IN_TEXT",
                field="messages",
            ) from error

    def _tail(
        self,
        text: str,
        encoded: Encoded,
        starts: Sequence[int],
        reports: Sequence[FidelityReport],
        watch: PendingRewrite | None,
    ) -> Tail:
        position = _plain_positions(text)
        prompt = self._generation_prompt_in(text)
        prompt_length = self._prompt_token_count if prompt else 0
        if prompt_length is None:
            prompt_length = len(encoded.ids) - encoded.tokens_at([position(len(text) - len(prompt))])[0]
        return Tail(encoded.ids, prompt_length, tuple(starts), tuple(reports), watch)

    def _token_starts(self, text: str, encoded: Encoded, starts: Sequence[int], before: Int32Array) -> list[int]:
        """First token of each message's part, for its first character."""
        if len(starts) == 1:
            length = self._codec.length_behind(before, text[: starts[0]], text)
            if length is not None:
                return [length]
        position = _plain_positions(text)
        return encoded.tokens_at([position(start) for start in starts])

    def _message_starts(
        self, text: str, places: Sequence[Place], prepared: Sequence[PreparedMessage], close: str
    ) -> list[int]:
        """First character of each message's part: behind the close of what stands before it."""
        starts = []
        behind = 0
        for place, message in zip(places, prepared, strict=True):
            starts.append(behind + len(self._codec.common_prefix(text[behind : place.start], close)))
            behind = place.stop
            close = self._profile.role_closes.get(message.get("role", ""), "")
        return starts

    def _generation_prompt_in(self, text: str) -> str:
        prompt = self._generation_prompt if self.options.add_generation_prompt else ""
        return prompt if prompt and text.endswith(prompt) else ""

    @cached_property
    def _prompt_token_count(self) -> int | None:
        return self._codec.fixed_length(self._generation_prompt)

    @cached_property
    def _generation_prompt(self) -> str:
        try:
            asked, unasked = (self._render_local(self._constant_head(()), prompt) for prompt in (True, False))
        except TemplateRejectedError:
            return ""
        return asked[len(self._codec.common_prefix(asked, unasked)) :]

    @cached_property
    def _parser(self) -> TurnParser:
        return self._format.parser_for(self.options.template_kwargs)

    # -- sampled turns ----------------------------------------------------------------------------

    @cached_property
    def _turn_header(self) -> str:
        """What a turn begins with, as far as it is nothing that is said."""
        header = self._generation_prompt.removesuffix(self._parser.opening)
        try:
            head = self._constant_head(())
            written = self._render_local([*head, self._prepare_own(assistant(SENTINEL))], False)
        except TemplateRejectedError:
            return header
        start = len(self._asked_behind(head, True)) - len(self._generation_prompt)
        return self._codec.common_prefix(header, written[start:])

    @cached_property
    def _unprompted_parser(self) -> TurnParser:
        return self._parser.after("")

    def read_turn(self, ids: Int32Array, before: Int32Array, *, prompted: bool) -> ReadTurn:
        """Decode and parse a sampled span behind the prompt that ends in `before`. Never raises; the tokens stay."""
        last = ids.item(-1) if len(ids) else None
        stop_id = last if last in self._profile.stop_ids else None
        text, close = self._without_close(self._codec.decode_behind(before, ids), stop_id)
        # Where no prompt asked the model to speak, it writes the header of its turn itself.
        said = text if prompted else text.removeprefix(self._turn_header)
        parsed = (self._parser if prompted else self._unprompted_parser).parse(said)
        message: Message = parsed.as_message()  # type: ignore[assignment]
        merges = self._codec.merges(before, ids)
        return ReadTurn(message, text, close, stop_id, parsed.problems, "\ufffd" in text, merges)

    def _without_close(self, text: str, stop_id: int | None) -> tuple[str, str]:
        """A turn's text in two: what it says, and what it holds of the template's close, through the stop token."""
        if stop_id is None:
            return text, ""
        whole, stop_text = self._closes[stop_id]
        close = whole if text.endswith(whole) else stop_text
        return text.removesuffix(close), close

    @cached_property
    def _closes(self) -> dict[int, tuple[str, str]]:
        """By stop token: the template's close through it, and its own text."""
        closes = {}
        close = self._profile.role_closes.get("assistant", "")
        for stop_id in self._profile.stop_ids:
            stop_text = self._stop_text(stop_id)
            before_stop = close.partition(stop_text)[0] if stop_text else ""
            closes[stop_id] = (before_stop + stop_text, stop_text)
        return closes

    def _stop_text(self, stop_id: int | None) -> str:
        return "" if stop_id is None else self._codec.added_tokens.get(stop_id, "")

    # -- the whole conversation, for audits -------------------------------------------------------

    def text_of(self, ids: Int32Array) -> str:
        """The text of a whole stream, control tokens shown."""
        return self._codec.decode(ids)

    def whole_tokens(self, messages: Sequence[Message], prompt: bool) -> Int32Array:
        """The full tokenisation of a conversation. Costs time proportional to it."""
        prepared = [self._profile.forms.apply(message) for message in messages]
        if self.options.control_token_policy is not ControlTokenPolicy.ALLOW:
            # A model may spell control tokens whatever the policy, which is about messages that are given.
            prepared = self._format.controls.mark(prepared)
        return self._encode(self._render_opening(prepared, prompt), EMPTY_TOKENS).ids


def _behind_cut(
    render: Callable[[Sequence[PreparedMessage]], str],
    head: Sequence[PreparedMessage],
    cut: Cut,
    tail: Sequence[PreparedMessage],
) -> str:
    """What stands behind the same cut with another tail."""
    return render([*head, cut.mirror, *tail])[cut.position :]


def _says(message: Message) -> bool:
    """Whether a message is nothing but a text that says something."""
    return is_plain(message) and message["content"] != ""


def _has_spoken(messages: Sequence[PreparedMessage]) -> bool:
    return any(message.get("role") not in ("system", "developer") for message in messages)


def _stands_at(place: Place, message: PreparedMessage) -> bool:
    return not place.dropped and bool(texts_of(message))


def _message_faults(
    message: PreparedMessage, place: Place, text: str, escaped: bool
) -> Iterator[tuple[FidelityKind, str]]:
    if place.dropped:
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves this message out"
    elif place.altered:
        yield FidelityKind.CONTENT_ALTERED, "the chat template changes this message's text"
    if any(not _shows_call(call, text) for call in message.get("tool_calls") or ()):
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves out this message's tool_calls"
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning.strip() not in text:
        yield FidelityKind.MESSAGE_DROPPED, "the chat template leaves out this message's reasoning_content"
    if escaped and any(has_marks(own) for own in strings_in(message)):
        yield FidelityKind.CONTROL_TOKEN_ESCAPED, "control-token strings in this message were encoded as text"


def _shows_call(call: Mapping[str, Any], text: str) -> bool:
    return str(call.get("function", call).get("name", "")) in text


def _forgotten(watch: PendingRewrite) -> FidelityReport:
    return FidelityReport(
        FidelityKind.HISTORY_REWRITTEN,
        "the template writes this turn differently now that later turns have come",
        message_index=watch.message_index,
    )


def _plain_positions(text: str) -> Callable[[int], int]:
    """Maps positions in a marked text to positions in the text without its marks."""
    if not has_marks(text):
        return lambda position: position
    return lambda position: len(without_marks(text[:position]))
