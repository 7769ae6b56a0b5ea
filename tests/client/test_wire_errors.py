"""The exception tree on the wire: each exception comes back as itself, and every status becomes one."""

from __future__ import annotations

import contextlib
import json
import pickle
import socket
import threading
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest

from chatenv_client import ChatEnv, errors
from chatenv_client._generated import status_pb2
from chatenv_client.calls import error_from_rpc
from chatenv_client.errors import ChatEnvError
from chatenv_client.reasons import Reason
from chatenv_client.wire import error_from_item, error_from_status, error_to_status, parse_status

FAILURES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def kinds(base: type[ChatEnvError] = ChatEnvError) -> Iterator[type[ChatEnvError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.default_reason != "UNEXPECTED"])
def test_an_exception_comes_back_as_itself(kind: type[ChatEnvError]) -> None:
    sent = kind("what was wrong", field="tokens[3]", details={"expected": "4"})
    received = error_from_item(status_pb2.RpcStatus.FromString(error_to_status(sent).SerializeToString()))
    most_special = errors.EpisodeUnknownError if kind is errors.EpisodeNotFoundError else kind
    assert type(received) is most_special
    assert vars(received) == vars(sent)


def test_an_exception_shows_the_field_that_is_to_blame_once() -> None:
    assert str(ChatEnvError("no content", field="messages[2].content")) == "messages[2].content: no content"
    assert str(ChatEnvError("max_steps is at least 1", field="max_steps")) == "max_steps is at least 1"
    assert str(ChatEnvError("no server")) == "no server"


@pytest.mark.parametrize("kind", list(kinds()))
def test_an_exception_survives_pickling(kind: type[ChatEnvError]) -> None:
    error = kind("what was wrong", reason="R", field="f", details={"a": "b"}, code="ABORTED")
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is kind
    assert (copied.args, vars(copied)) == (error.args, vars(error))


class ProxyThatAnswers:
    """A socket that answers every request with an HTTP status, as a proxy does that will not let it through."""

    def __init__(self, http_status: int) -> None:
        # :status without indexing, its name from HPACK's static table; the stream ends with it.
        block = b"\x08\x03" + str(http_status).encode()
        self._answer = len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as reader:
            connection.sendall(b"\0\0\0\x04\0\0\0\0\0")  # SETTINGS, all of them by default
            reader.read(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            while len(frame := reader.read(9)) == 9:
                reader.read(int.from_bytes(frame[:3], "big"))
                if frame[3] == 1:  # HEADERS
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize(
    ("http_status", "kind", "code"),
    [
        (413, errors.MessageTooLargeError, "RESOURCE_EXHAUSTED"),
        (408, errors.DeadlineError, "DEADLINE_EXCEEDED"),
        (401, errors.AccessError, "UNAUTHENTICATED"),
        (403, errors.AccessError, "PERMISSION_DENIED"),
        (418, errors.UnexpectedStatusError, "UNKNOWN"),
    ],
)
def test_what_a_proxy_answers_is_told_from_what_a_server_answers(
    http_status: int, kind: type[ChatEnvError], code: str
) -> None:
    proxy = ProxyThatAnswers(http_status)
    with contextlib.closing(proxy), ChatEnv(proxy.address, timeout_s=10) as env, pytest.raises(kind) as refusal:
        env.server_info()
    assert (type(refusal.value), refusal.value.code) == (kind, code)
    assert f"status: {http_status}; a proxy between here and the server answered" in str(refusal.value)


@pytest.mark.parametrize("code", FAILURES)
def test_every_status_becomes_an_exception_that_knows_its_code(code: str) -> None:
    error = error_from_status(code, "what gRPC says")
    assert error.code == code
    assert "what gRPC says" in str(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAVAILABLE", errors.UnavailableError),
        ("DEADLINE_EXCEEDED", errors.DeadlineError),
        ("RESOURCE_EXHAUSTED", errors.MessageTooLargeError),
        ("UNAUTHENTICATED", errors.AccessError),
        ("PERMISSION_DENIED", errors.AccessError),
        ("INTERNAL", errors.UnexpectedStatusError),
        ("NOT_FOUND", errors.UnexpectedStatusError),
    ],
)
def test_a_status_without_a_reason_of_ours_is_named_by_its_code(code: str, kind: type[ChatEnvError]) -> None:
    assert type(error_from_status(code, "")) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", errors.InvalidRequestError),
        ("NOT_FOUND", errors.EpisodeNotFoundError),
        ("ABORTED", errors.StepConflictError),
        ("RESOURCE_EXHAUSTED", errors.CapacityError),
        ("FAILED_PRECONDITION", errors.UnexpectedStatusError),
    ],
)
def test_a_reason_of_a_newer_server_is_kept_and_named_by_its_code(code: str, kind: type[ChatEnvError]) -> None:
    newer = error_to_status(ChatEnvError("m", reason="FROM_THE_FUTURE", code=code))
    error = error_from_status(code, "m", newer)
    assert type(error) is kind
    assert error.reason == "FROM_THE_FUTURE"


def test_a_reason_is_its_own_text_wherever_it_is_written() -> None:
    reason = ChatEnvError("m", reason="BUSY").reason
    assert reason is Reason.BUSY
    assert (reason, str(reason), f"{reason}", json.dumps(reason)) == ("BUSY", "BUSY", "BUSY", '"BUSY"')
    assert [member.name for member in Reason] == [member.value for member in Reason]


def test_details_of_another_service_are_not_taken_for_ours() -> None:
    status = error_to_status(errors.EpisodeDoneError("m"))
    info = status_pb2.ErrorInfo(reason="EPISODE_DONE", domain="example.org")
    status.details[0].value = info.SerializeToString()
    assert type(error_from_status("FAILED_PRECONDITION", "m", status)) is errors.UnexpectedStatusError


def test_only_a_bad_field_is_reported_as_bad_request() -> None:
    assert len(error_to_status(errors.EpisodeDoneError("m")).details) == 1
    assert len(error_to_status(errors.InvalidRequestError("m", field="tokens")).details) == 2


def test_garbage_in_the_trailers_is_no_status() -> None:
    assert parse_status(b"\xff\xff") is None


def test_the_trailers_of_both_transports_are_read() -> None:
    details = error_to_status(errors.EpisodeDoneError("m")).SerializeToString()
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", details))
    failed = grpc.aio.AioRpcError(grpc.StatusCode.FAILED_PRECONDITION, grpc.aio.Metadata(), trailing, details="m")
    assert type(error_from_rpc(failed)) is errors.EpisodeDoneError


def test_the_tree_in_the_docstring_names_every_exception() -> None:
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds())
