"""What others are shown of an episode: its callers an observation, the state and the trajectory, its task a turn.

All of it is made from the record when it is asked for. An observation copies nothing of the stream.
"""

from __future__ import annotations

import copy

from chatenv_client.models import ChatAction, ChatObservation, ChatState, SegmentEnd, Trajectory, own_message
from chatenv_server.engine.log import Change
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.rewards import Earned
from chatenv_server.tasks.task import ModelTurn


def observation_of(episode: EpisodeRecord, change: Change) -> ChatObservation:
    """The episode as it is now, after a step or reset that did this to its log."""
    log, head, progress, options = episode.log, episode.log.head, episode.progress, episode.options
    shown = ChatObservation(episode.episode_id, progress.step_count, log.stream, log.conversation)
    # Field by field: what few episodes have takes none of the time of the others.
    shown.terminated, shown.truncated, shown.failure = progress.terminated, progress.truncated, progress.failure
    shown.generation_prompt_length = head.tail.generation_prompt_length
    shown.fidelity = change.reports
    shown.held_tokens, shown.held_messages = change.held_tokens, change.held_messages
    shown.segment = len(head.sealed)
    shown.seed, shown.turn_open = options.seed, progress.turn_open
    if options.metadata:
        shown.metadata = copy.deepcopy(dict(options.metadata))
    if episode.has_limits:
        shown.turns_left, shown.tokens_left = progress.turns_left(options), progress.tokens_left(options, len(log))
    return shown


def show_reward(observation: ChatObservation, reward: Earned) -> None:
    """Have an observation show what its step earned."""
    if reward:
        observation.reward, observation.rewards = reward.total, dict(reward.named)


def state_of(episode: EpisodeRecord) -> ChatState:
    """The episode as it is now."""
    log, progress, options = episode.log, episode.progress, episode.options
    last_step = log.sealed[-1].last_step if log.sealed else 0
    return ChatState(
        episode_id=episode.episode_id,
        step_count=progress.step_count,
        history_messages=log.conversation.copy(),
        message_spans=log.message_spans(),
        token_ids=log.stream.token_ids,
        turns=episode.times.on_turns(episode.rewards.on_turns(log.turns(), after=last_step)),
        fidelity=log.reports(),
        generation_prompt_length=log.generation_prompt_length,
        prompt_fingerprint=log.fingerprint(),
        terminated=progress.terminated,
        truncated=progress.truncated,
        max_steps=options.max_steps,
        max_tokens=options.max_tokens,
        max_turns=options.max_turns,
        max_sampled_tokens=options.max_sampled_tokens,
        turn_count=progress.turn_count,
        turn_open=progress.turn_open,
        turns_left=progress.turns_left(options),
        tokens_left=progress.tokens_left(options, len(log)),
        failure=progress.failure,
        task=options.task,
        seed=options.seed,
        metadata=copy.deepcopy(dict(options.metadata)),
        group=options.group,
        clock_unix_seconds=log.options.clock_unix_seconds,
        column_rows=log.column_rows(),
        forked_from=episode.forked_from,
        sealed=tuple(SegmentEnd(one.length, one.message_count, one.last_step) for one in log.sealed),
    )


def trajectory_of(episode: EpisodeRecord) -> Trajectory:
    """The episode as training wants it."""
    progress, options = episode.progress, episode.options
    return Trajectory(
        episode.episode_id,
        episode.times.on_segments(episode.rewards.on_segments(episode.log.segments())),
        progress.terminated,
        progress.truncated,
        progress.failure,
        tuple(episode.log.conversation.copy()),
        copy.deepcopy(dict(options.metadata)),
        options.seed,
        options.group,
    )


def ended_turn(episode: EpisodeRecord, action: ChatAction, *, goes_on: bool) -> ModelTurn:
    """The turn that a model has just ended, as a task reads it.

    Args:
        episode: the episode.
        action: that ended the turn.
        goes_on: whether it went on with one that was aborted.
    """
    log, options, progress = episode.log, episode.options, episode.progress
    last = log.head.last
    if last is None:
        raise LookupError("no turn was sampled")
    # Copies: whatever a task does to them, the record stays.
    tokens, logprobs = log.last_turn() if goes_on else (action.tokens.copy(), action.logprobs)
    if logprobs is not None:
        logprobs = logprobs.copy()
    return ModelTurn(
        own_message(last.message),
        last.text,
        tokens,
        logprobs,
        last.stop_reason,
        log.conversation,
        episode.episode_id,
        progress.step_count,
        progress.turn_count,
        copy.deepcopy(dict(options.metadata)) if options.metadata else {},
        options.seed,
        episode.row,
        progress.turns_left(options) if episode.has_limits else None,
    )
