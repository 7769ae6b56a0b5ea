"""Episodes as snapshots: the entries of a journal as protobuf messages. `restoring.py` makes an episode of one.

Pieces of a snapshot that follow on each other, as bytes, are the snapshot: the first has the opening, each further one
an entry more. That is what stores keep, and `newest_piece` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._version import __version__
from chatenv_client.errors import InvalidRequestError, TaskError
from chatenv_client.models import Failure, ResetOptions
from chatenv_client.reasons import Reason
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array, fingerprint_of, pack_logprobs, pack_tokens, unpack_tokens
from chatenv_client.wire.columns import column_rows_to_proto
from chatenv_client.wire.enums import STOP_REASON
from chatenv_client.wire.json_fields import dump_json
from chatenv_client.wire.messages import write_message
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.continuations import Continuation
from chatenv_server.engine.segments import last_tokens
from chatenv_server.environment.journal import NO_OUTCOME, Entry, Outcome, Sampled
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.rewards import Earned, LateReward
from chatenv_server.environment.times import Moments

EpisodeSnapshot = pb.EpisodeSnapshot
FORMAT: Final = 1
"""Version of `EpisodeSnapshot` that this release writes, and the highest that it reads."""

GOES_ON: Final = "+"
"""Begins a fingerprint in a sealed snapshot after whose entry others follow: one that was cut off there says so."""


def check_step(at_step: int | None, steps: int) -> None:
    """Raise InvalidRequestError unless an episode of so many steps has such a step."""
    if at_step is not None and not 0 <= at_step <= steps:
        raise InvalidRequestError(
            f"the episode has taken {steps} steps, so at_step is 0 to {steps}, not {at_step}",
            reason=Reason.BAD_AT_STEP,
            field="at_step",
        )


def new_snapshot(engine: TokenEngine, record: EpisodeRecord) -> pb.EpisodeSnapshot:
    """A snapshot without entries: what it is, and what it must be read with."""
    origin = record.forked_from
    return pb.EpisodeSnapshot(
        format=FORMAT,
        chatenv_version=__version__,
        episode_id=record.episode_id,
        tokenizer_fingerprint=engine.tokenizer_fingerprint,
        chat_template_fingerprint=engine.template_fingerprint_for(with_tools=record.options.tools is not None),
        token_id_limit=engine.token_id_limit,
        forked_from=None if origin is None else pb.ForkOrigin(**origin._asdict()),
    )


def write_opening(encoded: pb.EpisodeEntry, record: EpisodeRecord) -> None:
    """Write every option of a Reset into an entry, and when it was."""
    encoded.began_unix_ms = record.times.began_unix_ms
    options = {name: getattr(record.options, name) for name in ResetOptions.__annotations__}
    options["clock"] = record.log.options.clock_unix_seconds
    options["system_prompt"] = record.options.system_prompt_in_use
    encoded.opened.CopyFrom(wire.reset_to_proto(options))  # type: ignore[arg-type]
    encoded.opened.episode_id = ""  # the snapshot's own


def write_entry(encoded: pb.EpisodeEntry, entry: Entry, moments: Moments, *, is_opening: bool = False) -> None:
    """Write what a Reset or Step did into an entry, and when; of a Reset all but its options."""
    encoded.at_ms = moments.at_ms
    if moments.answered_at_ms is not None:
        encoded.answered_at_ms = moments.answered_at_ms
    if entry.sampled is not None:
        _write_span(encoded.sampled, entry.sampled, entry)
        encoded.fidelity.extend(map(wire.fidelity_to_proto, entry.reports))
    if entry.then is not None:
        _write_tail(encoded.went_on, entry, entry.then, () if is_opening else entry.then.messages)
    if entry.outcome is not NO_OUTCOME:
        _write_outcome(encoded, entry.outcome)


def _write_outcome(encoded: pb.EpisodeEntry, outcome: Outcome) -> None:
    _write_reward(encoded, outcome.reward)
    encoded.terminated = outcome.terminated
    encoded.truncated = outcome.truncated
    if outcome.metadata is not None:
        encoded.metadata_json = dump_json(outcome.metadata, "metadata", Reason.BAD_METADATA)
    if outcome.transform_state is not None:
        encoded.transform_state_json = dump_json(outcome.transform_state, "state_dict", Reason.BAD_METADATA)
    if outcome.task_state is not None:
        encoded.task_state_json = _state_text(outcome.task_state)


def _state_text(state: Mapping[str, Any]) -> str:
    """What a task knows, as JSON. Raises TaskError where it is too long, too deep, or text that is none."""
    try:
        return dump_json(state, "state", Reason.BAD_METADATA)
    except InvalidRequestError as error:
        raise TaskError(
            f"what the task knows cannot be kept ({error.message}); keep less of it, or give it state_dict"
        ) from error


def _write_reward(encoded: pb.EpisodeEntry | pb.LateReward, reward: Earned) -> None:
    if reward.unnamed is not None:
        encoded.reward = reward.unnamed
    if reward.named:
        encoded.rewards.extend(wire.named_rewards_to_proto(reward.named, reward.weights))


def write_late(snapshot: pb.EpisodeSnapshot, late: Iterable[LateReward], failure: Failure | None) -> None:
    """Write what was told of an episode after its steps."""
    for step, reward in late:
        _write_reward(snapshot.late_rewards.add(step=step), reward)
    if failure is not None:
        snapshot.failure.CopyFrom(wire.failure_to_proto(failure))


def _write_span(encoded: pb.SampledSpan, sampled: Sampled, entry: Entry) -> None:
    pack_tokens(encoded, sampled.tokens)
    if sampled.logprobs is not None:
        pack_logprobs(encoded, sampled.logprobs)
    if sampled.stop_reason is not None:
        encoded.stop_reason = STOP_REASON.number(sampled.stop_reason)  # type: ignore[assignment]
    version, version_runs, sampled_runs, columns = sampled.notes
    encoded.model_version = version
    encoded.sampled_runs.extend(sampled_runs)
    for run_version, length in version_runs:
        encoded.model_version_runs.add(model_version=run_version, length=length)
    encoded.extras.extend(map(column_rows_to_proto, columns))
    message = sampled.message or entry.read
    if message is not None:
        write_message(encoded.message, message)
    encoded.message_was_given = sampled.message is not None


def _write_tail(encoded: pb.WrittenTail, entry: Entry, then: Continuation, messages: Sequence[Any]) -> None:
    tail = then.tail
    encoded.first_message = then.first
    for message in messages:
        write_message(encoded.messages.add(), message)
    encoded.begins_segment = then.kept is not None
    encoded.shared_tokens = entry.shared
    pack_tokens(encoded, entry.new_tokens)
    encoded.generation_prompt_length = tail.generation_prompt_length
    encoded.message_starts.extend(tail.message_starts)
    encoded.fidelity.extend(map(wire.fidelity_to_proto, tail.reports))
    if tail.pending_rewrite is not None:
        encoded.rewrite.message_index = tail.pending_rewrite.message_index
        encoded.rewrite.follower = tail.pending_rewrite.follower
    if tail.prefill is not None:
        encoded.prefill.start, encoded.prefill.prompted = tail.prefill
    encoded.recorded_messages = then.recorded
    encoded.own_messages.extend(sorted(then.own))


def snapshot_of(engine: TokenEngine, record: EpisodeRecord, at_step: int | None = None) -> pb.EpisodeSnapshot:
    """An episode as it is now, or was after a step.

    Raises:
        InvalidRequestError: there is no such step.
    """
    steps = record.progress.step_count
    check_step(at_step, steps)
    snapshot = new_snapshot(engine, record)
    last = steps if at_step is None else at_step
    segments = record.log.segments()
    entries = list(record.journal.first(last + 1, segments))
    for step, entry in enumerate(entries):
        encoded = snapshot.entries.add()
        if step == 0:
            write_opening(encoded, record)
        write_entry(encoded, entry, record.times.of(step), is_opening=step == 0)
    begun = sum(entry.then is not None and entry.then.kept is not None for entry in entries)
    for sealed in segments[:begun]:
        _prove_span(snapshot.entries[sealed.turns[-1].step], fingerprint_of(sealed.tokens))
    snapshot.entries[-1].prompt_fingerprint = (
        record.log.fingerprint() if last == steps else fingerprint_of(_stream_written(snapshot.entries))
    )
    late = [late for late in record.rewards.late if late.step <= last]
    write_late(snapshot, late, record.progress.failure if at_step is None else None)
    return snapshot


def cut_at(snapshot: pb.EpisodeSnapshot, at_step: int) -> None:
    """Leave of a snapshot what the episode was after a step.

    Raises:
        InvalidRequestError: there is no such step.
    """
    check_step(at_step, len(snapshot.entries) - 1)
    del snapshot.entries[at_step + 1 :]
    late = [late for late in snapshot.late_rewards if late.step <= at_step]
    del snapshot.late_rewards[:]
    snapshot.late_rewards.extend(late)
    snapshot.ClearField("failure")
    last = snapshot.entries[-1]
    last.prompt_fingerprint = last.prompt_fingerprint.removeprefix(GOES_ON) or fingerprint_of(
        _stream_written(snapshot.entries)
    )


def _stream_written(entries: Iterable[pb.EpisodeEntry]) -> Int32Array:
    """(T,) int32, the stream of an episode that has these entries."""
    committed: list[Int32Array] = []
    tail = EMPTY_TOKENS
    for entry in entries:
        if entry.HasField("sampled"):
            committed += (tail, unpack_tokens(entry.sampled.tokens))
            tail = EMPTY_TOKENS
        if not entry.HasField("went_on"):
            continue
        written = entry.went_on
        if written.begins_segment:
            tail, committed = np.concatenate([*committed, tail]), []
        tail = np.concatenate([tail[: written.shared_tokens], unpack_tokens(written.tokens)])
    return np.concatenate([*committed, tail])


def _prove_span(entry: pb.EpisodeEntry, fingerprint: str) -> None:
    """Say in an entry what the stream was after its span."""
    if entry.HasField("went_on"):
        entry.sampled_fingerprint = fingerprint
    else:
        entry.prompt_fingerprint = GOES_ON + fingerprint


def seal(snapshot: pb.EpisodeSnapshot) -> None:
    """Let the last entry alone have a fingerprint that stands for the whole: one that is cut off is refused then.

    Of the others those are kept, and marked, that prove what a segment was before another began.
    """
    last = len(snapshot.entries) - 1
    needed, sampled = {last}, -1
    for step, entry in enumerate(snapshot.entries):
        if entry.HasField("sampled"):
            sampled = step
        if entry.went_on.begins_segment and not entry.sampled_fingerprint:
            needed.add(sampled)
    for step, entry in enumerate(snapshot.entries):
        own = entry.prompt_fingerprint.removeprefix(GOES_ON) if step in needed else ""
        entry.prompt_fingerprint = GOES_ON + own if own and step < last else own


def mark_as_fork(snapshot: pb.EpisodeSnapshot, origin: str) -> None:
    """Let a snapshot be that of a fork of the episode `origin`, in its group; where it has none, in one of its id."""
    opened = snapshot.entries[0].opened
    snapshot.forked_from.CopyFrom(pb.ForkOrigin(episode_id=origin, at_step=len(snapshot.entries) - 1))
    opened.group = opened.group or origin


def prove_last_span(snapshot: pb.EpisodeSnapshot) -> None:
    """Say what the stream was after the last span, where `seal` has dropped that: a segment may begin after it yet."""
    spans = [step for step, entry in enumerate(snapshot.entries) if entry.HasField("sampled")]
    if not spans:
        return
    last = snapshot.entries[spans[-1]]
    if not (last.prompt_fingerprint or last.sampled_fingerprint):
        alone = pb.EpisodeEntry(sampled=last.sampled)
        _prove_span(last, fingerprint_of(_stream_written([*snapshot.entries[: spans[-1]], alone])))


def piece_of_notes(late: Iterable[LateReward], failure: Failure | None = None) -> bytes:
    """What was told of an episode after its steps, as bytes of a snapshot that goes on where it ends."""
    piece = pb.EpisodeSnapshot()
    write_late(piece, late, failure)
    return piece.SerializeToString()


def newest_piece(engine: TokenEngine, record: EpisodeRecord, digest: bytes) -> bytes:
    """What the last Reset or Step did, as bytes; that of a Reset says what it must be read with.

    Args:
        engine: the episode's.
        record: the episode.
        digest: of the action.
    """
    is_opening = record.progress.step_count == 0
    piece = new_snapshot(engine, record) if is_opening else pb.EpisodeSnapshot()
    encoded = piece.entries.add()
    if is_opening:
        write_opening(encoded, record)
    entry = record.newest_entry
    write_entry(encoded, entry, record.times.of(record.progress.step_count), is_opening=is_opening)
    if entry.sampled is not None and encoded.went_on.begins_segment:
        encoded.sampled_fingerprint = fingerprint_of(last_tokens(record.log.sealed))
    if entry.outcome.failure is not None:
        write_late(piece, (), entry.outcome.failure)
    encoded.prompt_fingerprint = record.log.fingerprint()
    encoded.request_digest = digest
    return piece.SerializeToString()
