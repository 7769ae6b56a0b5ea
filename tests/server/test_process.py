"""A server as a process of its own: its start, its sockets, its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chatenv_client import ChatAction, ChatEnv, EpisodeUnknownError, UnavailableError, channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_server.running import healthcheck
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.server.conftest import Launch, ServerProcess, launch_slow, wait_for

HI = {"role": "user", "content": "hi"}


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "chatenv.sock"


def test_it_starts_without_any_argument_but_where_to_listen_and_serves(launch: Launch) -> None:
    server = launch()
    with ChatEnv(server.addresses[0]) as env:
        observation = env.reset(messages=[HI]).observation
        assert bytes(observation.token_ids[1:8].tolist()) == b"user\nhi"


def test_one_line_says_where_it_serves_and_with_which_tokenizer(launch: Launch, socket_path: Path) -> None:
    server = launch("--listen", "127.0.0.1:0", "--listen", f"unix://{socket_path}", "--log-format", "json", wait=False)
    assert server.process.stderr is not None
    event = json.loads(server.process.stderr.readline())
    tcp, unix = event["addresses"].split(",")
    assert (event["message"], event["level"], event["tokenizer"]) == ("serving", "info", "bytes")
    assert unix == f"unix://{socket_path}"
    for address in (tcp, unix):
        with ChatEnv(address) as env:
            env.reset()


def test_settings_come_from_the_environment(launch: Launch, conformance_dir: Path) -> None:
    tiny = conformance_dir / "tokenizers" / "tiny_bytes"
    server = launch(CHATENV_TOKENIZER=str(tiny), CHATENV_SYSTEM_PROMPT="Be kind.", CHATENV_MAX_STEPS="1")
    with ChatEnv(server.addresses[0]) as env:
        info = env.server_info()
        assert (info.tokenizer_name, info.limits.max_steps) == ("tiny_bytes", 1)
        assert env.reset().observation.messages == [{"role": "system", "content": "Be kind."}]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--max-steps", "-1"], "--max-steps"),
        (["--system-role", "r" * 65], "--system-role"),
        (["--tokenizer", "/no/such/folder"], "--tokenizer"),
        (["--transform", "no_such_module:reward"], "--transform"),
        (["--chat-template", __file__ + "x"], "--chat-template"),
        (["--listen", "0.0.0.0:0"], "--allow-plaintext"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_2_and_its_name(launch: Launch, flags: list[str], named: str) -> None:
    code, said = launch(*flags, wait=False).ended()
    assert code == 2
    assert named in said
    assert "Traceback" not in said


def test_a_template_that_is_no_jinja_is_refused_by_name(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{% if %}")
    code, said = launch("--chat-template", str(tmp_path / "t.jinja"), wait=False).ended()
    assert code == 2
    assert "--chat-template" in said


@pytest.mark.parametrize("text", ["Read me.", "{% for m in messages %}{{ m.role }}{% endfor %}", ""])
def test_a_template_that_writes_no_turns_is_refused_by_name(launch: Launch, tmp_path: Path, text: str) -> None:
    (tmp_path / "t.jinja").write_text(text)
    code, said = launch("--chat-template", str(tmp_path / "t.jinja"), wait=False).ended()
    assert code == 2
    assert "--chat-template" in said
    assert "the chat template" in said


def test_a_tokenizer_without_a_template_says_so_and_can_be_refused(launch: Launch, tmp_path: Path) -> None:
    folder = bare_tokenizer(tmp_path)
    with ChatEnv(launch("--tokenizer", folder).addresses[0]) as env:
        assert "plain_template" in env.server_info().features
    code, said = launch("--tokenizer", folder, "--require-template", wait=False).ended()
    assert code == 2
    assert "--require-template" in said
    (tmp_path / "t.jinja").write_text(ByteTokenizer().chat_template)
    with ChatEnv(
        launch("--tokenizer", folder, "--require-template", "--chat-template", str(tmp_path / "t.jinja")).addresses[0]
    ) as env:
        assert "plain_template" not in env.server_info().features


def bare_tokenizer(folder: Path) -> str:
    """A tokenizer's folder without a chat template."""
    ByteTokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return str(folder)


def test_a_second_server_on_the_same_port_fails_to_start(launch: Launch) -> None:
    first = launch()
    code, said = launch("--listen", first.addresses[0], wait=False).ended()
    assert code == 1
    assert f"cannot serve on {first.addresses[0]}" in said
    with ChatEnv(first.addresses[0]) as env:
        env.reset()


def test_a_name_with_a_taken_address_is_refused_as_a_whole(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = launch("--listen", f"localhost:{taken.getsockname()[1]}", wait=False).ended()
    assert code == 1
    assert "cannot serve on" in said


def test_a_name_that_is_nowhere_is_refused(launch: Launch) -> None:
    code, said = launch("--listen", "nowhere.invalid:0", "--allow-plaintext", wait=False).ended()
    assert code == 1
    assert "nowhere.invalid" in said


@pytest.mark.parametrize("mode", ["600", "660"])
def test_a_unix_socket_has_the_mode_that_was_asked_for(launch: Launch, socket_path: Path, mode: str) -> None:
    launch("--listen", f"unix://{socket_path}", "--socket-mode", mode)
    assert stat.S_IMODE(socket_path.stat().st_mode) == int(mode, 8)


def test_a_stale_socket_is_replaced(launch: Launch, socket_path: Path) -> None:
    killed = launch("--listen", f"unix://{socket_path}")
    killed.tell(signal.SIGKILL)
    killed.ended()
    assert socket_path.is_socket()
    server = launch("--listen", f"unix://{socket_path}")
    with ChatEnv(server.addresses[0]) as env:
        env.reset()


def test_a_live_socket_is_not_taken_over(launch: Launch, socket_path: Path) -> None:
    first = launch("--listen", f"unix://{socket_path}")
    code, said = launch("--listen", f"unix://{socket_path}", wait=False).ended()
    assert code == 1
    assert "another process serves there" in said
    with ChatEnv(first.addresses[0]) as env:
        env.reset()


def test_a_file_in_the_place_of_the_socket_is_not_removed(launch: Launch, socket_path: Path) -> None:
    socket_path.write_text("precious")
    code, said = launch("--listen", f"unix://{socket_path}", wait=False).ended()
    assert code == 1
    assert "no socket" in said
    assert socket_path.read_text() == "precious"


def test_the_socket_is_gone_after_a_clean_end(launch: Launch, socket_path: Path) -> None:
    server = launch("--listen", f"unix://{socket_path}")
    server.tell(signal.SIGTERM)
    assert server.ended()[0] == 0
    assert not socket_path.exists()


def test_an_old_server_leaves_the_socket_of_the_one_that_took_its_place(launch: Launch, socket_path: Path) -> None:
    old = launch("--listen", f"unix://{socket_path}")
    new = launch("--listen", f"unix://{socket_path}.new")
    socket_path.with_name(socket_path.name + ".new").replace(socket_path)
    old.tell(signal.SIGTERM)
    assert old.ended()[0] == 0
    with ChatEnv(f"unix://{socket_path}") as env:
        env.reset()
    new.tell(signal.SIGTERM)
    new.ended()


def test_nothing_stays_in_the_folder_of_a_socket(launch: Launch, socket_path: Path) -> None:
    server = launch("--listen", f"unix://{socket_path}")
    assert [path.name for path in socket_path.parent.iterdir()] == [socket_path.name]
    server.tell(signal.SIGTERM)
    server.ended()
    assert list(socket_path.parent.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once_and_with_0(launch: Launch, number: signal.Signals) -> None:
    server = launch()
    server.tell(number)
    code, said = server.ended()
    assert code == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["bytes", "tiny_bytes"])
def test_a_server_loads_neither_torch_nor_transformers(launch: Launch, conformance_dir: Path, name: str) -> None:
    tokenizer = name if name == "bytes" else str(conformance_dir / "tokenizers" / name)
    server = launch("--transform", "module_watch:ModuleWatch", "--tokenizer", tokenizer)
    with ChatEnv(server.addresses[0]) as env:
        env.reset()
        modules = set(env.step(HI).observation.metadata["modules"])
    assert "chatenv_server" in modules
    assert not modules & {"torch", "transformers", "huggingface_hub"}


@contextmanager
def slow_step(server: ServerProcess, mark: Path) -> Iterator[Any]:
    """A Step that is in the middle of its one-second transform, as a future of its response."""
    with grpc.insecure_channel(server.addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="slow"))
        messages = [pb.Message(role="user", content="hi")]
        response = stub.Step.future(pb.StepRequest(episode_id="slow", messages=messages), timeout=20)
        wait_for(mark)
        yield response


def wait_for_log(server: ServerProcess, words: str) -> None:
    assert server.process.stderr is not None
    while words not in server.process.stderr.readline():
        assert server.process.poll() is None


def call_until_refused(stub: ChatEnvServiceStub) -> None:
    while True:
        stub.GetServerInfo(pb.GetServerInfoRequest())


def test_sigterm_lets_a_step_in_flight_finish_and_refuses_new_ones(launch: Launch, mark: Path) -> None:
    server = launch_slow(launch, mark, SECONDS="4")
    with grpc.insecure_channel(server.addresses[0]) as channel:
        stub, health = ChatEnvServiceStub(channel), cast("Any", health_pb2_grpc.HealthStub(channel))
        stub.GetServerInfo(pb.GetServerInfoRequest())
        with slow_step(server, mark) as response:
            server.tell(signal.SIGTERM)
            wait_for_log(server, "draining")
            with pytest.raises(grpc.RpcError) as refusal:
                call_until_refused(stub)  # the log line says what is about to happen
            status = health.Check(health_pb2.HealthCheckRequest()).status
            observation = response.result().observation
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in str(refusal.value.details())
    assert status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert observation.reward == 1.0
    assert server.ended()[0] == 0


def test_a_step_that_outlasts_the_grace_is_cut_off(launch: Launch, mark: Path) -> None:
    server = launch_slow(launch, mark, "--drain-grace", "0.1", SECONDS="30")
    with slow_step(server, mark) as response:
        server.tell(signal.SIGTERM)
        code, said = server.ended()
        assert response.exception() is not None
    assert code == 1
    assert "cut off" in said


def test_a_second_signal_ends_it_at_once(launch: Launch, mark: Path) -> None:
    server = launch_slow(launch, mark, SECONDS="30")
    with slow_step(server, mark) as response:
        server.tell(signal.SIGTERM)
        wait_for_log(server, "draining")
        server.tell(signal.SIGTERM)
        assert server.ended()[0] == 1
        assert response.exception() is not None


def test_after_kill_9_episodes_are_unknown_and_never_silently_new(launch: Launch, socket_path: Path) -> None:
    address = f"unix://{socket_path}"
    first = launch("--listen", address)
    with ChatEnv(address) as env:
        env.reset()
        env.step(HI)
        first.tell(signal.SIGKILL)
        first.ended()
        launch("--listen", address)
        for _ in range(2):
            with pytest.raises(EpisodeUnknownError):
                env.step(ChatAction(tokens=[104, 257]))
        with pytest.raises(EpisodeUnknownError):
            env.state()


def test_it_ends_on_sigterm_as_process_1_too(launch: Launch) -> None:
    unshare = shutil.which("unshare")
    as_process_1 = [str(unshare), "--pid", "--fork", "--kill-child"]
    if unshare is None or subprocess.run([*as_process_1, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a process namespace")
    server = launch(before=as_process_1)
    outer = server.process.pid
    inner = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())
    os.kill(inner, signal.SIGTERM)
    assert server.ended()[0] == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix"])
def test_the_healthcheck_tells_a_serving_server_from_none(
    launch: Launch, socket_path: Path, listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = launch("--listen", f"unix://{socket_path}" if listen == "unix" else listen)
    check = ["--address", server.addresses[0], "--timeout", "5"]
    assert healthcheck.main(check) == 0
    server.tell(signal.SIGTERM)
    server.ended()
    assert healthcheck.main([*check[:2], "--timeout", "0.2"]) == 1
    assert "not serving" in capsys.readouterr().err


def test_health_is_not_serving_until_the_tokenizer_is_loaded(launch: Launch, tmp_path: Path) -> None:
    fifo = tmp_path / "template.jinja"
    os.mkfifo(fifo)
    socket_path = tmp_path / "s"
    server = launch("--listen", f"unix://{socket_path}", "--chat-template", str(fifo), wait=False)
    while not socket_path.exists():
        time.sleep(0.01)
    address = f"unix://{socket_path}"
    assert healthcheck.main(["--address", address, "--timeout", "5"]) == 1
    with ChatEnv(address) as env, pytest.raises(UnavailableError, match="loading"):
        env.server_info()
    fifo.write_text("{% for m in messages %}{{ m.role + m.content }}<|im_end|>{% endfor %}")
    server.wait_until_serving()
    assert healthcheck.main(["--address", address, "--timeout", "5"]) == 0


def test_a_clients_call_that_comes_while_the_server_ends_is_never_cancelled(launch: Launch) -> None:
    for _ in range(3):
        server = launch()
        codes: set[grpc.StatusCode] = set()

        def ask(address: str = server.addresses[0], codes: set[grpc.StatusCode] = codes) -> None:
            options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(address, options) as channel:
                stub = ChatEnvServiceStub(channel)
                while grpc.StatusCode.UNAVAILABLE not in codes:
                    try:
                        stub.GetServerInfo(pb.GetServerInfoRequest())
                    except grpc.RpcError as error:  # noqa: PERF203 - each call has its own outcome
                        codes.add(error.code())

        asking = [threading.Thread(target=ask) for _ in range(8)]
        for thread in asking:
            thread.start()
        time.sleep(0.3)
        server.tell(signal.SIGTERM)
        for thread in asking:
            thread.join()
        assert codes == {grpc.StatusCode.UNAVAILABLE}
        assert server.ended()[0] == 0
