"""What a chat template does, read off its renders, for a person who decides whether to train with it.

The engine's own probe finds out what decides the token stream; this adds what matters to a person alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import Message, ToolCall
from chatenv_server.doctor.scenarios import TOOLS
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.template import RESERVED_NAMES, variables_of

_USER, _SYSTEM, _SAID, _THOUGHT = "Zq7xU1vW", "Zq7xY2vW", "Zq7xA3vW", "Zq7xR4vW"
_TWO_DAYS: Final = (0.0, 400 * 24 * 3600.0)
_THOUGHT_IS_OPEN: Final = re.compile(
    r"[<\[]\s*\|?(?:think|thinking|thought|reasoning|analysis)\w*\|?\s*[>\]]\s*\Z", re.IGNORECASE
)


@dataclass(frozen=True)
class TemplateFacts:
    """What one template does on one tokenizer."""

    generation_prompt: str
    opens_a_thought: bool
    """Whether the generation prompt leaves a thought open, so that sampled turns begin inside it."""
    turn_parser: str
    stop_tokens: tuple[str, ...]
    closers: tuple[str, ...]
    """Control tokens that close an assistant turn whatever follows."""
    last_closers: tuple[str, ...]
    """Control tokens after an assistant turn that is the last message."""
    takes: tuple[str, ...]
    """Roles and shapes of messages."""
    rejects: Mapping[str, str]
    """Shapes it rejects, with its own words."""
    content_as_parts: tuple[str, ...]
    """Roles whose content must be a list of parts."""
    arguments_as_text: bool
    """Whether call arguments must be JSON text; objects otherwise."""
    default_system: str
    """What it writes before the first user when nobody gave a system prompt."""
    tells_the_time: bool
    """Whether what it writes depends on the day."""
    rewrites: tuple[str, ...]
    """What it writes differently once later turns have come, a sentence each."""
    trims: tuple[str, ...]
    """Roles whose text it trims."""
    depends_on: tuple[str, ...]
    """What a tail depends on besides the turn before it: system prompt, tools, position."""
    looks_for: tuple[str, ...]
    """Texts in messages that it looks for, and may act on."""
    arguments: tuple[str, ...]
    """Template arguments (`chat_template_kwargs`) that it reads."""


def read_facts(chat_format: ChatFormat) -> TemplateFacts:
    """Find out what the template does, in a few dozen renders."""
    return _Reader(chat_format).read()


class _Reader:
    def __init__(self, chat_format: ChatFormat) -> None:
        self._format = chat_format
        self._needs = [chat_format.dependencies(tools=tools) for tools in (False, True)]

    def read(self) -> TemplateFacts:
        profile, codec = self._format.profile, self._format.codec
        prompt = self._generation_prompt()
        return TemplateFacts(
            generation_prompt=prompt,
            opens_a_thought=_THOUGHT_IS_OPEN.search(prompt) is not None,
            turn_parser=self._format.parser_for({}).name,
            stop_tokens=tuple(codec.added.texts.get(token_id, str(token_id)) for token_id in sorted(profile.stop_ids)),
            closers=profile.closers,
            last_closers=profile.last_closers,
            takes=tuple(sorted(profile.takes)),
            rejects=self._rejects(),
            content_as_parts=tuple(sorted(profile.forms.parts_roles)),
            arguments_as_text=profile.forms.arguments_as_text,
            default_system=self._default_system(),
            tells_the_time=len({self._render(_PLAIN, clock=clock) for clock in _TWO_DAYS}) > 1,
            rewrites=tuple(sentence for sentence, holds in self._rewrites() if holds),
            trims=tuple(role for role in ("system", "user", "assistant", "tool") if self._trims(role)),
            depends_on=tuple(
                words
                for words, holds in (
                    ("the system prompt", any(needs.system for needs in self._needs)),
                    ("the tools", any(needs.tools for needs in self._needs)),
                    ("all roles and calls before it", any(needs.skeleton_under_system for needs in self._needs)),
                )
                if holds
            ),
            looks_for=self._format.template.tested_texts,
            arguments=self._arguments(),
        )

    def _render(
        self, messages: Sequence[Message], *, prompt: bool = False, tools: bool = False, clock: float = 0.0
    ) -> str:
        """The conversation as text; empty where the template rejects it."""
        try:
            return self._rendered(messages, prompt, tools, clock)
        except TemplateRejectedError:
            return ""

    def _rendered(self, messages: Sequence[Message], prompt: bool, tools: bool, clock: float) -> str:
        variables = variables_of(
            self._format.special_tokens, tools=list(TOOLS) if tools else None, clock_unix_seconds=clock
        )
        prepared = [self._format.profile.forms.apply(message) for message in messages]
        return self._format.template.render(prepared, variables, add_generation_prompt=prompt)

    def _arguments(self) -> tuple[str, ...]:
        template = self._format.template
        named = {*self._format.special_tokens, "bos_token", "eos_token", "pad_token", "unk_token"}
        return tuple(sorted(template.variables - RESERVED_NAMES - named - _MESSAGE_KEYS))

    def _generation_prompt(self) -> str:
        asked, unasked = self._render(_PLAIN, prompt=True), self._render(_PLAIN)
        return asked[len(self._format.codec.common_prefix(asked, unasked)) :]

    def _rejects(self) -> dict[str, str]:
        words = {shape: self._words(messages, tools) for shape, (messages, tools) in _SHAPES.items()}
        return {shape: said for shape, said in words.items() if said}

    def _words(self, messages: Sequence[Message], tools: bool) -> str:
        """What the template says when it rejects the conversation; empty where it takes it."""
        try:
            self._rendered(messages, True, tools, 0.0)
        except TemplateRejectedError as error:
            return error.message.removeprefix("the chat template rejects these messages: ")
        return ""

    def _default_system(self) -> str:
        """What the template writes before the user's text if there is no system prompt, and only then."""
        without = self._render(_PLAIN).partition(_USER)[0]
        given = self._render([{"role": "system", "content": _SYSTEM}, *_PLAIN]).partition(_USER)[0]
        before, found, after = given.partition(_SYSTEM)
        if found and len(without) > len(before) + len(after) and without.startswith(before) and without.endswith(after):
            return without[len(before) : len(without) - len(after)].strip()
        bare = self._format.codec.added.pattern.sub("", without).strip()
        return bare if len(bare.split()) > 2 else ""

    def _trims(self, role: str) -> bool:
        text = self._render(_showing(role, f"\n {_SAID} \n"))
        return _SAID in text and f"\n {_SAID} \n" not in text

    def _rewrites(self) -> list[tuple[str, bool]]:
        profile = self._format.profile
        return [
            ("drops the reasoning of a turn once a user has spoken after it", self._loses(_THINKING, [_NEXT])),
            ("drops the reasoning of every turn that is given", self._hides(_THINKING)),
            (
                "cuts <think>...</think> out of a turn's content once a user has spoken after it",
                self._loses(_TAGGED, [_NEXT]),
            ),
            (
                "drops the reasoning before tool calls once a later user has spoken",
                any(needs.forgets for needs in self._needs),
            ),
            (self._words_of_closers(), profile.last_closers != profile.closers and self._closes_differently()),
            ("writes an answer without reasoning differently once a user has spoken after it", self._differs_later()),
            ("writes the system prompt into the last user's turn", self._moves_system()),
            ("does not begin a turn with the generation prompt that it wrote for it", self._leaves_the_prompt()),
        ]

    def _loses(self, message: Message, later: Sequence[Message]) -> bool:
        now, then = self._render([*_PLAIN, message]), self._render([*_PLAIN, message, *later])
        return _THOUGHT in now and bool(then) and _THOUGHT not in then

    def _hides(self, message: Message) -> bool:
        text = self._render([*_PLAIN, message])
        return bool(text) and _THOUGHT not in text and "reasoning_content" in self._format.template.source

    def _words_of_closers(self) -> str:
        last, others = (
            "".join(ends) or "nothing" for ends in (self._format.profile.last_closers, self._format.profile.closers)
        )
        return f"closes the last turn with {last} and earlier ones with {others}"

    def _closes_differently(self) -> bool:
        last, earlier = self._render([*_PLAIN, _ANSWER]), self._render([*_PLAIN, _ANSWER, _NEXT])
        return bool(last) and bool(earlier) and not earlier.startswith(last.rstrip())

    def _differs_later(self) -> bool:
        now, then = (self._render([*_PLAIN, _ANSWER, *later]).partition(_SAID)[0] for later in ((), (_NEXT,)))
        return bool(now) and bool(then) and now != then

    def _moves_system(self) -> bool:
        text = self._render([{"role": "system", "content": _SYSTEM}, *_PLAIN, _ANSWER, _NEXT])
        return _SYSTEM in text and _SAID in text and text.index(_SYSTEM) > text.index(_SAID)

    def _leaves_the_prompt(self) -> bool:
        asked, said = self._render(_PLAIN, prompt=True), self._render([*_PLAIN, _ANSWER])
        return bool(asked) and bool(said) and not said.startswith(asked)


_MESSAGE_KEYS: Final = frozenset({"role", "content", "reasoning_content", "tool_calls", "message"})
"""Templates often have variables of their own by these names."""
_PLAIN: Final[list[Message]] = [{"role": "user", "content": _USER}]
_ANSWER: Final[Message] = {"role": "assistant", "content": _SAID}
_NEXT: Final[Message] = {"role": "user", "content": "Zq7xN5vW"}
_THINKING: Final[Message] = {**_ANSWER, "reasoning_content": _THOUGHT}
_TAGGED: Final[Message] = {"role": "assistant", "content": f"<think>\n{_THOUGHT}\n</think>\n\n{_SAID}"}
_CALL: Final[ToolCall] = {
    "id": "callZq7x1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "x"}},
}


def _calling(count: int, content: str = "") -> list[Message]:
    calls: list[ToolCall] = [{**_CALL, "id": f"callZq7x{number}"} for number in range(count)]
    results: list[Message] = [
        {"role": "tool", "content": "x", "tool_call_id": call["id"], "name": "get_weather"} for call in calls
    ]
    return [*_PLAIN, {"role": "assistant", "content": content, "tool_calls": calls}, *results]


def _showing(role: str, text: str) -> list[Message]:
    """A conversation in which `text` is a message of this role's, with a user after an assistant."""
    if role == "tool":
        return [
            *_calling(1)[:-1],
            {"role": "tool", "content": text, "tool_call_id": "callZq7x0", "name": "get_weather"},
        ]
    if role == "assistant":
        return [*_PLAIN, {"role": role, "content": text}, _NEXT]
    return [{"role": role, "content": text}, *(_PLAIN if role == "system" else ())]


_SHAPES: Final[Mapping[str, tuple[list[Message], bool]]] = {
    "system prompt": ([{"role": "system", "content": _SYSTEM}, *_PLAIN], False),
    "system message later": ([*_PLAIN, _ANSWER, {"role": "system", "content": _SYSTEM}, _NEXT], False),
    "two users in a row": ([*_PLAIN, _NEXT], False),
    "two answers in a row": ([*_PLAIN, _ANSWER, _ANSWER, _NEXT], False),
    "tools": (_PLAIN, True),
    "tool calls": (_calling(1), True),
    "parallel tool calls": (_calling(2), True),
    "tool calls with text": (_calling(1, "x"), True),
}
