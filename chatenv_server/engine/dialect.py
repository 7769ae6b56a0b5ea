"""One chat template on one fast tokenizer: openings, tails and sampled turns, exactly as the template writes them.

Probed once, immutable, shared by all episodes and threads. Knows nothing of episodes by id or of gRPC.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from chatenv_client.errors import InvalidRequestError, TemplateRejectedError
from chatenv_client.models import ControlTokenPolicy, FidelityKind, FidelityReport, Message, MessageSnapshot
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array, TokenSnapshot
from chatenv_server.engine.codec import Codec, Encoded
from chatenv_server.engine.controls import ControlTokens, without_marks
from chatenv_server.engine.forms import texts_of
from chatenv_server.engine.locate import Place, locate
from chatenv_server.engine.parsing import TurnParser
from chatenv_server.engine.probe import PROBE_CALL_ID, Profile, learn_parser, probe, tool_result, user
from chatenv_server.engine.tail import Cut, PreparedMessage, cut_behind, rewritten, take_off_said
from chatenv_server.engine.template import ChatTemplate, clock_at
from chatenv_server.engine.turns import EMPTY_TAIL, ReadTurn, SampledTurn, Tail, Terms, Watch

_MOST_PARSERS = 256
"""Different template arguments whose parser is kept; callers choose the arguments, so there must be a bound."""

_ANCHOR_TOKENS = 64
"""End of the committed stream that a tail may be encoded behind."""


class TemplateDialect:
    """The exact path: a fast tokenizer and its Jinja template."""

    exact = True

    def __init__(
        self, template: ChatTemplate, codec: Codec, special_tokens: Mapping[str, str], stop_ids: Sequence[int]
    ) -> None:
        self.template = template
        self.codec = codec
        self.special_tokens = dict(special_tokens)
        self.profile: Profile = probe(template, codec, special_tokens, stop_ids)
        self.controls = ControlTokens(self._control_texts(), codec.added_tokens.values())
        self._parsers: dict[str, TurnParser] = {}

    def _control_texts(self) -> list[str]:
        """Special tokens, and added tokens that the template writes; white space excepted, which templates hold as
        plain text.
        """
        texts = self.codec.added_tokens.items()
        written = self.template.literal_text
        return [text for i, text in texts if i in self.codec.special_ids or (text in written and not text.isspace())]

    def parser_for(self, template_kwargs: Mapping[str, Any]) -> TurnParser:
        """The parser for turns sampled under these template arguments, which decide whether a thought is open when
        sampling starts.
        """
        key = json.dumps(template_kwargs, sort_keys=True, default=str)
        if key not in self._parsers and len(self._parsers) < _MOST_PARSERS:
            self._parsers[key] = self._learn_parser(template_kwargs)
        return self._parsers.get(key) or self._learn_parser(template_kwargs)

    def _learn_parser(self, template_kwargs: Mapping[str, Any]) -> TurnParser:
        variables = {
            **self.special_tokens,
            **template_kwargs,
            "tools": None,
            "documents": None,
            "strftime_now": clock_at(0.0),
        }

        def render(messages: Sequence[Mapping[str, Any]], prompt: bool) -> str | None:
            try:
                prepared = [self.profile.forms.apply(message) for message in messages]
                return self.template.render(prepared, variables, add_generation_prompt=prompt)
            except TemplateRejectedError:
                return None

        return learn_parser(render, [self.codec.added_tokens[i] for i in self.stop_ids if i in self.codec.added_tokens])

    def scene(self, terms: Terms) -> TemplateScene:
        """What this dialect does under one episode's terms."""
        return TemplateScene(self, terms)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a sampled turn."""
        return self.profile.stop_ids


class TemplateScene:
    """A dialect under the terms of one episode: its tools, template arguments, clock and policies. Holds no
    history.
    """

    def __init__(self, dialect: TemplateDialect, terms: Terms) -> None:
        self._dialect = dialect
        self._profile = dialect.profile
        self._codec = dialect.codec
        self.terms = terms
        self.rendered_characters = 0
        """Characters rendered so far, for tests and metrics."""
        self.encoded_characters = 0
        """Characters encoded so far."""
        self._system: list[PreparedMessage] = []

    # -- what templates see -----------------------------------------------------------------------

    @cached_property
    def _variables(self) -> dict[str, Any]:
        tools = None if self.terms.tools is None else self._marked(list(self.terms.tools), "tools")
        return {
            **self._dialect.special_tokens,
            "documents": None,
            **self._marked(dict(self.terms.template_kwargs), "chat_template_kwargs"),
            "tools": tools,
            "strftime_now": clock_at(self.terms.clock_unix_seconds),
        }

    @cached_property
    def _tail_variables(self) -> dict[str, Any]:
        return self._variables if self._profile.needs_tools else {**self._variables, "tools": None}

    def _render_opening(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        return self._counted(self._dialect.template.render(messages, self._variables, add_generation_prompt=prompt))

    def _render_local(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        return self._counted(
            self._dialect.template.render(messages, self._tail_variables, add_generation_prompt=prompt)
        )

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
        policy = self.terms.control_token_policy
        if policy is ControlTokenPolicy.ALLOW or not self._dialect.controls.occur_in(value):
            return value
        if policy is ControlTokenPolicy.REJECT:
            raise InvalidRequestError(
                "a text spells a control token of this tokenizer; remove it, or choose control_token_policy 'escape'",
                reason="CONTROL_TOKEN_IN_TEXT",
                field=path,
            )
        return self._dialect.controls.mark(value)

    # -- the opening ------------------------------------------------------------------------------

    def opening(self, messages: Sequence[Message]) -> Tail:
        """Everything up to the first sampled token, equal to `apply_chat_template(messages, tokenize=True)`.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        prepared = [self.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        self._system = [message for message in prepared[:1] if message.get("role") in ("system", "developer")]
        text = self._render_unless_waiting(prepared)
        if text is None:
            return replace(EMPTY_TAIL, message_starts=(0,) * len(messages))
        places = locate(
            text,
            prepared,
            lambda others: self._render_opening(others, self.terms.add_generation_prompt),
            self._literal_text,
        )
        reports = self._message_reports(prepared, places, 0, text) if _has_spoken(prepared) else []
        reports += self._term_reports(text) if _has_spoken(prepared) else []
        encoded = self._encode(text, EMPTY_TOKENS)
        return replace(self._tail(text, encoded, places, prepared, "", reports), watch=self._new_watch(messages, 0))

    def _render_unless_waiting(self, prepared: Sequence[PreparedMessage]) -> str | None:
        """The opening's text; None where the template only waits for somebody to speak."""
        try:
            return self._render_opening(prepared, self.terms.add_generation_prompt)
        except TemplateRejectedError:
            if _has_spoken(prepared):
                raise
            self._render_opening([*prepared, self._profile.forms.apply(user())], True)
            return None

    def _term_reports(self, text: str) -> list[FidelityReport]:
        reports = [
            FidelityReport(FidelityKind.KWARG_UNUSED, f"the chat template never reads {name!r}")
            for name in self.terms.template_kwargs
            if name not in self._dialect.template.variables and name not in self._dialect.special_tokens
        ]
        names = [tool.get("function", tool).get("name") for tool in self.terms.tools or ()]
        if any(isinstance(name, str) and name not in without_marks(text) for name in names):
            reports.append(FidelityReport(FidelityKind.MESSAGE_DROPPED, "the chat template leaves out the tools"))
        return reports

    # -- tails ------------------------------------------------------------------------------------

    def tail(
        self,
        history: MessageSnapshot,
        last: SampledTurn,
        messages: Sequence[Message],
        before: TokenSnapshot,
        watch: Watch | None,
    ) -> Tail:
        """What the template writes behind the sampled turn `last` for the messages that follow it.

        Args:
            history: all messages before `last`; read only where the template's tails depend on them.
            before: the committed stream; only its end is read.
            watch: an earlier message that later turns may make the template rewrite.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        if not messages:
            return EMPTY_TAIL
        prepared = [self.prepare(message, f"messages[{i}]") for i, message in enumerate(messages)]
        said = self._profile.forms.apply(self._with_call_ids(last.message))
        head, cut = self._cut(history, last, said, prepared)
        places = locate(cut.text, prepared, lambda others: self._behind_same_cut(head, cut, others), self._literal_text)
        limit = next(
            (place.start for place, message in zip(places, prepared, strict=True) if texts_of(message)), len(cut.text)
        )
        stop_text = "" if last.stop_id is None else self._codec.added_tokens.get(last.stop_id, "")
        rest = take_off_said(cut, last, stop_text, limit, self._profile)
        reports = ([] if cut.exact else [rewritten(last)]) + rest.reports
        if watch is not None and self._is_rewritten(watch, said, prepared):
            reports.append(_forgotten(watch))
        encoded = self._encode(rest.text, before.since(max(0, len(before) - _ANCHOR_TOKENS)))
        if encoded.merged:
            reports.append(
                FidelityReport(
                    FidelityKind.BOUNDARY_MERGE, "text would merge across the end of the sampled span", len(before)
                )
            )
        reports += self._message_reports(prepared, places, last.message_index + 1, rest.text)
        moved = [
            replace(place, start=max(0, place.start - len(rest.taken)), stop=max(0, place.stop - len(rest.taken)))
            for place in places
        ]
        close = self._profile.role_closes.get("assistant", "").removeprefix(stop_text)
        return replace(
            self._tail(rest.text, encoded, moved, prepared, close, reports),
            watch=self._new_watch(messages, last.message_index + 1, last),
        )

    def _cut(
        self, history: MessageSnapshot, last: SampledTurn, said: PreparedMessage, tail: Sequence[PreparedMessage]
    ) -> tuple[list[PreparedMessage], Cut]:
        """Cut behind the constant head; behind the skeleton where the tail depends on it or the constant head is
        rejected.
        """
        if not self._profile.needs_skeleton:
            try:
                return self._cut_at(self._constant_head, last, said, tail, self._asked_constant)
            except TemplateRejectedError:
                pass  # a template may take these messages only in their true place
        head = self._skeleton(history)
        return self._cut_at(head, last, said, tail, lambda prompt: self._asked(head, prompt))

    def _cut_at(
        self,
        head: list[PreparedMessage],
        last: SampledTurn,
        said: PreparedMessage,
        tail: Sequence[PreparedMessage],
        asked: Callable[[bool], str],
    ) -> tuple[list[PreparedMessage], Cut]:
        return head, cut_behind(
            head, last, said, tail, self._render_local, self.terms.add_generation_prompt, asked(last.after_prompt)
        )

    @cached_property
    def _constant_head(self) -> list[PreparedMessage]:
        return [*(self._system if self._profile.needs_system else ()), self._profile.forms.apply(user())]

    def _skeleton(self, history: MessageSnapshot) -> list[PreparedMessage]:
        """The true roles and calls with one-letter texts: O(messages), whatever their length."""
        system = list(self._system)
        return [
            *system,
            *(self._profile.forms.apply(_bones(message, i)) for i, message in enumerate(history.since(len(system)))),
        ]

    def _asked(self, head: Sequence[PreparedMessage], prompt: bool) -> str:
        return self._render_local(head, prompt)

    @cached_property
    def _asked_cache(self) -> dict[bool, str]:
        return {}

    def _asked_constant(self, prompt: bool) -> str:
        if prompt not in self._asked_cache:
            self._asked_cache[prompt] = self._asked(self._constant_head, prompt)
        return self._asked_cache[prompt]

    def _behind_same_cut(self, head: Sequence[PreparedMessage], cut: Cut, tail: Sequence[PreparedMessage]) -> str:
        whole = self._render_local([*head, cut.mirror, *tail], self.terms.add_generation_prompt)
        return whole[cut.position :]

    # -- turns that the template forgets ----------------------------------------------------------

    def _new_watch(self, messages: Sequence[Message], first: int, last: SampledTurn | None = None) -> Watch | None:
        """The first turn on record, `last` or among `messages`, that waits for tool results and that later turns
        will rewrite.
        """
        if not self._profile.forgets:
            return None
        record = [*([last.message] if last is not None else []), *messages]
        start = first - (last is not None)
        later = [self._profile.forms.apply(message) for message in ({"role": "assistant", "content": "x"}, user())]
        for index, (message, follower) in enumerate(zip(record, record[1:]), start=start):
            answered = message.get("role") == "assistant" and follower.get("role") == "tool"
            current = all(other.get("role") != "user" for other in record[index - start :])
            watch = Watch(message, index)
            if answered and current and self._is_rewritten(watch, None, later):
                return watch
        return None

    def _is_rewritten(self, watch: Watch, last: PreparedMessage | None, tail: Sequence[PreparedMessage]) -> bool:
        """Whether the template writes the watched turn differently once `last` and `tail` follow its tool results."""
        calls = watch.message.get("tool_calls") or [{"id": PROBE_CALL_ID}]
        results = [
            self._profile.forms.apply({**tool_result("Zq7xT3pR"), "tool_call_id": call.get("id", PROBE_CALL_ID)})
            for call in calls
        ]
        known = [*self._constant_head, self._profile.forms.apply(self._with_call_ids(watch.message)), *results]
        try:
            now = self._render_local(known, False)
            later = self._render_local([*known, *([last] if last is not None else []), *tail], False)
        except TemplateRejectedError:
            return False
        end = now.find("Zq7xT3pR")
        return end >= 0 and not later.startswith(now[:end])

    def _with_call_ids(self, message: Message) -> Message:
        """The message with an id on every call, for templates that insist on one."""
        if not message.get("tool_calls"):
            return message
        calls = (
            [{"id": PROBE_CALL_ID, **call} for call in message["tool_calls"]]
            if self._profile.needs_call_ids
            else message["tool_calls"]
        )
        return {**message, "tool_calls": calls}  # type: ignore[typeddict-item]

    # -- reports, spans, encoding -----------------------------------------------------------------

    @property
    def _literal_text(self) -> str:
        return self._dialect.template.literal_text

    def _message_reports(
        self, prepared: Sequence[PreparedMessage], places: Sequence[Place], first: int, text: str
    ) -> list[FidelityReport]:
        reports = []
        for index, (message, place) in enumerate(zip(prepared, places, strict=True), start=first):
            if place.dropped:
                reports.append(
                    FidelityReport(
                        FidelityKind.MESSAGE_DROPPED, "the chat template leaves this message out", message_index=index
                    )
                )
            elif place.altered:
                reports.append(
                    FidelityReport(
                        FidelityKind.CONTENT_ALTERED,
                        "the chat template changes this message's text",
                        message_index=index,
                    )
                )
            for part in _parts_left_out(message, text):
                reports.append(
                    FidelityReport(
                        FidelityKind.MESSAGE_DROPPED,
                        f"the chat template leaves out this message's {part}",
                        message_index=index,
                    )
                )
            if self.terms.control_token_policy is ControlTokenPolicy.ESCAPE and self._dialect.controls.occur_in(
                message
            ):
                reports.append(
                    FidelityReport(
                        FidelityKind.CONTROL_TOKEN_ESCAPED,
                        "control-token strings in this message were encoded as text",
                        message_index=index,
                    )
                )
        return reports

    def _encode(self, text: str, before: Int32Array) -> Encoded:
        self.encoded_characters += len(text)
        encoded = self._codec.encode_pieces(self._dialect.controls.split(text), before)
        return encoded

    def _tail(
        self,
        text: str,
        encoded: Encoded,
        places: Sequence[Place],
        prepared: Sequence[PreparedMessage],
        close: str,
        reports: Sequence[FidelityReport],
    ) -> Tail:
        plain_position = _plain_positions(text)
        starts = [plain_position(start) for start in self._message_starts(text, places, prepared, close)]
        prompt = self._generation_prompt_in(text)
        prompt_start = encoded.token_at(plain_position(len(text) - len(prompt))) if prompt else len(encoded.ids)
        return Tail(
            tokens=encoded.ids,
            generation_prompt_length=len(encoded.ids) - prompt_start,
            message_starts=tuple(encoded.token_at(start) if start else 0 for start in starts),
            reports=tuple(reports),
        )

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
        prompt = self._generation_prompt if self.terms.add_generation_prompt else ""
        return prompt if prompt and text.endswith(prompt) else ""

    @cached_property
    def _generation_prompt(self) -> str:
        try:
            asked, unasked = (self._render_local(self._constant_head, prompt) for prompt in (True, False))
        except TemplateRejectedError:
            return ""
        return asked[len(self._codec.common_prefix(asked, unasked)) :]

    @cached_property
    def _parser(self) -> TurnParser:
        return self._dialect.parser_for(self.terms.template_kwargs)

    # -- sampled turns ----------------------------------------------------------------------------

    def read_turn(self, ids: Int32Array, before: int | None) -> ReadTurn:
        """Decode and parse a sampled span that follows the token `before`. Never raises; the tokens stay as they
        are.
        """
        stop_id = int(ids[-1]) if len(ids) and int(ids[-1]) in self._profile.stop_ids else None
        text = self._codec.decode_behind(before, ids if stop_id is None else ids[:-1])
        parsed = self._parser.parse(text)
        message: Message = parsed.as_message()  # type: ignore[assignment]
        return ReadTurn(message, text, stop_id, parsed.problems, "\ufffd" in text)

    # -- the whole conversation, for audits -------------------------------------------------------

    def text_of(self, ids: Int32Array) -> str:
        """The text of a whole stream, control tokens shown."""
        return self._codec.decode(ids)

    def whole_tokens(self, messages: Sequence[Message], prompt: bool) -> Int32Array:
        """The full tokenisation of a conversation. Costs time proportional to it."""
        text = self._render_opening([self.prepare(message) for message in messages], prompt)
        return self._encode(text, EMPTY_TOKENS).ids


def _has_spoken(messages: Sequence[PreparedMessage]) -> bool:
    return any(message.get("role") not in ("system", "developer") for message in messages)


def _bones(message: Message, index: int) -> dict[str, Any]:
    """A message without its flesh: role, calls and ids as they are, one letter for the text."""
    bones: dict[str, Any] = {
        key: value for key, value in message.items() if key not in ("content", "reasoning_content")
    }
    bones["content"] = chr(ord("a") + index % 26) if message.get("content") else message.get("content", "")
    return bones


def _parts_left_out(message: PreparedMessage, text: str) -> list[str]:
    parts = []
    names = [call.get("function", call).get("name", "") for call in message.get("tool_calls") or ()]
    if any(name and name not in text for name in names):
        parts.append("tool_calls")
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning.strip() and reasoning.strip() not in text:
        parts.append("reasoning_content")
    return parts


def _forgotten(watch: Watch) -> FidelityReport:
    return FidelityReport(
        FidelityKind.HISTORY_REWRITTEN,
        "the template writes this turn differently now that later turns have come",
        message_index=watch.message_index,
    )


def _plain_positions(text: str) -> Callable[[int], int]:
    """Maps positions in a marked text to positions in the text without its marks."""
    if without_marks(text) == text:
        return lambda position: position
    return lambda position: len(without_marks(text[:position]))


def first_bad_token(ids: Int32Array, limit: int) -> int | None:
    """Index of the first id outside 0 to limit - 1."""
    bad = np.flatnonzero((ids < 0) | (ids >= limit))
    return int(bad[0]) if len(bad) else None
