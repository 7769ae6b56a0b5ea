"""Whole episodes: state, trajectory, audit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import ProtocolError
from chatenv_client.models import (
    AuditReport,
    ChatState,
    ForkOrigin,
    Segment,
    SegmentEnd,
    Trajectory,
    Turn,
    logprobs_of,
    turn_of_each_token,
)
from chatenv_client.reasons import Reason
from chatenv_client.tokens import (
    EMPTY_TOKENS,
    BoolArray,
    Float32Array,
    Int32Array,
    mask_of_runs,
    pack_logprobs,
    pack_tokens,
    runs_of_mask,
    unpack_logprobs,
    unpack_tokens,
)
from chatenv_client.wire.columns import column_rows_from_proto, column_rows_to_proto
from chatenv_client.wire.enums import ORIGIN, STOP_REASON, VERDICT
from chatenv_client.wire.failures import failure_from_proto, failure_to_proto
from chatenv_client.wire.json_fields import dump_json, load_object
from chatenv_client.wire.messages import message_to_proto, messages_from_proto
from chatenv_client.wire.observations import fidelity_from_proto, fidelity_to_proto
from chatenv_client.wire.requests import timestamp, unix_seconds
from chatenv_client.wire.rewards import named_rewards_to_proto, rewards_from_proto

_MOST_SEGMENT_TOKENS: Final = 2**28
"""Of all segments of an episode. A segment of a few bytes may share millions of tokens with the one before."""


def state_to_proto(state: ChatState) -> pb.GetStateResponse:
    """The whole episode."""
    encoded = pb.GetStateResponse(
        episode_id=state.episode_id,
        step_count=state.step_count,
        messages=map(message_to_proto, state.history_messages),
        message_spans=map(_span_to_proto, state.message_spans),
        turns=map(turn_to_proto, state.turns),
        generation_prompt_length=state.generation_prompt_length,
        fidelity=map(fidelity_to_proto, state.fidelity),
        prompt_fingerprint=state.prompt_fingerprint,
        terminated=state.terminated,
        truncated=state.truncated,
        max_steps=state.max_steps or 0,
        max_tokens=state.max_tokens or 0,
        max_turns=state.max_turns or 0,
        max_sampled_tokens=state.max_sampled_tokens or 0,
        turn_count=state.turn_count,
        turn_open=state.turn_open,
        turns_left=state.turns_left,
        tokens_left=state.tokens_left,
        failure=None if state.failure is None else failure_to_proto(state.failure),
        task=state.task,
        seed=state.seed,
        metadata_json=dump_json(state.metadata, "metadata", Reason.BAD_METADATA) if state.metadata else "",
        group=state.group,
        clock=None if state.clock_unix_seconds is None else timestamp(state.clock_unix_seconds),
        sealed=[pb.SegmentEnd(**end._asdict()) for end in state.sealed],
        extras=map(column_rows_to_proto, state.column_rows),
        forked_from=None if state.forked_from is None else pb.ForkOrigin(**state.forked_from._asdict()),
    )
    pack_tokens(encoded, state.token_ids)
    return encoded


def state_from_proto(encoded: pb.GetStateResponse) -> ChatState:
    """The whole episode.

    Raises:
        ProtocolError: the answer does not fit the contract.
    """
    length = len(encoded.tokens)
    return ChatState(
        episode_id=encoded.episode_id,
        step_count=encoded.step_count,
        history_messages=messages_from_proto(encoded.messages),
        message_spans=_spans_from_proto(encoded, length),
        token_ids=unpack_tokens(encoded.tokens),
        turns=turns_from_proto(encoded.turns, length),
        fidelity=fidelity_from_proto(encoded.fidelity),
        generation_prompt_length=encoded.generation_prompt_length,
        prompt_fingerprint=encoded.prompt_fingerprint,
        terminated=encoded.terminated,
        truncated=encoded.truncated,
        max_steps=encoded.max_steps or None,
        max_tokens=encoded.max_tokens or None,
        max_turns=encoded.max_turns or None,
        max_sampled_tokens=encoded.max_sampled_tokens or None,
        turn_count=encoded.turn_count,
        turn_open=encoded.turn_open,
        turns_left=encoded.turns_left if encoded.HasField("turns_left") else None,
        tokens_left=encoded.tokens_left if encoded.HasField("tokens_left") else None,
        failure=failure_from_proto(encoded.failure) if encoded.HasField("failure") else None,
        task=encoded.task,
        seed=encoded.seed if encoded.HasField("seed") else None,
        metadata=load_object(encoded.metadata_json, "metadata", Reason.BAD_METADATA),
        group=encoded.group,
        clock_unix_seconds=unix_seconds(encoded.clock) if encoded.HasField("clock") else None,
        sealed=tuple(SegmentEnd(end.token_count, end.message_count, end.step) for end in encoded.sealed),
        column_rows=column_rows_from_proto(encoded.extras, length),
        forked_from=_origin(encoded.forked_from) if encoded.HasField("forked_from") else None,
    )


def _span_to_proto(span: tuple[int, int]) -> pb.MessageSpan:
    return pb.MessageSpan(start=span[0], length=span[1] - span[0])


def _origin(encoded: pb.ForkOrigin) -> ForkOrigin:
    return ForkOrigin(encoded.episode_id, encoded.at_step)


def _spans_from_proto(encoded: pb.GetStateResponse, length: int) -> tuple[tuple[int, int], ...]:
    if len(encoded.message_spans) != len(encoded.messages):
        raise ProtocolError("the message spans of the server's answer are not as many as its messages")
    return _spans(encoded.message_spans, length)


def _spans(encoded: Sequence[pb.MessageSpan], length: int) -> tuple[tuple[int, int], ...]:
    spans = tuple((span.start, span.start + span.length) for span in encoded)
    if any(stop > length for _, stop in spans):
        raise ProtocolError("the message spans of the server's answer do not fit its tokens")
    return spans


def turn_to_proto(turn: Turn) -> pb.Turn:
    """One turn."""
    return pb.Turn(
        origin=ORIGIN.number(turn.origin),  # type: ignore[arg-type]
        start=turn.start,
        length=turn.length,
        step=turn.step,
        first_message=turn.first_message,
        message_count=turn.message_count,
        stop_reason=STOP_REASON.number(turn.stop_reason),  # type: ignore[arg-type]
        model_version=turn.model_version,
        reward=turn.reward,
        has_logprobs=turn.has_logprobs,
        sampled_runs=turn.sampled_runs,
        model_version_runs=[
            pb.ModelVersionRun(model_version=version, length=length) for version, length in turn.model_version_runs
        ],
        rewards=named_rewards_to_proto(turn.rewards),
        at_ms=turn.at_ms,
    )


def turns_from_proto(turns: Sequence[pb.Turn], length: int) -> tuple[Turn, ...]:
    """All turns of an episode, whose stream has `length` tokens.

    Raises:
        ProtocolError: an origin or a stop reason is unknown, or the turns do not cover the stream one after the other.
    """
    end = 0
    for turn in turns:
        _check_length("the turns before another", end, turn.start)
        end += turn.length
    _check_length("the turns", end, length)
    return tuple(
        Turn(
            origin=ORIGIN.answered(turn.origin),
            start=turn.start,
            length=turn.length,
            step=turn.step,
            first_message=turn.first_message,
            message_count=turn.message_count,
            stop_reason=STOP_REASON.answered(turn.stop_reason) if turn.stop_reason else None,
            model_version=turn.model_version,
            reward=turn.reward if turn.HasField("reward") else None,
            has_logprobs=turn.has_logprobs,
            sampled_runs=_sampled_runs(turn),
            model_version_runs=tuple((run.model_version, run.length) for run in turn.model_version_runs),
            rewards=rewards_from_proto(turn.rewards)[0],
            at_ms=turn.at_ms if turn.HasField("at_ms") else None,
        )
        for turn in turns
    )


def _sampled_runs(turn: pb.Turn) -> tuple[int, ...]:
    if turn.sampled_runs:
        _check_length("the sampled runs of a turn", sum(turn.sampled_runs), turn.length)
    return tuple(turn.sampled_runs)


def trajectory_to_proto(trajectory: Trajectory) -> pb.GetTrajectoryResponse:
    """The episode as training wants it: of each segment what the one before lacks."""
    return pb.GetTrajectoryResponse(
        episode_id=trajectory.episode_id,
        segments=map(_segment_to_proto, trajectory.segments),
        terminated=trajectory.terminated,
        truncated=trajectory.truncated,
        failure=None if trajectory.failure is None else failure_to_proto(trajectory.failure),
        messages=map(message_to_proto, trajectory.messages),
        metadata_json=dump_json(trajectory.metadata, "metadata", Reason.BAD_METADATA) if trajectory.metadata else "",
        seed=trajectory.seed,
        group=trajectory.group,
        given_assistants=map(_span_to_proto, trajectory.given_assistants or ()),
    )


def _segment_to_proto(segment: Segment) -> pb.Segment:
    """One segment: the mask as runs, the logprobs of the turns that have some."""
    encoded = pb.Segment(
        shared_tokens=segment.shared_length,
        loss_mask_runs=runs_of_mask(segment.loss_mask),
        turns=map(turn_to_proto, segment.turns),
        fidelity=map(fidelity_to_proto, segment.fidelity),
        extras=map(column_rows_to_proto, segment.column_rows),
    )
    pack_tokens(encoded, segment.tokens[segment.shared_length :])
    for turn in segment.turns:
        if turn.has_logprobs:
            pack_logprobs(encoded, segment.logprobs[turn.start : turn.stop])
    return encoded


def trajectory_from_proto(encoded: pb.GetTrajectoryResponse, *, assistants: bool = False) -> Trajectory:
    """The episode as training wants it, with one mask value, logprob and turn index a token.

    Args:
        encoded: the answer.
        assistants: whether what given assistants say was asked for.

    Raises:
        ProtocolError: lengths do not agree, there is no segment, or all segments together would take gigabytes.
    """
    total = sum(one.shared_tokens + len(one.tokens) for one in encoded.segments)
    if total > _MOST_SEGMENT_TOKENS:
        raise ProtocolError(f"the segments of the server's answer have {total} tokens, more than a client takes")
    segments: list[Segment] = []
    before = EMPTY_TOKENS
    for one in encoded.segments:
        segments.append(_segment_from_proto(one, before))
        before = segments[-1].tokens
    if not segments:
        raise ProtocolError("the server's answer has no segment; update the older of the two sides")
    return Trajectory(
        encoded.episode_id,
        tuple(segments),
        encoded.terminated,
        encoded.truncated,
        failure_from_proto(encoded.failure) if encoded.HasField("failure") else None,
        tuple(messages_from_proto(encoded.messages)),
        load_object(encoded.metadata_json, "metadata", Reason.BAD_METADATA),
        encoded.seed if encoded.HasField("seed") else None,
        encoded.group,
        _spans(encoded.given_assistants, len(segments[-1].tokens)) if assistants else None,
    )


def _segment_from_proto(encoded: pb.Segment, before: Int32Array) -> Segment:
    """A segment, its leading tokens taken from the one before."""
    shared = encoded.shared_tokens
    if shared > len(before):
        raise ProtocolError(f"a segment shares {shared} tokens with one that has {len(before)}")
    tokens = unpack_tokens(encoded.tokens)
    if shared:
        tokens = np.concatenate([before[:shared], tokens])
    turns = turns_from_proto(encoded.turns, len(tokens))
    return Segment(
        tokens=tokens,
        loss_mask=_mask_of_runs(encoded.loss_mask_runs, len(tokens)),
        logprobs=_spread_logprobs(unpack_logprobs(encoded.logprobs), turns, len(tokens)),
        turn=turn_of_each_token(turns),
        turns=turns,
        fidelity=fidelity_from_proto(encoded.fidelity),
        shared_length=shared,
        column_rows=column_rows_from_proto(encoded.extras, len(tokens)),
    )


def _mask_of_runs(runs: Sequence[int], length: int) -> BoolArray:
    # Before anything is allocated: a run of a few bytes may say four thousand million.
    _check_length("the loss mask", sum(runs), length)
    return mask_of_runs(runs)


def _spread_logprobs(given: Float32Array, turns: Sequence[Turn], length: int) -> Float32Array:
    _check_length("the logprobs", len(given), sum(turn.length for turn in turns if turn.has_logprobs))
    return logprobs_of(turns, given, length)


def _check_length(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise ProtocolError(f"{what} of the server's answer cover {got} tokens, not {expected}")


def audit_to_proto(report: AuditReport) -> pb.AuditEpisodeResponse:
    """How the stream compares with a full rendering."""
    return pb.AuditEpisodeResponse(
        verdict=VERDICT.number(report.verdict),  # type: ignore[arg-type]
        index=report.index,
        detail=report.detail,
        own_readings=report.own_readings,
    )


def audit_from_proto(encoded: pb.AuditEpisodeResponse) -> AuditReport:
    """How the stream compares with a full rendering.

    Raises:
        ProtocolError: the verdict is unknown.
    """
    index = encoded.index if encoded.HasField("index") else None
    return AuditReport(VERDICT.answered(encoded.verdict), index, encoded.detail, tuple(encoded.own_readings))
