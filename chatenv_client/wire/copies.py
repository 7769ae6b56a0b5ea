"""Episodes copied and listed: the client writes what it asks for, and reads snapshots and pages of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import EpisodeSummary
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import load_object
from chatenv_client.wire.requests import unix_seconds


class Page(NamedTuple):
    """A page of a list of episodes."""

    episodes: list[EpisodeSummary]
    next_token: str
    """Where the next page begins; empty: this is the last."""


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


def page_to_proto(prefix: str, page_size: int, token: str) -> pb.ListEpisodesRequest:
    """Asks for a page of a list.

    Raises:
        InvalidRequestError: the page size is no number of episodes.
    """
    request = pb.ListEpisodesRequest(id_prefix=prefix, page_token=token)
    try:
        request.page_size = page_size
    except ValueError as error:
        what = f"page_size is {page_size}; give 1 to 1000, or 0 for the server's own"
        raise InvalidRequestError(what, reason=Reason.BAD_PAGE, field="page_size") from error
    return request


def page_from_proto(encoded: pb.ListEpisodesResponse) -> Page:
    """A page of a list.

    Raises:
        InvalidRequestError: metadata is no JSON object.
    """
    return Page([_summary(each) for each in encoded.episodes], encoded.next_page_token)


def _summary(encoded: pb.EpisodeSummary) -> EpisodeSummary:
    return EpisodeSummary(
        episode_id=encoded.episode_id,
        step_count=encoded.step_count,
        token_count=encoded.token_count,
        message_count=encoded.message_count,
        created_unix_seconds=unix_seconds(encoded.created),
        last_used_unix_seconds=unix_seconds(encoded.last_used),
        terminated=encoded.terminated,
        truncated=encoded.truncated,
        metadata=load_object(encoded.metadata_json, "metadata", Reason.BAD_METADATA),
    )


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
