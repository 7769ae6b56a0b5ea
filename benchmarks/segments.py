"""What segments cost, in-process, by processor time: a Step that begins none, and one that begins one.

A Step that begins a segment stands beside the least that it can cost: one full render of the conversation by
transformers, and the encoding of what changed.
"""

from __future__ import annotations

import gc
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from benchmarks.measure import Figure, interleave, ratio
from benchmarks.work import Subject, conversation
from chatenv_client.models import ChatAction, HistoryPolicy, Message
from chatenv_client.tokens import Int32Array
from chatenv_server.doctor.reference import Reference
from chatenv_server.environment.environment import ChatEnvironment

SAMPLED_TOKENS = 128
LENGTHS = (1_000, 10_000, 30_000)
"""Tokens of the stream at which a segment begins."""
RENDERS = 1.5
"""Full renders that a Step may cost which begins a segment, beside the encoding of what changed."""
NONE = "a Step that begins no segment, against policy append"
_EPISODES = 12
_TURNS = 8
_BEGUN = 6
"""Segments begun in a round."""


@dataclass(frozen=True)
class Begun:
    """Steps that begin a segment, at one length of the stream; milliseconds each."""

    tokens: int
    ours: Figure
    render: Figure
    encoding: Figure

    def ratios(self) -> list[float]:
        """Our time by what it may take, round by round."""
        rounds = zip(self.ours.rounds, self.render.rounds, self.encoding.rounds, strict=True)
        return [ours / (RENDERS * render + encoding) for ours, render, encoding in rounds]


@dataclass(frozen=True)
class Segments:
    """What was measured with one tokenizer."""

    unsegmented: list[float]
    """Time of Steps that begin no segment under `segment`, by that under `append`; none where each begins one."""
    begun: list[Begun]


def measure(subject: Subject, rounds: int, run: Executor) -> Segments:
    """Measure in the process that makes all load."""
    return run.submit(_measure, subject, rounds).result()


def _measure(subject: Subject, rounds: int) -> Segments:
    gc.collect()
    gc.freeze()
    policies = (HistoryPolicy.APPEND, HistoryPolicy.SEGMENT)
    unsegmented: list[float] = []
    if not subject.thinks:  # else each message begins a segment
        figures = interleave({one.value: partial(_unsegmented, subject, one) for one in policies}, 1 + rounds, "s")
        append, segment = (figures[one.value] for one in policies)
        unsegmented = ratio(segment, append)[1:]
    measured = Segments(unsegmented, [_begin(subject, length, rounds) for length in LENGTHS])
    gc.unfreeze()
    return measured


def _unsegmented(subject: Subject, policy: HistoryPolicy) -> float:
    """Seconds of plain exchanges, which no template writes otherwise later."""
    took = 0.0
    for episode in range(_EPISODES):
        said = conversation(subject, _TURNS, SAMPLED_TOKENS, seed=episode)
        environment = ChatEnvironment(subject.engine, history_policy=policy)
        environment.reset(messages=[said.opening])
        began = time.process_time()
        for sampled, reply in zip(said.sampled, said.replies, strict=True):
            environment.step(ChatAction(tokens=sampled))
            environment.step(reply)
        took += time.process_time() - began
    return took


def _begin(subject: Subject, tokens: int, rounds: int) -> Begun:
    """Grow an episode to a length, then begin segments: the caller changes the message before the last turn."""
    reference = Reference(subject.tokenizer)
    turns = _BEGUN * (1 + rounds)
    said = conversation(subject, turns + 2 * tokens // SAMPLED_TOKENS, SAMPLED_TOKENS, seed=-4)
    exchanges = list(zip(said.sampled, said.replies, strict=True))
    environment = ChatEnvironment(subject.engine, history_policy=HistoryPolicy.SEGMENT)
    observation = environment.reset(messages=[said.opening])
    while len(observation.stream) < tokens:
        sampled, reply = exchanges.pop()
        environment.step(ChatAction(tokens=sampled))
        observation = environment.step(reply)
    times: list[list[float]] = []
    for _ in range(1 + rounds):
        of_round = [_begin_one(environment, reference, *exchanges.pop()) for _ in range(_BEGUN)]
        times.append([1e3 * sum(column) / _BEGUN for column in zip(*of_round, strict=True)])
    ours, render, encoding = zip(*times[1:], strict=True)
    return Begun(
        tokens,
        Figure("a Step that begins a segment", "ms", list(ours)),
        Figure("a full render by transformers", "ms", list(render)),
        Figure("the encoding of what changed", "ms", list(encoding)),
    )


def _begin_one(
    environment: ChatEnvironment, reference: Reference, sampled: Int32Array, reply: Message
) -> tuple[float, float, float]:
    """Seconds of a Step that begins a segment, of a full render, and of the encoding of what changed."""
    before = environment.step(ChatAction(tokens=sampled))
    gc.collect()
    began = time.process_time()
    if before.segment == (observation := environment.step(reply)).segment:
        # The template rewrites nothing, so the caller does: it lets the last question be another one.
        environment.step(ChatAction(tokens=sampled))
        kept = observation.conversation.length - 1
        began = time.process_time()
        observation = environment.step({"role": "user", "content": "Say it again."}, replace_from=kept)
    ours = time.process_time() - began
    messages, changed = observation.messages, observation.stream.since(observation.held_tokens)
    began = time.process_time()
    reference.text(messages, tools=False, prompt=True)
    render = time.process_time() - began
    text = reference.decode(changed.tolist())
    began = time.process_time()
    reference.encode(text)
    return ours, render, time.process_time() - began
