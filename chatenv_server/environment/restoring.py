"""Reads snapshots: makes an episode anew by writing its entries into a log, each as it was written first.

The template is not asked: committed tokens are never rendered again. What a snapshot says may come from anybody, so all
of it is checked: it becomes an episode that could have been, or it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import ChatEnvError, InvalidRequestError, TokenizerMismatchError
from chatenv_client.models import ChatAction, ChatObservation, ForkOrigin, Message, MessageSnapshot
from chatenv_client.reasons import Reason
from chatenv_client.tokens import Int32Array, unpack_logprobs, unpack_tokens
from chatenv_client.wire.columns import column_rows_from_proto
from chatenv_client.wire.enums import STOP_REASON
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.continuations import Continuation
from chatenv_server.engine.conversation import PendingRewrite, Prefill, SpanNotes, Tail
from chatenv_server.environment.journal import Entry, Outcome, Sampled
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.snapshots import FORMAT, new_snapshot
from chatenv_server.environment.validation import check_action, check_messages, check_token_ids

Restored = tuple[EpisodeRecord, ChatObservation]
"""An episode, and what its last step showed."""


def parsed(snapshot: bytes) -> pb.EpisodeSnapshot:
    """A snapshot of its bytes, or of its pieces' bytes one after the other.

    Raises:
        InvalidRequestError: they are none.
    """
    try:
        return pb.EpisodeSnapshot.FromString(snapshot)
    except DecodeError as error:
        raise _refusal("its bytes are no EpisodeSnapshot") from error


def restored(
    engine: TokenEngine, snapshot: pb.EpisodeSnapshot, *, keeps_texts: bool = True, keeps_journal: bool = True
) -> Restored:
    """The episode of a snapshot, as it was after the last of its entries.

    Raises:
        TokenizerMismatchError: another tokenizer, template or token-id limit wrote it.
        InvalidRequestError: it is no snapshot that this release reads, or is cut off or altered.
    """
    if snapshot.format != FORMAT:
        raise _refusal(f"its format is {snapshot.format}, and this release reads format {FORMAT}")
    if not snapshot.entries or not snapshot.entries[0].HasField("opened"):
        raise _refusal("it has no opening")
    try:
        return _restored(engine, snapshot, keeps_texts=keeps_texts, keeps_journal=keeps_journal)
    except TokenizerMismatchError:
        raise
    except (ChatEnvError, ValueError, LookupError, TypeError, OverflowError, ArithmeticError) as error:
        raise _refusal(f"an entry does not follow on those before ({error})") from error


def _restored(engine: TokenEngine, snapshot: pb.EpisodeSnapshot, *, keeps_texts: bool, keeps_journal: bool) -> Restored:
    options = EpisodeOptions().overridden_by(wire.reset_from_proto(snapshot.entries[0].opened))
    origin = snapshot.forked_from
    forked_from = ForkOrigin(origin.episode_id, origin.at_step) if snapshot.HasField("forked_from") else None
    log = engine.open(options.render_options(), keeps_texts=keeps_texts)
    options = replace(options, episode_id=snapshot.episode_id)
    record = EpisodeRecord(options, log, forked_from, keeps_journal=keeps_journal)
    _check_written_alike(snapshot, new_snapshot(engine, record))
    observation = ChatObservation()
    for step, encoded in enumerate(snapshot.entries):
        if step and encoded.HasField("opened"):
            raise _refusal("it has two openings")
        observation = record.write_again(_entry(encoded, record, engine), step)
        if encoded.prompt_fingerprint and encoded.prompt_fingerprint != record.log.fingerprint():
            raise _refusal(f"the stream after step {step} is another one than was written")
    return record, observation


def _check_written_alike(snapshot: pb.EpisodeSnapshot, own: pb.EpisodeSnapshot) -> None:
    for field, what in (
        ("tokenizer_fingerprint", "tokenizer"),
        ("chat_template_fingerprint", "chat template"),
        ("token_id_limit", "token-id limit"),
    ):
        if getattr(snapshot, field) != getattr(own, field):
            raise TokenizerMismatchError(
                f"the episode was written with another {what} than this server's; "
                "serve it with the one that it was written with",
                details={"expected": str(getattr(own, field)), "received": str(getattr(snapshot, field))},
            )


def _entry(encoded: pb.EpisodeEntry, record: EpisodeRecord, engine: TokenEngine) -> Entry:
    metadata = encoded.metadata_json
    outcome = Outcome(
        encoded.reward if encoded.HasField("reward") else None,
        encoded.terminated,
        encoded.truncated,
        json.loads(metadata) if encoded.HasField("metadata_json") else None,
        json.loads(encoded.transform_state_json) if encoded.transform_state_json else None,
    )
    if encoded.HasField("sampled") and not encoded.HasField("opened"):
        return _span(encoded, record, outcome, engine)
    if not encoded.HasField("went_on"):
        raise _refusal("an entry says nothing of what was done")
    shared = encoded.went_on.shared_tokens
    return Entry(_continuation(encoded, record, engine), shared, outcome=outcome)


def _span(encoded: pb.EpisodeEntry, record: EpisodeRecord, outcome: Outcome, engine: TokenEngine) -> Entry:
    span = encoded.sampled
    action = ChatAction(
        tokens=unpack_tokens(span.tokens),
        logprobs=unpack_logprobs(span.logprobs) if span.logprobs else None,
        stop_reason=STOP_REASON.answered(span.stop_reason),
        message=wire.message_from_proto(span.message, "message") if span.HasField("message") else None,
    )
    check_action(action, engine.token_id_limit)
    versions = tuple((run.model_version, run.length) for run in span.model_version_runs)
    covered = (sum(span.sampled_runs), sum(length for _, length in versions))
    if any(each not in (0, len(action.tokens)) for each in covered):
        raise _refusal("runs of a span cover another number of tokens than it has")
    columns = column_rows_from_proto(span.extras, len(record.log) + len(action.tokens))
    notes = SpanNotes(span.model_version, versions, tuple(span.sampled_runs), columns)
    given = action.message if span.message_was_given else None
    return Entry(
        sampled=Sampled(action.tokens, action.logprobs, STOP_REASON.answered(span.stop_reason), notes, given),
        reports=wire.fidelity_from_proto(encoded.fidelity),
        read=None if span.message_was_given else action.message,
        outcome=outcome,
    )


class _Before(NamedTuple):
    """What a tail follows on."""

    stream: Int32Array
    """(n,) int32: what it may share its beginning with."""
    first: int
    """First message of the tail."""
    messages: int
    """Of the conversation."""


def _continuation(encoded: pb.EpisodeEntry, record: EpisodeRecord, engine: TokenEngine) -> Continuation:
    written, log = encoded.went_on, record.log
    before = _before(written, record)
    messages = record.options.opening if encoded.HasField("opened") else wire.messages_from_proto(written.messages)
    check_messages(messages)
    first, shared, own = written.first_message, written.shared_tokens, tuple(written.own_messages)
    if not (shared <= len(before.stream) and before.first <= first <= before.messages):
        raise _refusal("a tail begins where there is nothing")
    more = unpack_tokens(written.tokens)
    check_token_ids(more, max(engine.token_id_limit, engine.vocabulary_size))
    tail = _tail(written, before.stream[:shared], more)
    count = first + len(messages)
    if len(tail.message_starts) != count - before.first or written.recorded_messages > count:
        raise _refusal("a tail has another number of messages than the conversation")
    if any(index >= written.recorded_messages for index in own):
        raise _refusal("a message is a model's that is not on record")
    kept = () if written.begins_segment else None
    rewrite = _rewrite(written, log.conversation, messages) if written.HasField("rewrite") else None
    return Continuation(
        tail._replace(pending_rewrite=rewrite), first, messages, written.recorded_messages, frozenset(own), kept
    )


def _before(written: pb.WrittenTail, record: EpisodeRecord) -> _Before:
    log, head = record.log, record.log.head
    if written.begins_segment:
        return _Before(log.stream.token_ids, 0, log.message_count)
    return _Before(head.tail.tokens, head.tail_message, log.message_count)


def _tail(written: pb.WrittenTail, shared: Int32Array, more: Int32Array) -> Tail:
    tokens = np.concatenate([shared, more])
    starts, asked = tuple(written.message_starts), written.generation_prompt_length
    if any(left > right for left, right in zip(starts, [*starts[1:], len(tokens) - asked], strict=True)):
        raise _refusal("messages of a tail do not follow on each other")
    prefill = Prefill(written.prefill.start, written.prefill.prompted) if written.HasField("prefill") else None
    if asked > len(tokens) or (prefill is not None and prefill.start > len(tokens)):
        raise _refusal("a generation prompt or a prefill is longer than its tail")
    return Tail(tokens, asked, starts, wire.fidelity_from_proto(written.fidelity), prefill=prefill)


def _rewrite(written: pb.WrittenTail, before: MessageSnapshot, messages: Sequence[Message]) -> PendingRewrite:
    index, first = written.rewrite.message_index, written.first_message
    message = before.at(index) if index < first else messages[index - first]
    return PendingRewrite(message, index, written.rewrite.follower)


def _refusal(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the snapshot cannot be read: {what}; export the episode again, or update the server",
        reason=Reason.BAD_SNAPSHOT,
        field="snapshot",
    )
