"""The command `chatenv-rl` as a person or a script uses it: a process of its own, a pipe, a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatAction, ChatEnv, EpisodeClosedError
from chatenv_server.running.process import RunningServer
from tests.server.conftest import Serve, plain_environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "chatenv_server.commands.cli", *arguments]


@pytest.fixture
def server(serve: Serve) -> RunningServer:
    return serve()


@pytest.fixture
def chatenv(server: RunningServer) -> Run:
    """Runs the command against the server."""

    def run(*arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        surroundings = plain_environment() | {"CHATENV_ADDRESS": server.addresses[0]} | environment
        return subprocess.run(
            command(*arguments), input=typed, capture_output=True, text=True, env=surroundings, timeout=30, check=False
        )

    return run


def test_health_says_whether_a_server_serves(chatenv: Run, server: RunningServer) -> None:
    healthy = chatenv("health")
    assert (healthy.returncode, healthy.stdout) == (0, f"{server.addresses[0]} SERVING\n")
    assert json.loads(chatenv("health", "--json").stdout)["status"] == "SERVING"
    server.stop(0)
    gone = chatenv("health", "--json")
    assert (gone.returncode, json.loads(gone.stdout)["status"]) == (1, "UNAVAILABLE")


def test_info_says_what_the_server_is(chatenv: Run, server: RunningServer) -> None:
    with ChatEnv(server.addresses[0]) as env:
        env.reset()
        shown = dict(line.split("  ", 1) for line in chatenv("info").stdout.splitlines())
        assert shown["live episodes"].strip() == "1"
        assert json.loads(chatenv("info", "--json").stdout)["tokenizer_name"] == env.server_info().tokenizer_name


def test_state_shows_who_wrote_what_and_changes_nothing(chatenv: Run, server: RunningServer) -> None:
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="e", messages=[{"role": "user", "content": "what?"}])
        env.step(ChatAction(tokens=[52, 50, 257]))
        shown = chatenv("state", "e", "--tokens").stdout
        assert "[0] given, 13 tokens  user: what?" in shown
        assert "sampled" in shown
        assert "assistant: 42" in shown
        assert "52 50 257" in shown
        assert json.loads(chatenv("state", "e", "--json").stdout)["token_ids"] == env.state().token_ids.tolist()
        assert env.state().step_count == 1


def test_a_conversation_through_a_pipe(chatenv: Run) -> None:
    typed = [
        "hi",
        "/role assistant",
        "hello",
        "/role user",
        "//reset is a word",
        "/sampled 65 257",
        "/tokens",
        "/state",
    ]
    said = chatenv("chat", "--system", "Be kind.", typed="\n".join([*typed, "/quit", "unheard"]))
    assert said.returncode == 0, said.stderr
    for line in ("system: Be kind.", "user: hi", "assistant: hello", "user: /reset is a word", "assistant: A"):
        assert f"  {line}\n" in said.stdout
    assert " | 65 257\n" in said.stdout
    assert "[4] sampled" in said.stdout
    assert "unheard" not in said.stdout


def test_what_a_step_adds_is_told_without_the_prompt_that_was_taken_back(chatenv: Run) -> None:
    said = chatenv("chat", "--json", typed="a\nb\n/sampled 65 257\nc\n")
    steps = [json.loads(line) for line in said.stdout.splitlines()]
    stream: list[int] = []
    for step in steps:
        stream = stream[: step["token_count"] - len(step["tokens"])] + step["tokens"]
    assert bytes(token for token in stream if token < 256) == b"user\na\nuser\nb\nassistant\nA\nuser\nc\nassistant\n"


def test_what_is_refused_is_told_and_the_conversation_goes_on(chatenv: Run) -> None:
    said = chatenv("chat", typed="/sampled -1\n/sampled many\n/nonsense\n/role\nstill here\n")
    assert said.returncode == 1
    assert "! TOKEN_OUT_OF_RANGE" in said.stdout
    assert "! there is no /nonsense" in said.stdout
    assert "user: still here" in said.stdout


def test_the_end_of_input_ends_the_episode_but_not_one_of_another(chatenv: Run, server: RunningServer) -> None:
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="kept")
        assert chatenv("chat", "--episode", "kept", typed="hi\n").returncode == 0
        assert env.state().history_messages == [{"role": "user", "content": "hi"}]
        own = json.loads(chatenv("chat", "--json").stdout)["episode_id"]
        with pytest.raises(EpisodeClosedError):
            env.resume(own)


def test_what_others_wrote_cannot_command_the_terminal(chatenv: Run, server: RunningServer) -> None:
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="e", messages=[{"role": "user", "content": "\x1b]0;owned\x07\u202e"}])
        shown = chatenv("state", "e").stdout
    assert r"\x1b]0;owned\x07\u202e" in shown
    assert "\x1b" not in shown


def test_at_a_terminal_it_asks_with_the_role_and_a_refusal_is_no_failure(server: RunningServer) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("chat", "--address", server.addresses[0]),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=plain_environment() | {"TERM": "dumb"},
        close_fds=True,
    )
    os.close(theirs)

    def read_until(end: bytes) -> bytes:
        seen = b""
        while not seen.endswith(end):
            seen += os.read(ours, 1)
        return seen

    try:
        read_until(b"user> ")
        os.write(ours, b"/role assistant\n")
        read_until(b"assistant> ")
        os.write(ours, b"/nonsense\n")
        assert b"! there is no /nonsense" in read_until(b"assistant> ")
        os.write(ours, b"I speak\n")
        assert b"  assistant: I speak" in read_until(b"assistant> ")
        os.write(ours, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["state", "nobody"], 1),
        (["info", "--address", "localhost:1"], 1),
        (["info", "--address", "http://localhost:1"], 2),
        (["info", "--tls-ca", "/no/such/file"], 2),
        (["state"], 2),
        (["dance"], 2),
        ([], 2),
    ],
)
def test_exit_codes_tell_refusal_from_wrong_use(chatenv: Run, arguments: list[str], code: int) -> None:
    done = chatenv(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr


@pytest.mark.parametrize("arguments", [["state", "long"], ["state", "long", "--json"], ["chat", "--episode", "long"]])
def test_a_reader_who_has_seen_enough_is_no_error(server: RunningServer, arguments: list[str]) -> None:
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="long", messages=[{"role": "user", "content": "long " * 1000}] * 100)
        process = subprocess.Popen(
            command(*arguments, "--address", server.addresses[0]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=plain_environment() | {"PYTHONUNBUFFERED": ""},  # with it, Python itself hides the first broken write
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with process:
            assert process.stdout.readline()
            process.stdout.close()
            said = process.stderr.read()
        assert (process.returncode, said) == (141, b"")


def test_the_token_comes_from_a_file_or_the_environment(serve: Serve, chatenv: Run, tmp_path: Path) -> None:
    address = ("--address", serve(bearer_token="open sesame").addresses[0])
    file = tmp_path / "token"
    file.write_text("open sesame\n")
    assert chatenv("info", *address).returncode == 1
    assert chatenv("health", *address).returncode == 0
    assert chatenv("info", *address, "--bearer-token-file", str(file)).returncode == 0
    assert chatenv("info", *address, CHATENV_BEARER_TOKEN="open sesame").returncode == 0
    assert chatenv("info", *address, CHATENV_BEARER_TOKEN_FILE=str(file)).returncode == 0


def test_a_misspelt_variable_of_a_caller_is_refused_and_one_of_a_server_is_not(chatenv: Run) -> None:
    refused = chatenv("info", CHATENV_ADRESS="localhost:1")
    assert refused.returncode == 2
    assert "CHATENV_ADRESS, which nobody reads (nearest: CHATENV_ADDRESS)" in refused.stderr
    assert chatenv("info", CHATENV_LISTEN="localhost:1", CHATENV_TOKENIZER="bytes").returncode == 0


def test_talking_to_a_server_loads_neither_transformers_nor_torch(server: RunningServer) -> None:
    program = (
        "import sys; from chatenv_server.commands.cli import main; code = main(['info']);"
        "assert not {'transformers', 'torch'} & set(sys.modules); sys.exit(code)"
    )
    environment: dict[str, Any] = plain_environment() | {"CHATENV_ADDRESS": server.addresses[0]}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
