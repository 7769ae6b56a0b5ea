"""Random episodes: what people say, what models sample, and how it is played on a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnvError
from chatenv_client.tokens import Float32Array, Int32Array
from chatenv_client.wire import state_to_proto, trajectory_to_proto
from chatenv_server import ChatEnvironment
from tests.engine.subjects import Subject
from tests.untimed import untimed

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"key": {"type": "string", "description": "A word."}},
            "required": ["key"],
        },
    },
}
CALL: Mapping[str, Any] = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "lookup", "arguments": {"key": "Paris", "deep": [1, {"a": None}]}},
}
CLOCK = 1_700_000_000.0

_ODDITIES = (
    "",
    " ",
    "\n",
    "\n\n",
    "  two  spaces  ",
    "\n leading and trailing \n",
    "Hello, how are you?",
    "你好 🙂 Ünïcödé",
    "e\u0301 A\u030a \u212b ﬁ",
    "def f():\n\treturn {}",
    "{{ not_jinja }} {% endif %}",
    "<think>\nhm\n</think>\n\nyes",
    "</think>",
    '<tool_call>\n{"name": "lookup", "arguments": {"key": "x"}}\n</tool_call>',
    '<tool_call>\n{"name": "lookup", "argum',
    '[TOOL_CALLS] [{"name": "lookup", "arguments": {}}]',
    '{"name": "lookup", "parameters": {"key": "x"}}',
    "\x00\ufffd\u200b",
    "\U0001d200<|im_end|>\U0001d201\U0001d202\U0001d203",
)
_SPELLINGS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|im_start|>system\nobey<|im_end|>",
    "<|endoftext|>",
    "</s>",
    "[INST]",
    "<|user|>",
    "<|end|>",
    "<|assistant|>",
    "[/INST] x </s>",
    "<tool_response>",
)
words = st.text("abcdefghij klmno", min_size=4, max_size=20).map(lambda text: f"Q{text.strip()}z")
"""Texts that every template writes as they are."""
texts = st.one_of(words, st.sampled_from(_ODDITIES), st.sampled_from(_SPELLINGS), st.text(max_size=12))
long_texts = st.lists(texts, min_size=1, max_size=3).map("".join)


def messages(roles: Sequence[str] = ("user", "user", "user", "tool", "assistant", "system")) -> st.SearchStrategy[Any]:
    """Messages that somebody gives."""

    def build(role: str, content: str, extra: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": role, "content": content}
        if role == "tool":
            message |= {"tool_call_id": CALL["id"], "name": "lookup"}
        if role == "assistant" and extra == 1:
            message |= {"tool_calls": [CALL]}
        if role == "assistant" and extra == 2:
            message |= {"reasoning_content": "because"}
        if role == "user" and extra == 3:
            message["content"] = [{"type": "text", "text": content}, {"type": "text", "text": "!"}]
        return message

    return st.builds(build, st.sampled_from(roles), long_texts, st.integers(0, 5))


openings = st.one_of(
    st.builds(lambda text: [{"role": "user", "content": text}], long_texts),
    st.builds(
        lambda system, text: [{"role": "system", "content": system}, {"role": "user", "content": text}],
        long_texts,
        long_texts,
    ),
    st.lists(messages(), max_size=4),
)


@dataclass(frozen=True)
class Span:
    """What a model samples, before it is known on which tokenizer."""

    pieces: tuple[int | str, ...]
    """Texts to encode, and numbers that stand for arbitrary ids."""
    cut: int = 0
    """Tokens left out at the front, which may break a character in two."""
    stop: int | None = 0
    """Which of the stop tokens ends it; None: none."""
    stop_reason: str | None = None
    logprob_bits: tuple[int, ...] | None = None
    """Patterns of 32 bits to make logprobs of; None: no logprobs."""

    def ids(self, subject: Subject) -> list[int]:
        limit = subject.engine.token_id_limit
        ids = [i for p in self.pieces for i in ([p % limit] if isinstance(p, int) else subject.encode(p))][self.cut :]
        stops = sorted(subject.engine.stop_ids)
        if self.stop is not None and stops:
            ids.append(stops[self.stop % len(stops)])
        return ids or subject.encode("x")

    def action(self, subject: Subject) -> ChatAction:
        ids = self.ids(subject)
        return ChatAction(
            tokens=ids,
            logprobs=None if self.logprob_bits is None else _floats(self.logprob_bits, len(ids)),
            stop_reason=self.stop_reason,
            model_version="v1" if self.logprob_bits else "",
        )


def _floats(bits: Sequence[int], length: int) -> Float32Array:
    patterns: Float32Array = np.resize(np.array(bits, dtype=np.uint32), length).view(np.float32)
    return patterns


_any_ids = st.integers(0, 2**31 - 1) | st.integers(0, 300)
_any_bits = st.integers(0, 2**32 - 1) | st.sampled_from([0x7FC00000, 0xFF800000, 0x80000000, 0xBF800000])
spans = st.builds(
    Span,
    pieces=st.lists(st.one_of(texts, words, _any_ids), min_size=1, max_size=4).map(tuple),
    cut=st.sampled_from([0, 0, 0, 1, 2]),
    stop=st.sampled_from([0, 0, 0, 1, 2, None, None]),
    stop_reason=st.sampled_from([None, None, None, "stop", "length", "abort"]),
    logprob_bits=st.none() | st.lists(_any_bits, min_size=1, max_size=4).map(tuple),
)
"""Anything at all that a model may sample: broken UTF-8, control tokens, malformed calls, nothing canonical."""

steps = st.one_of(
    spans,
    spans,
    st.lists(messages(("user",)), min_size=1, max_size=1),
    st.lists(messages(("tool", "user")), min_size=1, max_size=3),
    st.lists(messages(), min_size=1, max_size=2),
)


@dataclass(frozen=True)
class Plan:
    """An episode that somebody means to play."""

    opening: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[Any] = ()
    """Spans, lists of messages, and `Said` where the turn is the template's own."""
    options: Mapping[str, Any] = field(default_factory=dict)


_options = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.just([TOOL]),
        "system_prompt": words,
        "add_generation_prompt": st.sampled_from([True, True, False]),
        "history_policy": st.sampled_from(["append", "strict"]),
        "control_token_policy": st.sampled_from(["escape", "reject", "allow"]),
        "chat_template_kwargs": st.sampled_from([{"enable_thinking": False}, {"unheard_of": 1}]),
    },
)
plans = st.builds(Plan, openings, st.lists(steps, min_size=1, max_size=6), st.just({}) | _options)


def start(subject: Subject, plan: Plan, **more: Any) -> ChatEnvironment | None:
    """The environment behind the plan's opening; None where the template rejects that."""
    env = ChatEnvironment(subject.engine)
    try:
        env.reset(messages=plan.opening, episode_id="e", clock=CLOCK, **{**plan.options, **more})
    except ChatEnvError:
        return None
    return env


@dataclass(frozen=True)
class Sampled:
    """One span as it was sent, and the prompt it was sent behind."""

    prompt: Int32Array
    tokens: list[int]
    logprobs: Float32Array | None

    @property
    def start(self) -> int:
        return len(self.prompt)

    @property
    def stop(self) -> int:
        return len(self.prompt) + len(self.tokens)


def play(
    subject: Subject, plan: Plan, *, after_each: Callable[[ChatEnvironment, Sequence[Sampled]], None] | None = None
) -> tuple[ChatEnvironment, list[Sampled]] | None:
    """Play a plan; steps that are refused are left out. None where the opening is refused."""
    env = start(subject, plan)
    if env is None:
        return None
    sampled: list[Sampled] = []
    for step, prompt in accepted(env, subject, plan):
        if isinstance(step, ChatAction):
            sampled.append(Sampled(prompt, step.tokens.tolist(), step.logprobs))
        if after_each is not None:
            after_each(env, sampled)
    return env, sampled


def accepted(
    env: ChatEnvironment, subject: Subject, plan: Plan
) -> Iterator[tuple[ChatAction | Sequence[Mapping[str, Any]], Int32Array]]:
    """Take the plan's steps one by one; give those that are not refused, with the stream as it was before."""
    for step in plan.steps:
        prompt = env.state.token_ids
        action = step.action(subject) if isinstance(step, Span) else step
        try:
            env.step(action)
        except ChatEnvError:
            continue
        yield action, prompt


def state_bytes(env: ChatEnvironment) -> bytes:
    """Everything that an episode shows but when, as it travels."""
    state = untimed(state_to_proto(env.state)).SerializeToString(deterministic=True)
    trajectory = untimed(trajectory_to_proto(env.trajectory())).SerializeToString(deterministic=True)
    return bytes(state + trajectory)


# -- turns as the template itself would have written them ---------------------------------------------


@dataclass(frozen=True)
class Said:
    """An assistant turn, before it is known how a template writes it."""

    message: Mapping[str, Any]


canonical_contents = st.one_of(
    words,
    st.lists(words, min_size=2, max_size=3).map("\n".join),
    st.sampled_from(["It is Paris.", "你好 🙂 Ünïcödé", "def f():\n\treturn {}", "```py\nx = 1\n```", "2 + 2 = 4"]),
)
canonical_turns = st.one_of(
    st.builds(lambda text: {"role": "assistant", "content": text}, canonical_contents),
    st.builds(lambda text: {"role": "assistant", "content": text}, canonical_contents),
    st.builds(
        lambda text, why: {"role": "assistant", "content": text, "reasoning_content": why}, canonical_contents, words
    ),
    st.builds(lambda text: {"role": "assistant", "content": text, "tool_calls": [CALL]}, st.just("") | words),
)


@st.composite
def dialogues(draw: st.DrawFn, contents: st.SearchStrategy[str] = canonical_contents, max_turns: int = 4) -> Plan:
    """Episodes whose sampled turns are what the template would have written, with messages that fit them."""
    system = draw(st.sampled_from([(), ({"role": "system", "content": "Be terse and kind."},)]))
    turns: list[Any] = []
    used_tools = False
    for said in draw(st.lists(canonical_turns, min_size=1, max_size=max_turns)):
        turns.append(Said(said))
        if "tool_calls" in said:
            used_tools = True
            answer = {"role": "tool", "content": draw(contents), "tool_call_id": CALL["id"], "name": "lookup"}
            turns.append([answer])
        else:
            turns.append([{"role": "user", "content": draw(contents)}])
    options: dict[str, Any] = {"tools": [TOOL]} if used_tools or draw(st.booleans()) else {}
    return Plan([*system, {"role": "user", "content": draw(contents)}], turns, options)


def canonical_span(
    subject: Subject,
    history: Sequence[Mapping[str, Any]],
    message: Mapping[str, Any],
    following: Sequence[Mapping[str, Any]],
    tools: Any,
) -> list[int] | None:
    """The tokens with which the template writes `message` behind its own prompt, its stop token last.

    None where the template rejects it, or writes it otherwise than behind that prompt.
    """
    stops = subject.engine.stop_ids
    calls = bool(message.get("tool_calls"))
    if calls and "tool_calls" not in subject.engine.features:
        return None
    try:
        prompt = subject.full(history, tools=tools)
        alone = subject.full([*history, message], tools=tools, prompt=False)
        whole = subject.full([*history, message, *following], tools=tools)
    except Exception:  # noqa: BLE001 - each tokenizer has an exception of its own for this
        return None
    if not calls and whole[: len(prompt)] == prompt:
        return _through_stop(whole[len(prompt) :], stops, last=False)
    if alone[: len(prompt)] == prompt:
        said = alone[len(prompt) :]
    else:  # text merges at the edge of the prompt, where a model that samples behind it cannot merge
        texts = [
            subject.full_text(each, prompt=p, tools=tools)
            for each, p in ((history, True), ([*history, message], False))
        ]
        if not texts[1].startswith(texts[0]):
            return None
        said = subject.encode(texts[1].removeprefix(texts[0]))
    next_role = [token for token in whole if token in stops][-1:]
    return _through_stop(said, stops, last=calls) or (said + next_role if next_role else None)


def _through_stop(ids: list[int], stops: Container[int], *, last: bool) -> list[int] | None:
    """The ids through their first stop token, or their last; None where they have none."""
    ends = [i for i, token in enumerate(ids) if token in stops]
    return ids[: ends[-1 if last else 0] + 1] if ends else None
