"""Observations: the server writes the part that the caller lacks, the client reads it as a delta.

Nothing here costs time proportional to the history that both sides hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import ChatObservation, FidelityReport, Message, Rendered
from chatenv_client.reasons import Reason
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array, pack_tokens, unpack_tokens
from chatenv_client.wire.enums import FIDELITY_KIND
from chatenv_client.wire.failures import failure_from_proto, failure_to_proto
from chatenv_client.wire.json_fields import dump_json, load_object
from chatenv_client.wire.messages import messages_from_proto, write_message
from chatenv_client.wire.rewards import named_rewards_to_proto, rewards_from_proto


class ObservationDelta(NamedTuple):
    """What an answer adds to what its caller holds."""

    observation: ChatObservation
    """All that the answer says, but for stream and conversation: these go on from `held_tokens` and `held_messages`."""
    tokens: Int32Array
    """(n,) int32, the stream from `held_tokens` on."""
    messages: list[Message]
    """The conversation from `held_messages` on."""


def write_observation(
    encoded: pb.Observation, observation: ChatObservation, *, known_tokens: int = 0, known_messages: int = 0
) -> None:
    """Write the part of an observation that the caller lacks, or that replaces what it holds, into an empty message.

    Raises:
        InvalidRequestError: the metadata, or a message, is not JSON. Of what the environment checks, none is.
    """
    stream, conversation = observation.stream, observation.conversation
    length = len(stream)
    tokens_offset = min(known_tokens, observation.held_tokens, length)
    messages_offset = min(known_messages, observation.held_messages, conversation.length)
    # Field by field: a constructor with keywords takes several times as long, and a part that is made alone is copied.
    encoded.episode_id = observation.episode_id
    encoded.step_count = observation.step_count
    encoded.tokens_offset = tokens_offset
    encoded.generation_prompt_length = observation.generation_prompt_length
    encoded.prompt_fingerprint = observation.fingerprint()
    encoded.messages_offset = messages_offset
    if messages_offset < conversation.length:
        for message in conversation.since(messages_offset):
            write_message(encoded.messages.add(), message)
    if observation.terminated:
        encoded.terminated = True
    if observation.truncated:
        encoded.truncated = True
    if observation.turn_open:
        encoded.turn_open = True
    encoded.segment = observation.segment
    _write_what_some_have(encoded, observation)
    if tokens_offset < length:
        pack_tokens(encoded, stream.since(tokens_offset))


def _write_what_some_have(encoded: pb.Observation, observation: ChatObservation) -> None:
    if observation.reward is not None:
        encoded.reward = observation.reward
        if observation.rewards:
            encoded.rewards.extend(named_rewards_to_proto(observation.rewards))
    if observation.fidelity:
        encoded.fidelity.extend(map(fidelity_to_proto, observation.fidelity))
    if observation.metadata:
        encoded.metadata_json = dump_json(observation.metadata, "metadata", Reason.BAD_METADATA)
    if observation.turns_left is not None:
        encoded.turns_left = observation.turns_left
    if observation.tokens_left is not None:
        encoded.tokens_left = observation.tokens_left
    if observation.failure is not None:
        encoded.failure.CopyFrom(failure_to_proto(observation.failure))


def observation_from_proto(encoded: pb.Observation) -> ObservationDelta:
    """Read an observation off the wire.

    Raises:
        ProtocolError: a report is of an unknown kind.
        InvalidRequestError: a message or the metadata is malformed.
    """
    # Field by field: a keyword more takes longer than to ask for what few answers have.
    observation = ChatObservation(encoded.episode_id, encoded.step_count)
    observation.terminated, observation.truncated = encoded.terminated, encoded.truncated
    observation.generation_prompt_length = encoded.generation_prompt_length
    observation.prompt_fingerprint = encoded.prompt_fingerprint
    observation.held_tokens, observation.held_messages = encoded.tokens_offset, encoded.messages_offset
    observation.segment = encoded.segment
    _read_what_some_have(observation, encoded)
    tokens, messages = encoded.tokens, encoded.messages
    return ObservationDelta(
        observation,
        unpack_tokens(tokens) if tokens else EMPTY_TOKENS,
        messages_from_proto(messages) if messages else [],
    )


def _read_what_some_have(observation: ChatObservation, encoded: pb.Observation) -> None:
    if encoded.HasField("reward"):
        observation.reward = encoded.reward
        if encoded.rewards:
            observation.rewards, _ = rewards_from_proto(encoded.rewards)
    if metadata := encoded.metadata_json:
        observation.metadata = load_object(metadata, "metadata", Reason.BAD_METADATA)
    if fidelity := encoded.fidelity:
        observation.fidelity = fidelity_from_proto(fidelity)
    if encoded.HasField("turns_left"):
        observation.turns_left = encoded.turns_left
    if encoded.HasField("tokens_left"):
        observation.tokens_left = encoded.tokens_left
    observation.turn_open = encoded.turn_open
    if encoded.HasField("failure"):
        observation.failure = failure_from_proto(encoded.failure)


def fidelity_to_proto(report: FidelityReport) -> pb.FidelityReport:
    """One report."""
    return pb.FidelityReport(
        kind=FIDELITY_KIND.number(report.kind),  # type: ignore[arg-type]
        detail=report.detail,
        token_index=report.token_index,
        message_index=report.message_index,
    )


def fidelity_from_proto(reports: Iterable[pb.FidelityReport]) -> tuple[FidelityReport, ...]:
    """All reports of an answer.

    Raises:
        ProtocolError: one is of an unknown kind.
    """
    return tuple(
        FidelityReport(
            kind=FIDELITY_KIND.answered(report.kind),
            detail=report.detail,
            token_index=report.token_index if report.HasField("token_index") else None,
            message_index=report.message_index if report.HasField("message_index") else None,
        )
        for report in reports
    )


def rendered_to_proto(rendered: Rendered) -> pb.RenderMessageResponse:
    """What messages would add."""
    encoded = pb.RenderMessageResponse(
        tokens_offset=rendered.tokens_offset, fidelity=map(fidelity_to_proto, rendered.fidelity)
    )
    pack_tokens(encoded, rendered.tokens)
    return encoded


def rendered_from_proto(encoded: pb.RenderMessageResponse) -> Rendered:
    """What messages would add."""
    return Rendered(encoded.tokens_offset, unpack_tokens(encoded.tokens), fidelity_from_proto(encoded.fidelity))
