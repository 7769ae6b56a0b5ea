"""Laws of episodes whose task answers, on every tokenizer.

What a task answers is to the conversation what the same messages of a caller would be; and the episode that was taken
elsewhere is the same episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from chatenv_client import ChatEnvError, TaskAnswerError
from chatenv_server import Answer, ChatEnvironment, ModelTurn, Task
from tests.engine.episodes import CLOCK, Plan, Span, messages, spans
from tests.engine.subjects import Subject
from tests.engine.test_laws import law
from tests.environment.taken_elsewhere import Rich, episodes, rich, shown, snapshot_bytes


@dataclass(frozen=True)
class Exchange:
    """A turn of the model, and what the task answers."""

    said: Span | Rich
    answer: Sequence[Any]
    rewards: dict[str, float]
    metadata: dict[str, Any] | None


exchanges = st.builds(
    Exchange,
    spans | rich,
    st.lists(messages(("user", "tool")), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.floats(-2, 2), max_size=2),
    st.sampled_from([None, None, {"more": [1]}]),
)
plans = st.lists(exchanges, min_size=1, max_size=4)


def opened(subject: Subject, plan: Plan, task: Any = None) -> ChatEnvironment:
    env = ChatEnvironment(subject.engine, task=task)
    try:
        env.reset(messages=plan.opening, episode_id="e", clock=CLOCK, **plan.options)
    except ChatEnvError:
        assume(False)
    return env


def action_of(exchange: Exchange, subject: Subject, env: ChatEnvironment) -> Any:
    said = exchange.said
    return said.action(subject, env) if isinstance(said, Rich) else said.action(subject)


def scripted(script: Sequence[Exchange]) -> Any:
    """A task that answers what stands next in a script."""

    class Scripted(Task):
        def __init__(self) -> None:
            self.asked = 0

        def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
            exchange = script[self.asked]
            self.asked += 1
            return Answer(exchange.answer, rewards=exchange.rewards, metadata=exchange.metadata)

    return Scripted


def conversation(env: ChatEnvironment) -> dict[str, Any]:
    """What of an episode does not depend on which step brought it."""
    segments = env.trajectory().segments
    return {
        "messages": env.state.history_messages,
        "spans": env.state.message_spans,
        "tokens": [segment.tokens.tolist() for segment in segments],
        "masks": [segment.loss_mask.tolist() for segment in segments],
        "origins": [[(turn.origin, turn.start, turn.stop) for turn in segment.turns] for segment in segments],
        "reports": [segment.fidelity for segment in segments],
        "prompt": env.observation.generation_prompt_length,
        "over": env.state.terminated,
    }


def without_limits(plan: Plan) -> Plan:
    limits = ("max_steps", "max_tokens")
    return Plan(plan.opening, plan.steps, {name: value for name, value in plan.options.items() if name not in limits})


@law(episodes(), plans)
def test_what_a_task_answers_is_what_the_same_messages_of_a_caller_would_be(
    subject: Subject, plan: Plan, script: Sequence[Exchange]
) -> None:
    asked: list[Exchange] = []
    plan = without_limits(plan)
    twin, env = opened(subject, plan), opened(subject, plan, scripted(asked))
    for exchange in script:
        before = conversation(env)
        action = action_of(exchange, subject, twin)
        try:
            twin.step(action)
        except ChatEnvError as error:
            refused = type(error)
            assert told(env, action) is refused
            assert conversation(env) == before
            continue
        if twin.state.turn_open:  # nobody is asked then
            env.step(action)
        else:
            asked.append(exchange)
            try:
                if exchange.answer:
                    twin.step(list(exchange.answer))
            except ChatEnvError as error:
                refused = type(error)
                assert told(env, action) in (TaskAnswerError, refused)
                assert conversation(env) == before
                return  # from here on the two differ: the turn without its answer is no step of a task's
            observation = env.step(action)
            assert observation.rewards == exchange.rewards
        assert conversation(env) == conversation(twin)
    assert env.audit() == twin.audit()


def told(env: ChatEnvironment, action: Any) -> type[Exception] | None:
    try:
        env.step(action)
    except ChatEnvError as error:
        return type(error)
    return None


@law(episodes(), plans)
def test_an_episode_with_a_task_that_is_taken_elsewhere_is_the_same(
    subject: Subject, plan: Plan, script: Sequence[Exchange]
) -> None:
    env = opened(subject, plan, scripted(script))
    written, past = [env.newest_piece()], [(shown(env), snapshot_bytes(env))]
    for exchange in script:
        if told(env, action_of(exchange, subject, env)) is None:
            written.append(env.newest_piece())
            past.append((shown(env), snapshot_bytes(env)))
    for at_step in {0, len(past) // 2, len(past) - 1}:
        expected, snapshot = past[at_step]
        assert snapshot_bytes(env, at_step) == snapshot
        assert shown(env.fork(at_step)) == expected
    kept = ChatEnvironment(subject.engine, task=scripted(script))
    kept.restore(b"".join(written))
    assert shown(kept) == past[-1][0]
    if len(past) > 1:
        env.set_reward({"late": 0.5}, step=1)
    restored = ChatEnvironment(subject.engine, task=scripted(script))
    restored.restore(env.snapshot().SerializeToString())
    assert shown(restored) == shown(env)
    assert snapshot_bytes(restored) == snapshot_bytes(env)
