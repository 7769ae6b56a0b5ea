"""Failures of episodes, both ways."""

from __future__ import annotations

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models.failure import Failure, bad_failure, check_reason
from chatenv_client.wire.enums import FAILURE_KIND


def failure_to_proto(failure: Failure) -> pb.Failure:
    """Why an episode ended that something broke in."""
    return pb.Failure(kind=FAILURE_KIND.number(failure.kind), reason=failure.reason)  # type: ignore[arg-type]


def failure_from_proto(encoded: pb.Failure, field: str = "failure") -> Failure:
    """Why an episode ended that something broke in.

    Raises:
        InvalidRequestError: reason BAD_FAILURE: there is no kind, or the reason is too long; or BAD_ENUM: there is no
            such kind. Its `field` begins with `field`.
    """
    kind = FAILURE_KIND.asked(encoded.kind, f"{field}.kind")
    if kind is None:
        raise bad_failure("a failure has a kind; the reason may say more", f"{field}.kind")
    check_reason(encoded.reason, f"{field}.reason")
    return Failure(kind, encoded.reason)


def fail_to_proto(episode_id: str, failure: Failure) -> pb.FailEpisodeRequest:
    """Ends an episode because something broke."""
    return pb.FailEpisodeRequest(episode_id=episode_id, failure=failure_to_proto(failure))


def fail_from_proto(request: pb.FailEpisodeRequest) -> Failure:
    """What broke.

    Raises:
        InvalidRequestError: see `failure_from_proto`.
    """
    return failure_from_proto(request.failure)
