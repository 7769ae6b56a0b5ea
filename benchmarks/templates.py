"""A turn's cost under every recorded chat template, in-process, beside what transformers itself does for the same turn.

Ours: one Step of sampled tokens and one Step of the message that answers them, with all that a Step checks and keeps.
Theirs: decode the sampled tokens, `apply_chat_template` of the three messages around them, and encode what the template
writes after the sampled text. That is the least with which a trainer gets the same tokens from transformers.
Times are the processor's, so that what else runs on the machine falls out.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, interleave, ratio
from benchmarks.turns import KINDS, Conversation, Kind, Speaker, Turn
from benchmarks.work import CONFORMANCE
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import ChatAction, Message, StopReason
from chatenv_client.tokens import Int32Array
from chatenv_server.doctor.reference import NotTakenError, Reference
from chatenv_server.doctor.scenarios import TOOLS
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import PLAIN_TEMPLATE, TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.tokenizer_files.loading import load_tokenizer

OURS, THEIRS, THEIRS_AGAIN = "chatenv", "transformers", "transformers again"
SAMPLED_TOKENS = 128
SHORTCUT = "reuses_renders"
"""The feature of templates whose tails the engine puts together from earlier ones, without a render."""
_QUICK = ("mistral_7b_v0_3", "qwen2_5", "standin_qwen3_6", "gptoss.jinja", "llama3_1.jinja")


@dataclass(frozen=True)
class Scale:
    """How much is done in a round."""

    rounds: int
    episodes: int = 12
    turns: int = 8


@dataclass(frozen=True)
class Measured:
    """One tokenizer and template."""

    name: str
    features: tuple[str, ...]
    kinds: dict[str, dict[str, Figure]] = field(default_factory=dict)
    """Microseconds a turn of each contestant, by kind of conversation."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Kinds of conversation that could not be measured, and why."""

    def ratio(self, kind: str) -> list[float]:
        """Our time by theirs, round by round."""
        return ratio(self.kinds[kind][OURS], self.kinds[kind][THEIRS])

    def noise(self, kind: str) -> list[float]:
        """Their time by theirs: what the ratio of equals looks like."""
        return ratio(self.kinds[kind][THEIRS_AGAIN], self.kinds[kind][THEIRS])


def sources(*, quick: bool = False) -> list[Path]:
    """Folders of tokenizers that bring their template, and templates without a tokenizer."""
    found = [path for path in sorted(CONFORMANCE.glob("tokenizers/*")) if path.is_dir()]
    found += sorted(CONFORMANCE.glob("templates/*.jinja"))
    return [path for path in found if path.name in _QUICK] if quick else found


def measure(source: Path, scale: Scale, run: Executor) -> Measured:
    """Measure one, in the process that makes all load."""
    return run.submit(_measure, source, scale).result()


def _measure(source: Path, scale: Scale) -> Measured:
    tokenizer = _tokenizer(source)
    engine = TokenEngine.load(tokenizer)
    measured = Measured(f"{source.parent.name}/{source.stem}", engine.features)
    gc.collect()
    gc.freeze()  # what is loaded by now is looked at by no collection below
    for kind in KINDS:
        if not kind.takes <= set(engine.features):
            measured.left_out[kind.name] = f"takes no {', '.join(sorted(kind.takes - set(engine.features)))}"
            continue
        try:
            measured.kinds[kind.name] = _Contest(tokenizer, engine, kind, scale).figures()
        except (NotTakenError, ChatEnvError) as error:
            measured.left_out[kind.name] = str(error)
    gc.unfreeze()
    return measured


def _tokenizer(source: Path) -> Any:
    if source.suffix == ".jinja":
        return stand_in(source.read_text(encoding="utf-8"), load_tokenizer(str(CONFORMANCE / "tokenizers" / "gpt2")))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
    return tokenizer


class _Contest:
    """Ours and theirs at one kind of conversation. Every round has texts of its own, the same for all contestants."""

    def __init__(self, tokenizer: Any, engine: TokenEngine, kind: Kind, scale: Scale) -> None:
        speaker, rng = Speaker(Reference(tokenizer), kind), random.Random(kind.name)
        self._scale, self._engine, self._tools = scale, engine, list(TOOLS) if kind.tools else None
        self._theirs = _Theirs(tokenizer, engine, self._tools)
        self._rounds = [
            [speaker.conversation(rng, scale.turns, SAMPLED_TOKENS) for _ in range(scale.episodes)]
            for _ in range(1 + scale.rounds)
        ]
        self._call_ids = self._read_call_ids(speaker.conversation(rng, scale.turns, SAMPLED_TOKENS))
        """By turn; those of all conversations are the same."""

    def figures(self) -> dict[str, Figure]:
        """Microseconds a turn, after a round that is not counted."""
        prepared = [self._theirs.prepared(said) for said in self._rounds]
        contestants = {
            OURS: self._by_round(self._our_seconds, self._rounds),
            THEIRS: self._by_round(self._theirs.seconds, prepared),
            THEIRS_AGAIN: self._by_round(self._theirs.seconds, prepared),
        }
        figures = interleave(contestants, 1 + self._scale.rounds, "us")
        return {name: Figure(name, figure.unit, figure.rounds[1:]) for name, figure in figures.items()}

    def _by_round(self, seconds: Callable[[Any], float], rounds: Sequence[Any]) -> Callable[[], float]:
        turns = self._scale.episodes * self._scale.turns
        values: Iterator[float] = (1e6 * seconds(work) / turns for work in rounds)

        def next_round() -> float:
            gc.collect()
            return next(values)

        return next_round

    def _our_seconds(self, said: Sequence[Conversation]) -> float:
        """Time of all turns. One clock reading for all of them, as for theirs: it is a call of the system."""
        episodes = [(self._begun(conversation), self._steps(conversation)) for conversation in said]
        began = time.process_time()
        for environment, steps in episodes:
            for tokens, stop_reason, reply in steps:
                environment.step(ChatAction(tokens=tokens, stop_reason=stop_reason))
                environment.step(reply)
        return time.process_time() - began

    def _begun(self, conversation: Conversation) -> ChatEnvironment:
        environment = ChatEnvironment(self._engine)
        environment.reset(messages=[conversation.opening], tools=self._tools)
        return environment

    def _steps(self, conversation: Conversation) -> list[tuple[Int32Array, StopReason | None, Message]]:
        """By turn what is sampled, why that stopped, and the message that answers it."""
        replies = map(_answering, conversation.replies, self._call_ids)
        return [(turn.ids, _stop_reason(turn), reply) for turn, reply in zip(conversation.turns, replies, strict=True)]

    def _read_call_ids(self, conversation: Conversation) -> list[str]:
        """The id that each turn's call is read with; empty where it has none."""
        environment, ids = self._begun(conversation), []
        for turn in conversation.turns:
            read = environment.step(ChatAction(tokens=turn.ids, stop_reason=_stop_reason(turn)))
            calls = read.messages[-1].get("tool_calls")
            ids.append(calls[0]["id"] if calls else "")
            environment.step(_answering(turn.reply, ids[-1]))
        return ids


def _stop_reason(turn: Turn) -> StopReason | None:
    """Where a template closes no turn, only the sampler knows that the model stopped."""
    return None if turn.has_stop else StopReason.STOP


def _answering(reply: Message, call_id: str) -> Message:
    """A reply, a tool's result with the id of the call that it answers."""
    return {**reply, "tool_call_id": call_id} if reply["role"] == "tool" else reply


@dataclass(frozen=True)
class _Prepared:
    """A turn as transformers is given it."""

    turn: Turn
    messages: list[Message]
    """The opening, the sampled message as a parser would read it, and the one that answers it."""
    tail_length: int
    """Characters that the template writes after the sampled text."""


class _Theirs:
    """What transformers does for a turn. It is spared parsing calls and thoughts off the sampled text."""

    def __init__(self, tokenizer: Any, engine: TokenEngine, tools: list[dict[str, Any]] | None) -> None:
        self._tokenizer, self._tools = tokenizer, tools
        self._form: Any = engine.chat_format.profile.forms.apply if engine.chat_format else dict

    def prepared(self, said: Sequence[Conversation]) -> list[_Prepared]:
        """Messages in the form that the template takes, and where the tail begins: not on the clock."""
        return [self._prepare(each.opening, turn) for each in said for turn in each.turns]

    def _prepare(self, opening: Message, turn: Turn) -> _Prepared:
        messages = [self._form(message) for message in (opening, turn.meant, turn.reply)]
        try:
            _, found, tail = self._render(messages).rpartition(_last_text(turn.meant))
        except Exception as error:  # a template raises whatever it likes
            raise NotTakenError(str(error)) from error
        if not found:
            raise NotTakenError("the template leaves out what is sampled")
        return _Prepared(turn, messages, len(tail))

    def seconds(self, work: Sequence[_Prepared]) -> float:
        """Time of all turns."""
        began = time.process_time()
        for each in work:
            self._tokenizer.decode(each.turn.ids)
            whole = self._render(each.messages)
            self._tokenizer.encode(whole[-each.tail_length :], add_special_tokens=False)
        return time.process_time() - began

    def _render(self, messages: Sequence[Message]) -> str:
        options = {"tokenize": False, "add_generation_prompt": True}
        return str(self._tokenizer.apply_chat_template(messages, tools=self._tools, **options))


def _last_text(message: Message) -> str:
    """What a template writes last of a sampled message."""
    calls = message.get("tool_calls")
    return str(calls[-1]["function"]["arguments"]["city"] if calls else message["content"])  # type: ignore[index]
