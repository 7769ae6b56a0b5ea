"""One unary call as plain data, and what a failed one becomes. Transports do nothing but make calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypedDict, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from chatenv_client import wire
from chatenv_client.bearer import checked_token
from chatenv_client.channel import AFFINITY_HEADER
from chatenv_client.errors import ChatEnvError, InvalidRequestError, ProtocolError

ResultT = TypeVar("ResultT")
OtherT = TypeVar("OtherT")

DEFAULT_TIMEOUT_S: Final = 60.0

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where, in the trailing metadata of a failed call, the status stands with its details."""


@dataclass(slots=True)
class Call(Generic[ResultT]):
    """A unary call that is to be made."""

    method: str
    """Name of the RPC, such as `Step`."""
    request: Any
    """The protobuf request."""
    receive: Callable[[Any], ResultT]
    """Turns the protobuf answer into the result. What asked for the call changes only in here; see `taken`."""

    def then(self, make: Callable[[ResultT], OtherT]) -> Call[OtherT]:
        """The call, with what `make` makes of its result as the result."""
        receive = self.receive
        return Call(self.method, self.request, lambda response: make(receive(response)))

    def copied_to(self, request: Any) -> Call[ResultT]:
        """The call, after its request is copied into an empty message."""
        request.CopyFrom(self.request)
        return self


def taken(receive: Callable[[Any], ResultT], response: Any) -> ResultT:
    """What a call's `receive` makes of an answer.

    Raises:
        ProtocolError: the answer cannot be read, or does not fit what the caller holds; nothing was changed.
    """
    if isinstance(response, DecodeError):
        what = "the answer is no message of this method; update the older of client and server"
        raise ProtocolError(what) from response
    try:
        return receive(response)
    except InvalidRequestError as error:  # raised where requests and answers are read by the same functions
        what = f"the answer cannot be read: {error}; update the older of client and server"
        raise ProtocolError(what) from error


class CallKeywords(TypedDict):
    """Keywords of a gRPC multicallable."""

    timeout: float | None
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CallDefaults:
    """What goes along with every call of a client."""

    timeout_s: float = DEFAULT_TIMEOUT_S
    """Deadline of a call that gives none of its own."""
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Headers. Not shown, since the bearer token is one of them."""
    affinity: bool = False
    """Whether each call says of which episode it is, in a header."""

    @classmethod
    def of(cls, *, timeout_s: float, token: str | None, affinity: bool = False) -> CallDefaults:
        """Defaults with a bearer token, where there is one.

        Raises:
            ValueError: no header can carry the token.
        """
        headers = () if token is None else (("authorization", f"Bearer {checked_token(token)}"),)
        return cls(timeout_s, headers, affinity)

    def sticking_to(self, key: str) -> CallDefaults:
        """The same, with one header for all calls: they go to one server, whatever their episode."""
        return CallDefaults(self.timeout_s, (*self.metadata, (AFFINITY_HEADER, key)))

    def near(self, episode_id: str) -> CallDefaults:
        """The same; with affinity, all calls go to the server of an episode."""
        return self.sticking_to(quote(episode_id, safe="")) if self.affinity else self

    def keywords(self, request: Any, timeout_s: float | None) -> CallKeywords:
        """Keywords for one call."""
        metadata = self.metadata
        if self.affinity and (episode_id := getattr(request, "episode_id", "")):
            metadata = (*metadata, (AFFINITY_HEADER, quote(episode_id, safe="")))
        return {"timeout": _deadline_s(self.timeout_s if timeout_s is None else timeout_s), "metadata": metadata}


_LONGEST_TIMEOUT_S: Final = 1e8
"""Three years. gRPC takes what is much longer, infinity above all, for a deadline that has passed."""


def _deadline_s(timeout_s: float) -> float | None:
    """A timeout as gRPC takes it.

    Raises:
        ValueError: it is no number.
    """
    if math.isnan(timeout_s):
        raise ValueError("timeout_s is a number of seconds, not NaN; math.inf waits for ever")
    return timeout_s if timeout_s < _LONGEST_TIMEOUT_S else None


def error_from_rpc(error: grpc.RpcError) -> ChatEnvError:
    """The exception of ours for a call that failed, of either transport. Raise it `from` the one given."""
    # A mapping that iterates over pairs, in some versions of grpc.aio, is none to dict().
    trailing: Any = iter(error.trailing_metadata() or ())
    details = dict(trailing).get(DETAILS_KEY)
    status = wire.parse_status(details) if isinstance(details, bytes) else None
    return wire.error_from_status(error.code().name, error.details() or "", status)
