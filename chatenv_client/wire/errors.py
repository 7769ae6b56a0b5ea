"""The exception tree and google.rpc statuses, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final, TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from chatenv_client import errors
from chatenv_client._generated import status_pb2
from chatenv_client.errors import ChatEnvError
from chatenv_client.wire.fields import field_from_wire, field_to_wire

MessageT = TypeVar("MessageT", bound=ProtoMessage)

DOMAIN: Final = "chatenv"
ERROR_INFO_URL: Final = "type.googleapis.com/google.rpc.ErrorInfo"
BAD_REQUEST_URL: Final = "type.googleapis.com/google.rpc.BadRequest"

_CODE_NUMBERS: Final = {code.name: int(code.value[0]) for code in grpc.StatusCode}
_CODE_NAMES: Final = {number: name for name, number in _CODE_NUMBERS.items() if name != "OK"}
"""Of failures."""

_BY_CODE: Final[dict[str, type[ChatEnvError]]] = {
    "INVALID_ARGUMENT": errors.InvalidRequestError,
    "NOT_FOUND": errors.EpisodeNotFoundError,
    "ALREADY_EXISTS": errors.EpisodeExistsError,
    "DATA_LOSS": errors.EpisodeDamagedError,
    "ABORTED": errors.StepConflictError,
    "RESOURCE_EXHAUSTED": errors.CapacityError,
    "DEADLINE_EXCEEDED": errors.DeadlineError,
    "UNAVAILABLE": errors.UnavailableError,
    "UNAUTHENTICATED": errors.AccessError,
    "PERMISSION_DENIED": errors.AccessError,
}
"""For reasons that a newer server may give."""

_WITHOUT_REASON: Final[dict[str, tuple[type[ChatEnvError], str]]] = {
    "RESOURCE_EXHAUSTED": (
        errors.MessageTooLargeError,
        "send less at once, or raise max_message_bytes on both sides",
    ),
    "UNIMPLEMENTED": (
        errors.ProtocolError,
        "update the server if it is chatenv's; if it is another one, give the address of chatenv's",
    ),
    "DEADLINE_EXCEEDED": (errors.DeadlineError, "try again, or give the call a longer timeout_s"),
    "UNAVAILABLE": (errors.UnavailableError, "see that a chatenv server runs at this address, and try again"),
    "UNAUTHENTICATED": (errors.AccessError, "give the client the token= or tls= that the server asks for"),
    "PERMISSION_DENIED": (errors.AccessError, "give the client the token= or tls= that the server asks for"),
}
"""For statuses that gRPC itself or a proxy made. A message over the limit is such a one."""


_HTTP_STATUS: Final = re.compile(r"http2 header with status: (\d{3})\b")
"""How gRPC quotes the HTTP status of an answer that is no gRPC answer. For it, 413 and 408 are both UNKNOWN."""


def error_to_status(error: ChatEnvError) -> status_pb2.RpcStatus:
    """The status that says on the wire what an exception says in Python."""
    info = status_pb2.ErrorInfo(reason=str(error.reason), domain=DOMAIN, metadata=error.details)
    details = [Any(type_url=ERROR_INFO_URL, value=info.SerializeToString())]
    if error.field:
        bad = status_pb2.BadRequest()
        bad.field_violations.add(field=field_to_wire(error.field), description=error.message)
        details.append(Any(type_url=BAD_REQUEST_URL, value=bad.SerializeToString()))
    return status_pb2.RpcStatus(code=_CODE_NUMBERS[error.code], message=error.message, details=details)


def error_from_item(status: status_pb2.RpcStatus) -> ChatEnvError:
    """The exception for a failed item of a batch or a stream."""
    return error_from_status(_CODE_NAMES.get(status.code, "UNKNOWN"), status.message, status)


def error_from_status(code: str, message: str, status: status_pb2.RpcStatus | None = None) -> ChatEnvError:
    """The exception for a failed call: the one that its reason names, else the one of its code.

    Args:
        code: name of the gRPC status, such as NOT_FOUND.
        message: what the server, or gRPC itself, says.
        status: the details, where the server sent some.
    """
    info = _error_info(status)
    if info is None:
        if (answered := _HTTP_STATUS.search(message)) is not None:
            return _error_from_http(int(answered[1]), code, message)
        kind, advice = _WITHOUT_REASON.get(code, (errors.UnexpectedStatusError, "the server's log may say more"))
        return kind(f"{message or code}; {advice}", code=code)
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(code, errors.UnexpectedStatusError)
    return kind(message, reason=info.reason, field=_bad_field(status), details=info.metadata, code=code)


def _error_from_http(http_status: int, code: str, message: str) -> ChatEnvError:
    """The exception for a call that HTTP answered: a proxy, since a gRPC server has statuses of its own."""
    said = f"{message}; a proxy between here and the server answered, not the server"
    if http_status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return errors.MessageTooLargeError(f"{said}: send less at once, or raise the proxy's limit on request bodies")
    if http_status == HTTPStatus.REQUEST_TIMEOUT:
        return errors.DeadlineError(f"{said}: try again, or raise the proxy's timeouts")
    kind = _BY_CODE.get(code, errors.UnexpectedStatusError)
    return kind(f"{said}: read the proxy's log", code=code)


def _kinds(base: type[ChatEnvError]) -> Iterator[type[ChatEnvError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


_BY_REASON: Final[dict[str, type[ChatEnvError]]] = {kind.default_reason: kind for kind in _kinds(ChatEnvError)}


def _error_info(status: status_pb2.RpcStatus | None) -> status_pb2.ErrorInfo | None:
    for detail in status.details if status else ():
        if detail.type_url == ERROR_INFO_URL:
            info = _parsed(status_pb2.ErrorInfo, detail.value)
            return info if info is not None and info.domain == DOMAIN else None
    return None


def _bad_field(status: status_pb2.RpcStatus | None) -> str:
    for detail in status.details if status else ():
        if detail.type_url == BAD_REQUEST_URL:
            bad = _parsed(status_pb2.BadRequest, detail.value)
            return field_from_wire(bad.field_violations[0].field) if bad and bad.field_violations else ""
    return ""


def parse_status(details: bytes) -> status_pb2.RpcStatus | None:
    """The status in the trailing metadata of a failed call; None when it is not one."""
    return _parsed(status_pb2.RpcStatus, details)


def _parsed(kind: type[MessageT], encoded: bytes) -> MessageT | None:
    """A message of this kind; None where the bytes are none, since a failure is to be told in any case."""
    try:
        return kind.FromString(encoded)
    except DecodeError:
        return None
