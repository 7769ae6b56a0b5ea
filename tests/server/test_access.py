"""Who may call: bearer token, TLS, mTLS, with certificates made for the test."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client import AccessError, AsyncChatEnv, ChatEnv, Tls, UnavailableError, VectorChatEnv
from chatenv_server.commands import cli
from chatenv_server.rpc import access
from chatenv_server.rpc.access import GRACE_S, BearerToken
from chatenv_server.rpc.waiting import SWEEP_S
from chatenv_server.running import healthcheck
from chatenv_server.running.process import RunningServer
from chatenv_server.settings.errors import SettingError
from chatenv_server.settings.settings import read_settings
from tests.machine import Certificates
from tests.server.conftest import Serve


def ask(server: RunningServer, **options: Any) -> str:
    """What a client gets from a server."""
    with ChatEnv(server.addresses[0], **options) as env:
        return env.server_info().tokenizer_name


def test_the_token_opens_and_nothing_else_does(serve: Serve) -> None:
    server = serve(bearer_token="open sesame")
    assert ask(server, token="open sesame") == "bytes"
    for wrong in (None, "", "open", "open sesamE", "open sesame2"):
        with pytest.raises(AccessError):
            ask(server, token=wrong)


def test_a_refused_call_says_unauthenticated_and_not_the_token(serve: Serve) -> None:
    server = serve(bearer_token="open sesame")
    with pytest.raises(AccessError) as refusal:
        ask(server, token="wrong")
    assert (refusal.value.code, refusal.value.reason) == ("UNAUTHENTICATED", "ACCESS")
    assert "sesame" not in str(refusal.value)


def test_health_needs_no_token_and_reflection_does(serve: Serve) -> None:
    server = serve(bearer_token="open sesame")
    assert healthcheck.main(["--address", server.addresses[0]]) == 0
    with grpc.insecure_channel(server.addresses[0]) as channel:
        method: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        assert method(iter([b""])).code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_file_is_read_again_when_it_changes(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    server = serve(bearer_token_file=str(file))
    assert ask(server, token="first") == "bytes"
    replacement = tmp_path / "token.new"
    replacement.write_text("second\n")
    replacement.rename(file)
    assert ask(server, token="second") == "bytes"
    with pytest.raises(AccessError):
        ask(server, token="first")


def _replaced(replace: Callable[[Path], object]) -> Callable[[Path], object]:
    def spoil(file: Path) -> None:
        file.unlink()
        replace(file)

    return spoil


SPOILT: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda file: file.write_text(""),
    "not ASCII": lambda file: file.write_text("ß"),
    "a folder": _replaced(Path.mkdir),
    "a pipe into which nobody writes": _replaced(os.mkfifo),
    "without an end": _replaced(lambda file: file.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_token_outlives_its_file_for_a_moment_and_then_nobody_is_let_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object]
) -> None:
    file, now = tmp_path / "token", [0.0]
    file.write_text("first")
    token = BearerToken(file=str(file), clock=lambda: now[0])
    spoil(file)
    for now[0] in (0.0, 1.0, GRACE_S):
        assert token.opens([("authorization", "Bearer first")])
    for now[0] in (GRACE_S + 1, 10 * GRACE_S):
        assert not token.opens([("authorization", "Bearer first")])
        assert not token.opens([("authorization", "Bearer ")])
        assert not token.opens([("authorization", "Bearer None")])
    kept, shut = [(line.levelname, line.getMessage()) for line in caplog.records]
    assert kept == ("WARNING", "bearer token kept for a while: its file holds none that works")
    assert shut == ("WARNING", "nobody is let in: the file of the bearer token holds none that works")
    assert "ß" not in str([vars(line) for line in caplog.records])
    (tmp_path / "new").write_text("third")
    if file.is_dir():
        file.rmdir()
    (tmp_path / "new").rename(file)
    assert token.opens([("authorization", "Bearer third")])


def test_a_file_that_was_emptied_while_nobody_called_lets_nobody_in(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "GRACE_S", 0.0)
    file = tmp_path / "token"
    file.write_text("first")
    server = serve(bearer_token_file=str(file))
    file.write_text("")
    time.sleep(4 * SWEEP_S)
    with pytest.raises(AccessError):
        ask(server, token="first")


def test_a_token_may_come_through_a_pipe_at_the_start(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Timer(0.2, pipe.write_text, ["first\n"])
    writer.start()
    token = BearerToken(file=str(pipe))
    writer.join()
    assert token.opens([("authorization", "Bearer first")])


UNFIT = {"empty": "", "not ascii": "schlüssel", "two lines": "open\nsesame", "too long": "x" * 4097}
"""Tokens that no caller could ever send."""


@pytest.mark.parametrize("token", UNFIT.values(), ids=UNFIT)
def test_a_token_that_nobody_could_send_is_refused_at_the_start_and_not_quoted(
    serve: Serve, tmp_path: Path, token: str
) -> None:
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    settings: list[dict[str, Any]] = [{"bearer_token_file": str(file)}, *([{"bearer_token": token}] if token else [])]
    for given in settings:
        with pytest.raises(SettingError) as refusal:
            serve(**given)
        (name,) = given
        assert f"--{name.replace('_', '-')} " in str(refusal.value)
        assert not token or token not in str(refusal.value)


def test_the_longest_token_that_is_taken_can_be_sent(serve: Serve) -> None:
    longest = "".join(map(chr, range(0x21, 0x7F))) + "x" * (4096 - 94)
    assert ask(serve(bearer_token=longest), token=longest) == "bytes"


@pytest.mark.parametrize(
    "token", [token for token in UNFIT.values() if token], ids=[name for name in UNFIT if UNFIT[name]]
)
def test_a_client_with_a_token_that_cannot_be_sent_is_not_even_made(token: str) -> None:
    async def make() -> None:
        AsyncChatEnv("localhost:1", token=token)

    for makes in (
        lambda: ChatEnv("localhost:1", token=token),
        lambda: VectorChatEnv("localhost:1", 2, token=token),
        lambda: asyncio.run(make()),
    ):
        with pytest.raises(ValueError, match="a bearer token") as refusal:
            makes()
        assert token not in str(refusal.value)


@pytest.mark.parametrize("token", [b"secret", 5])
def test_a_token_that_is_no_text_is_told_so(token: Any) -> None:
    with pytest.raises(TypeError, match="a bearer token is a str, not"):
        ChatEnv("localhost:1", token=token)


@pytest.fixture
def tls_settings(certificates: Certificates) -> dict[str, str]:
    return certificates.of_server


def test_with_tls_only_who_speaks_it_gets_in(
    serve: Serve, certificates: Certificates, tls_settings: dict[str, str]
) -> None:
    server = serve(**tls_settings)
    assert ask(server, tls=Tls(root_certificates=certificates.read("ca.pem"))) == "bytes"
    with pytest.raises(UnavailableError), ChatEnv(server.addresses[0]) as env:
        env.server_info(timeout_s=5)


def test_with_mtls_only_who_has_a_certificate_gets_in(
    serve: Serve, certificates: Certificates, tls_settings: dict[str, str]
) -> None:
    server = serve(**tls_settings, tls_client_ca=certificates.path("ca.pem"))
    roots = certificates.read("ca.pem")
    known = Tls(roots, private_key=certificates.read("client.key"), certificate_chain=certificates.read("client.pem"))
    assert ask(server, tls=known) == "bytes"
    with pytest.raises(UnavailableError):
        ask(server, tls=Tls(roots))


def test_the_healthcheck_speaks_tls_and_mtls(
    serve: Serve, certificates: Certificates, tls_settings: dict[str, str]
) -> None:
    server = serve(**tls_settings, tls_client_ca=certificates.path("ca.pem"))
    trusting = ["--address", server.addresses[0], "--tls-ca", certificates.path("ca.pem")]
    known = ["--tls-certificate", certificates.path("client.pem"), "--tls-key", certificates.path("client.key")]
    assert healthcheck.main([*trusting, *known]) == 0
    assert healthcheck.main([*trusting, *known, "--tls-name", "chatenv.test"]) == 0
    for not_enough in (trusting, trusting[:2], [*trusting, *known, "--tls-name", "other.test"]):
        assert healthcheck.main([*not_enough, "--timeout", "0.5"]) == 1
    assert healthcheck.main([*trusting, *known[:2]]) == 1  # half a pair, which gRPC answers by ending the interpreter


def test_the_command_speaks_tls_and_mtls(
    serve: Serve, certificates: Certificates, tls_settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(**tls_settings, tls_client_ca=certificates.path("ca.pem"))
    trusting = ["--address", server.addresses[0], "--tls-ca", certificates.path("ca.pem")]
    known = ["--tls-certificate", certificates.path("client.pem"), "--tls-key", certificates.path("client.key")]
    for command in ("health", "info"):
        assert cli.main([command, *trusting, *known]) == 0
        assert cli.main([command, *trusting, "--timeout", "1"]) == 1
        assert cli.main([command, *trusting[:2], "--tls", "--timeout", "1"]) == 1
    assert "PRIVATE KEY" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("flags", [("--tls-certificate", "client.pem", "--tls-key", "client.key")])
def test_certificates_without_tls_are_refused_and_not_ignored(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    server = serve()
    given = [flag if flag.startswith("--") else certificates.path(flag) for flag in flags]
    assert healthcheck.main(["--address", server.addresses[0], *given]) == 1
    assert "which turns TLS on" in capsys.readouterr().err
    assert cli.main(["health", "--address", server.addresses[0], *given]) == 2
    assert "which turn TLS on" in capsys.readouterr().err
    assert healthcheck.main(["--address", server.addresses[0], "--tls-name", "chatenv.test"]) == 1


def test_half_a_pair_of_certificate_and_key_is_refused_by_name(
    serve: Serve, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    trusting = ["--address", server.addresses[0], "--tls-ca", certificates.path("ca.pem")]
    for half in (
        ["--tls-certificate", certificates.path("client.pem")],
        ["--tls-key", certificates.path("client.key")],
    ):
        assert healthcheck.main([*trusting, *half]) == 1
        assert "come together" in capsys.readouterr().err
        with pytest.raises(SettingError):
            read_settings(half, {})


def test_a_unix_socket_beside_tls_stays_plain(serve: Serve, tls_settings: dict[str, str], tmp_path: Path) -> None:
    server = serve(listen=(f"unix://{tmp_path}/s", "127.0.0.1:0"), **tls_settings)
    assert ask(server) == "bytes"


def test_certificates_that_do_not_work_are_refused_by_name(
    serve: Serve, certificates: Certificates, tls_settings: dict[str, str], tmp_path: Path
) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    for wrong in ({"tls_certificate": str(junk)}, {"tls_key": str(junk)}, {"tls_key": certificates.path("client.key")}):
        with pytest.raises(SettingError, match="--tls-certificate"):
            serve(**tls_settings | wrong)
    with pytest.raises(SettingError, match="--tls-client-ca"):
        serve(**tls_settings, tls_client_ca=str(junk))
