"""Episodes copied: the client asks for forks, and reads snapshots."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason


def fork_to_proto(episode_id: str, fork_ids: Sequence[str], at_step: int) -> pb.ForkEpisodeRequest:
    """Asks for forks.

    Raises:
        InvalidRequestError: the step is no number of one.
    """
    request = pb.ForkEpisodeRequest(episode_id=episode_id, fork_ids=fork_ids)
    try:
        request.at_step = at_step
    except ValueError as error:
        what = f"at_step is {at_step}; give 0 to step_count, or leave it out for now"
        raise InvalidRequestError(what, reason=Reason.BAD_AT_STEP, field="at_step") from error
    return request


def snapshot_of_bytes(encoded: bytes) -> pb.EpisodeSnapshot:
    """A snapshot of its bytes, or of its pieces' bytes one after the other.

    Raises:
        InvalidRequestError: they are none.
    """
    try:
        return pb.EpisodeSnapshot.FromString(encoded)
    except DecodeError as error:
        what = "the snapshot cannot be read: its bytes are no EpisodeSnapshot; export the episode again"
        raise InvalidRequestError(what, reason=Reason.BAD_SNAPSHOT, field="snapshot") from error
