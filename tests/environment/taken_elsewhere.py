"""Random episodes with everything that a Step may bring, and all that an episode shows, for tests of snapshots."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnvError, ChatObservation
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.wire import state_to_proto, trajectory_to_proto
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from tests.engine.episodes import CALL, CLOCK, TOOL, Plan, Span, messages, openings, spans, steps, words
from tests.engine.subjects import Subject
from tests.engine.test_segments import Rewrite, rewrites


@dataclass(frozen=True)
class Rich:
    """A span with what else a Step may say of it. Each is left out where it does not fit."""

    span: Span
    empty: bool = False
    masked: int = 0
    """Every so many tokens one that was not sampled; 0: all were."""
    versions: int = 0
    """Runs of versions; 0: none."""
    columns: tuple[str, ...] = ()
    amends: bool = False
    message: Any = None

    def action(self, subject: Subject, env: ChatEnvironment) -> ChatAction:
        plain = self.span.action(subject)
        if self.empty:
            return ChatAction(tokens=[], stop_reason="abort", message=self.message)
        count = len(plain.tokens)
        more: dict[str, Any] = {}
        if self.masked:
            more["mask"] = [bool(index % self.masked) for index in range(count)]
        if 0 < self.versions <= count:
            runs = [("w1", count - self.versions + 1), *((f"w{n}", 1) for n in range(2, self.versions + 1))]
            more["model_version_runs"] = runs
        rows = {name: np.arange(count * 2, dtype=np.float32).reshape(count, 2) for name in self.columns}
        amended = {name: np.full(2, np.nan, dtype=np.float32) for name in self.columns}
        if self.amends and any(turn.stop_reason for turn in env.state.turns):
            more["amended_extras"] = amended
        return replace(
            plain,
            extras=rows,
            message=self.message,
            model_version="" if "model_version_runs" in more else plain.model_version,
            **more,
        )


_given = st.none() | st.sampled_from(
    [
        {"role": "assistant", "content": "As I read it."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "x", "reasoning_content": "because", "own": [1, None, 1.5]},
    ]
)
rich = st.builds(
    Rich,
    spans,
    st.sampled_from([False] * 7 + [True]),
    st.sampled_from([0, 0, 2, 3]),
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from([(), (), ("value",), ("a", "b")]),
    st.booleans(),
    _given,
)
_options = st.fixed_dictionaries(
    {"history_policy": st.sampled_from(["append", "segment", "segment", "strict"])},
    optional={
        "tools": st.just([TOOL]),
        "system_prompt": words,
        "add_generation_prompt": st.sampled_from([True, True, False]),
        "control_token_policy": st.sampled_from(["escape", "reject", "allow"]),
        "chat_template_kwargs": st.sampled_from([{"enable_thinking": False}, {"unheard_of": 1}, {}]),
        "metadata": st.just({"task": [1, {"deep": None}]}),
        "max_steps": st.sampled_from([3, 100]),
        "max_tokens": st.sampled_from([200, 10_000]),
        "seed": st.integers(0, 2**31),
        "system_role": st.just("system"),
    },
)
_prefilled = st.builds(
    lambda text, begun: [{"role": "user", "content": text}, {"role": "assistant", "content": begun}],
    words,
    words | st.just("<think>\nOnce"),
)


@st.composite
def episodes(draw: st.DrawFn) -> Plan:
    """Episodes in which anything may happen that an environment allows."""
    options = dict(draw(_options))
    opening = draw(openings)
    if draw(st.integers(0, 3)) == 0:
        opening, options["continue_final_message"] = draw(_prefilled), True
    taken = st.one_of(steps, rich, rich, rewrites, st.lists(messages(("user", "tool")), min_size=1, max_size=2))
    return Plan(opening, draw(st.lists(taken, min_size=1, max_size=8)), options)


class Counting:
    """A transform that keeps state: rewards, metadata and now and then a failure by how often it was asked."""

    def __init__(self, *, moody: bool = True) -> None:
        self.calls = 0
        self._moody = moody

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        self.calls += 1
        if self._moody and self.calls % 5 == 4:
            self.calls += 2
            raise RuntimeError("moody")
        if self.calls % 3:
            observation.reward = self.calls / 3
        if self.calls % 2:
            observation.metadata = {"calls": self.calls}
        return observation

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]


class _Plain:
    """A tokenizer that has nothing but what the plain path asks for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_token_id
        self.name_or_path = "plain"

    def __len__(self) -> int:
        return len(self._tokenizer)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer.apply_chat_template(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer.decode(*args, **kwargs)


@functools.cache
def plain_twin(subject: Subject) -> Subject:
    """The same tokenizer on the plain path."""
    return Subject(f"plain_{subject.name}", subject.tokenizer, TokenEngine.load(_Plain(subject.tokenizer)))


def begun(subject: Subject, plan: Plan, *, transformed: bool = False) -> ChatEnvironment | None:
    """The environment after the plan's opening; None where that is refused."""
    env = ChatEnvironment(subject.engine, transform=Counting() if transformed else None)
    try:
        env.reset(messages=plan.opening, episode_id="e", group="g", clock=CLOCK, **plan.options)
    except ChatEnvError:
        return None
    return env


def take(env: ChatEnvironment, subject: Subject, step: Any) -> Any:
    """What a step shows, or why it is refused."""
    try:
        if isinstance(step, Rewrite):
            return observed(env.step(list(step.messages), replace_from=step.index(env)))
        if isinstance(step, Rich):
            return observed(env.step(step.action(subject, env)))
        return observed(env.step(step.action(subject) if isinstance(step, Span) else step))
    except ChatEnvError as error:
        return str(error)


def observed(observation: ChatObservation) -> Mapping[str, Any]:
    """All that an observation says but which episode it is of."""
    return {
        "tokens": observation.token_ids.tolist(),
        "messages": list(observation.messages),
        "steps": observation.step_count,
        "reward": observation.reward,
        "end": (observation.terminated, observation.truncated),
        "metadata": observation.metadata,
        "prompt": observation.generation_prompt_length,
        "fidelity": observation.fidelity,
        "seed": observation.seed,
        "held": (observation.held_tokens, observation.held_messages),
        "segment": observation.segment,
        "fingerprint": observation.prompt_fingerprint,
    }


at_one_time = mock.patch("time.time_ns", new=itertools.repeat(1_700_000_000 * 10**9).__next__)
"""Lets episodes that go on side by side do so in the same millisecond."""


def shown(env: ChatEnvironment) -> Mapping[str, Any]:
    """All that an episode shows but which it is, as it travels."""
    state, trajectory = state_to_proto(env.state), trajectory_to_proto(env.trajectory())
    for each in (state, trajectory):
        each.episode_id = each.group = ""  # a fork has the group of its source, or its source as one
    state.ClearField("forked_from")
    return {"state": state.SerializeToString(), "trajectory": trajectory.SerializeToString(), "audit": env.audit()}


def snapshot_bytes(env: ChatEnvironment, at_step: int | None = None) -> bytes:
    """A snapshot without what tells a fork from its source."""
    snapshot = env.snapshot(at_step)
    snapshot.ClearField("forked_from")
    snapshot.episode_id = snapshot.entries[0].opened.group = ""
    return bytes(snapshot.SerializeToString(deterministic=True))


def pieces(env: ChatEnvironment) -> Iterator[pb.EpisodeSnapshot]:
    """A snapshot cut into pieces: the opening with the head, then one entry each."""
    whole = env.snapshot()
    first = pb.EpisodeSnapshot()
    first.CopyFrom(whole)
    del first.entries[1:]
    yield first
    for entry in whole.entries[1:]:
        yield pb.EpisodeSnapshot(entries=[entry])
