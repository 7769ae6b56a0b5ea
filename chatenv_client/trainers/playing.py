"""An episode from its reset to its trajectory, as adapters play it: they bring the sampler alone.

What breaks around an episode is the failure of its trajectory. What the caller did wrong is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.client import ChatEnv
from chatenv_client.errors import (
    CapacityError,
    ChatEnvError,
    DeadlineError,
    EpisodeDamagedError,
    EpisodeNotFoundError,
    HistoryRewrittenError,
    TaskError,
    TransformError,
    UnavailableError,
)
from chatenv_client.models import ChatAction, Failure, FailureKind, ResetOptions, StepResult, Trajectory
from chatenv_client.models.failure import MAX_REASON_CHARACTERS
from chatenv_client.models.trajectory import segment_of
from chatenv_client.pool.pool import EpisodePool
from chatenv_client.pool.run import kind_of
from chatenv_client.tokens import EMPTY_TOKENS, Float32Array, Int32Array

if TYPE_CHECKING:
    from typing_extensions import Unpack

Sample = Callable[[Int32Array], ChatAction | None]
"""Samples a turn of the model: takes the prompt, (T,) int32, gives ids, and logprobs and stop reason where known. None
leaves the episode as it is: the row has no room left, say."""

SampleAsync = Callable[[Int32Array], Awaitable[ChatAction | None]]

SampleAll = Callable[[Sequence[Int32Array]], Sequence[ChatAction | None]]
"""Samples a turn for each of several prompts."""

BROKEN: Final = (
    *(TaskError, TransformError, DeadlineError, UnavailableError, CapacityError),
    *(EpisodeNotFoundError, EpisodeDamagedError, HistoryRewrittenError),
)
"""What is nobody's mistake here: it ends the episode, and not the run."""


def play(env: ChatEnv, sample: Sample, **options: Unpack[ResetOptions]) -> Trajectory:
    """Play one episode: sample until it is over, or until it is not the model's turn and nobody answers.

    Args:
        env: a client. Its episode stays open.
        sample: gives a turn of the model. What it raises is raised.
        **options: of the reset.

    Returns:
        The trajectory. Where something broke, it has a `failure`, and so no reward.

    Raises:
        ChatEnvError: the caller did something wrong, such as giving token ids that are none.
    """
    (trajectory,) = play_side_by_side([env], lambda prompts: [sample(prompts[0])], [options])
    return trajectory


def play_side_by_side(envs: Sequence[ChatEnv], sample: SampleAll, options: Sequence[ResetOptions]) -> list[Trajectory]:
    """Play one episode in each client: each round samples a turn for all that are not over; see `play`.

    Args:
        envs: clients, which may share a channel.
        sample: gives a turn for each of several prompts; it is called in this thread.
        options: of the resets, one mapping a client.
    """
    episodes = [_episode(env, own) for env, own in zip(envs, options, strict=True)]
    with ThreadPoolExecutor(max_workers=max(1, len(episodes))) as threads:
        shown = dict(enumerate(threads.map(next, episodes)))
        while prompts := {index: prompt for index, prompt in shown.items() if not isinstance(prompt, Trajectory)}:
            turns = zip(prompts, sample(list(prompts.values())), strict=True)
            stepped = threads.map(lambda turn: (turn[0], episodes[turn[0]].send(turn[1])), list(turns))
            shown |= dict(stepped)
    return [shown[index] for index in range(len(episodes))]


def _episode(env: ChatEnv, options: ResetOptions) -> Generator[Int32Array | Trajectory, ChatAction | None, None]:
    """Give one prompt after the other, each for an action; and the trajectory in the end."""
    try:
        result = env.reset(**options)
    except BROKEN as error:
        yield _never_seen(error)
        return
    try:
        while is_models_turn(result) and (action := (yield result.observation.token_ids)) is not None:
            result = env.step(action)
        trajectory = env.trajectory()
    except BROKEN as error:
        try:
            env.fail(*failure_of(error))
            trajectory = env.trajectory()
        except BROKEN:
            trajectory = _never_seen(error)
    yield trajectory


async def play_async(env: AsyncChatEnv, sample: SampleAsync, **options: Unpack[ResetOptions]) -> Trajectory:
    """As `play`."""
    try:
        result = await env.reset(**options)
    except BROKEN as error:
        return _never_seen(error)
    return await play_on_async(env, result, sample)


async def play_in_pool(pool: EpisodePool, sample: SampleAsync, **options: Unpack[ResetOptions]) -> Trajectory:
    """As `play`, in an episode of a pool, which is ended."""
    try:
        env = await pool.reset(**options)
    except BROKEN as error:
        return _never_seen(error)
    async with env:
        return await play_on_async(env, StepResult(env.observation, None, env.observation.done), sample)


async def play_on_async(env: AsyncChatEnv, result: StepResult, sample: SampleAsync) -> Trajectory:
    """As `play`, from where an episode is: `result` is what `reset`, `resume` or the last `step` gave."""
    try:
        while is_models_turn(result) and (action := await sample(result.observation.token_ids)) is not None:
            result = await env.step(action)
        return await env.trajectory()
    except BROKEN as error:
        try:
            await env.fail(*failure_of(error))
            return await env.trajectory()
        except BROKEN:
            return _never_seen(error)


def is_models_turn(result: StepResult) -> bool:
    """Whether the model is to go on: the episode is not over, and somebody else spoke last, or nobody yet."""
    observation = result.observation
    if result.done or observation.step_count == 0:
        return not result.done
    last = observation.conversation.length - 1
    return observation.turn_open or observation.conversation.at(last)["role"] != "assistant"


def failure_of(error: ChatEnvError) -> tuple[str, FailureKind]:
    """What `fail` takes: a sentence for a person, and what broke."""
    return str(error)[:MAX_REASON_CHARACTERS], kind_of(error)


def _never_seen(error: ChatEnvError) -> Trajectory:
    """The trajectory of an episode that could not be opened, or not be read any more."""
    reason, kind = failure_of(error)
    nothing: Float32Array = EMPTY_TOKENS.astype("float32")
    return Trajectory("", (segment_of(EMPTY_TOKENS, (), nothing, ()),), failure=Failure(kind, reason))
