"""Reads entries of a snapshot: what a Reset or Step did. What one says may come from anybody, so all of it is checked.

An entry is one that could have followed on the episode so far, or it is refused. None costs more than its length and
the stream that it goes on with.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatAction, Message
from chatenv_client.reasons import Reason
from chatenv_client.tokens import Int32Array, mask_of_runs, unpack_logprobs, unpack_tokens
from chatenv_client.wire.columns import column_rows_from_proto
from chatenv_client.wire.enums import STOP_REASON
from chatenv_client.wire.json_fields import load_object
from chatenv_server.engine import EpisodeLog, TokenEngine
from chatenv_server.engine.continuations import Continuation
from chatenv_server.engine.conversation import PendingRewrite, Prefill, Tail
from chatenv_server.environment.journal import Entry, Outcome
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.rewards import NO_REWARD, Earned, earned
from chatenv_server.environment.spans import sampled_span
from chatenv_server.environment.times import MOST_MS, Moments
from chatenv_server.environment.validation import check_action, check_messages, check_token_ids


def refusal(what: str) -> InvalidRequestError:
    """The error on a snapshot of which `what` is wrong."""
    return InvalidRequestError(
        f"the snapshot cannot be read: {what}; export the episode again, or update the server",
        reason=Reason.BAD_SNAPSHOT,
        field="snapshot",
    )


def read_entry(encoded: pb.EpisodeEntry, record: EpisodeRecord, engine: TokenEngine) -> Entry:
    """What an entry says was done next, but for what the template wrote: that follows on its sampled tokens.

    Raises:
        InvalidRequestError: that cannot have been.
    """
    if not (encoded.HasField("sampled") or encoded.HasField("went_on")):
        raise refusal("an entry has neither sampled tokens nor what the template wrote")
    if record.progress.is_over:
        raise refusal("the episode was over before its last entry")
    outcome = _outcome(encoded)
    return _span(encoded, record, outcome, engine) if encoded.HasField("sampled") else Entry(outcome=outcome)


def _outcome(encoded: pb.EpisodeEntry) -> Outcome:
    metadata, state = encoded.metadata_json, encoded.transform_state_json
    return Outcome(
        read_reward(encoded),
        encoded.terminated,
        encoded.truncated,
        load_object(metadata, "metadata", Reason.BAD_METADATA) if encoded.HasField("metadata_json") else None,
        load_object(state, "transform_state", Reason.BAD_METADATA) if state else None,
        load_object(encoded.task_state_json, "task_state", Reason.BAD_METADATA)
        if encoded.HasField("task_state_json")
        else None,
    )


def read_reward(encoded: pb.EpisodeEntry | pb.LateReward) -> Earned:
    """What a step earned.

    Raises:
        InvalidRequestError: a number is none, or a name is.
    """
    unnamed = encoded.reward if encoded.HasField("reward") else None
    if unnamed is None and not encoded.rewards:
        return NO_REWARD
    return earned(unnamed, *wire.rewards_from_proto(encoded.rewards))


def read_moments(encoded: pb.EpisodeEntry, last: int) -> Moments:
    """When an entry came.

    Args:
        encoded: the entry.
        last: the moment before.

    Raises:
        InvalidRequestError: it came before that, or an answer to nothing did.
    """
    is_answered = encoded.HasField("answered_at_ms")
    if is_answered and not (encoded.HasField("sampled") and encoded.HasField("went_on")):
        raise refusal("an answer came that is not there")
    at_ms = encoded.at_ms
    answered_at_ms = encoded.answered_at_ms if is_answered else None
    if not last <= at_ms <= (at_ms if answered_at_ms is None else answered_at_ms) <= MOST_MS:
        raise refusal("an entry came before the one before it")
    return Moments(at_ms, answered_at_ms)


# -- sampled spans --------------------------------------------------------------------------------


def _span(encoded: pb.EpisodeEntry, record: EpisodeRecord, outcome: Outcome, engine: TokenEngine) -> Entry:
    span = encoded.sampled
    message = wire.message_from_proto(span.message, "message") if span.HasField("message") else None
    tokens = unpack_tokens(span.tokens)
    action = ChatAction(
        tokens=tokens,
        logprobs=unpack_logprobs(span.logprobs) if span.logprobs else None,
        stop_reason=STOP_REASON.answered(span.stop_reason),
        message=message,
        **_notes(span, len(tokens)),
        **_columns(span, record.log, len(tokens)),
    )
    check_action(action, engine.token_id_limit)
    sampled = sampled_span(action, record.log)
    if not span.message_was_given:
        sampled = sampled._replace(message=None)
    return Entry(
        sampled=sampled,
        reports=wire.fidelity_from_proto(encoded.fidelity),
        read=None if span.message_was_given else message,
        outcome=outcome,
    )


def _notes(span: pb.SampledSpan, count: int) -> dict[str, Any]:
    """Versions and mask of a span, as an action has them."""
    runs, version = tuple((run.model_version, run.length) for run in span.model_version_runs), span.model_version
    if runs and version != runs[-1][0]:
        raise refusal("the version of a span is not that of its last run")
    if span.sampled_runs and sum(span.sampled_runs) != count:
        raise refusal("the sampled runs of a span cover another number of tokens than it has")
    return {
        "model_version": "" if runs else version,
        "model_version_runs": runs,
        "mask": mask_of_runs(span.sampled_runs) if span.sampled_runs else None,
    }


def _columns(span: pb.SampledSpan, log: EpisodeLog, count: int) -> dict[str, Any]:
    """Columns of a span and of the last token before it, as an action has them."""
    if not span.extras:
        return {}
    columns = column_rows_from_proto(span.extras, len(log) + count)
    extras = {one.name: one.rows for one in columns if one.start == len(log)}
    amended = {one.name: one.rows[0] for one in columns if one.start == log.last_sampled and len(one.rows) == 1}
    if len(extras) + len(amended) != len(columns):
        raise refusal("a column of a span is of other tokens, or is given twice")
    return {"extras": extras, "amended_extras": amended}


# -- what the template wrote ----------------------------------------------------------------------


def read_continuation(encoded: pb.EpisodeEntry, record: EpisodeRecord, engine: TokenEngine) -> Continuation:
    """How the stream went on with messages, once the entry's sampled tokens are on record.

    Raises:
        InvalidRequestError: that cannot have been.
    """
    written, log = encoded.went_on, record.log
    messages = _messages(encoded, record)
    begins, first, shared = written.begins_segment, written.first_message, written.shared_tokens
    if begins and log.stop_reason is None:
        raise refusal("a segment begins where none was sampled before")
    stream = log.stream.token_ids if begins else log.head.tail.tokens
    earliest = 0 if begins else log.head.tail_message
    count = first + len(messages)
    if shared > len(stream) or not earliest <= first <= log.message_count:
        raise refusal("a tail begins where there is nothing")
    if len(written.message_starts) != count - earliest:
        raise refusal("a tail has another number of messages than the conversation")
    more = unpack_tokens(written.tokens)
    check_token_ids(more, max(engine.token_id_limit, engine.vocabulary_size))
    own = frozenset(written.own_messages)
    if written.recorded_messages > count or any(index >= first for index in own):
        raise refusal("a message is a model's that was not on record")
    tail = replace(
        _tail(written, stream[:shared], more),
        pending_rewrite=_rewrite(written, log, messages),
        prefill=_prefill(encoded, record, shared + len(more)),
    )
    return Continuation(tail, first, messages, written.recorded_messages, own, () if begins else None)


def _messages(encoded: pb.EpisodeEntry, record: EpisodeRecord) -> Sequence[Message]:
    if not encoded.HasField("opened"):
        messages = wire.messages_from_proto(encoded.went_on.messages)
        check_messages(messages)
        return messages
    if encoded.went_on.messages:
        raise refusal("an opening has messages that were not given with it")
    return record.options.opening


def _tail(written: pb.WrittenTail, shared: Int32Array, more: Int32Array) -> Tail:
    tokens = np.concatenate([shared, more])
    starts, asked = tuple(written.message_starts), written.generation_prompt_length
    places = [*starts, len(tokens) - asked]
    if any(left > right for left, right in itertools.pairwise(places)) or places[-1] < 0:
        raise refusal("the parts of a tail do not follow on each other")
    return Tail(tokens, asked, starts, wire.fidelity_from_proto(written.fidelity))


def _prefill(encoded: pb.EpisodeEntry, record: EpisodeRecord, length: int) -> Prefill | None:
    written = encoded.went_on
    prefill = Prefill(written.prefill.start, written.prefill.prompted) if written.HasField("prefill") else None
    if encoded.HasField("opened"):
        could_be = (prefill is not None) == record.options.continue_final_message
    else:
        could_be = prefill is None or prefill == record.log.head.tail.prefill
    if not could_be or (prefill is not None and prefill.start > length):
        raise refusal("a tail ends inside a message that nobody gave")
    return prefill


def _rewrite(written: pb.WrittenTail, log: EpisodeLog, messages: Sequence[Message]) -> PendingRewrite | None:
    if not written.HasField("rewrite"):
        return None
    index, first = written.rewrite.message_index, written.first_message
    message = log.conversation.at(index) if index < first else messages[index - first]
    return PendingRewrite(message, index, written.rewrite.follower)
