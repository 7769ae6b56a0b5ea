"""The command `chatenv-rl` as a person or a script uses it: a process of its own, a pipe, a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatAction, ChatEnv, ChatObservation, EpisodeClosedError
from chatenv_server.engine import TokenEngine
from chatenv_server.running.process import RunningServer
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
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


def test_state_shows_where_earlier_segments_ended(chatenv: Run, server: RunningServer) -> None:
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="several", messages=[{"role": "user", "content": "what?"}])
        env.step(ChatAction(tokens=[52, 50, 257]))
        assert "segment" not in chatenv("state", "several").stdout
        env.step({"role": "user", "content": "why?"}, replace_from=0)
        shown = chatenv("state", "several").stdout
        assert "segment 0: sealed at step 1, 27 tokens, 2 messages\nsegment 1, the current one:\n" in shown
        assert json.loads(chatenv("state", "several", "--json").stdout)["sealed"] == [[27, 2, 1]]


def test_state_shows_who_wrote_what_and_changes_nothing(chatenv: Run, server: RunningServer) -> None:
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="e", messages=[{"role": "user", "content": "what?"}])
        env.step(ChatAction(tokens=[52, 50, 257]))
        shown = chatenv("state", "e", "--tokens").stdout
        assert "[0] given, 13 tokens, at 0.0 s  user: what?" in shown
        assert re.search(r"\[1\] sampled, 3 of 14 tokens, at \d+\.\d s  assistant: 42", shown)
        assert "\n    template  256 97 115 115 105 115 116 97 110 116 10\n     sampled  52 50 257\n" in shown
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


def test_sampled_ids_are_taken_as_people_and_programs_write_them(chatenv: Run) -> None:
    written = ["65 257", "65, 257", "[65,257]", "[ 65 , 257 ]"]
    said = chatenv("chat", "--json", typed="".join(f"hi\n/sampled {ids}\n" for ids in written))
    sampled = [json.loads(line)["tokens"] for line in said.stdout.splitlines()[2::2]]
    assert sampled == [[65, 257]] * len(written)


def test_a_text_is_sampled_with_the_token_that_ends_the_turn(chatenv: Run) -> None:
    texts = ["It is 5.", 'He said "five".', "two\nlines", "", "a<|im_end|>b", "ünï 🙂"]
    said = chatenv("chat", "--json", typed="".join(f"hi\n/sampled {json.dumps(text)}\n" for text in texts))
    assert said.returncode == 0
    steps = [json.loads(line) for line in said.stdout.splitlines()[2::2]]
    assert [step["tokens"] for step in steps] == [[*text.encode(), 257] for text in texts]
    assert [step["messages"] for step in steps] == [[{"role": "assistant", "content": text}] for text in texts]


NO_TURNS = {
    "999999999999999999999999": "is no token id",
    "9" * 6000: "is no token id",
    "2147483648": "32-bit",
    "1e3": "'1e3' is no token id",
    "٣": "is no token id",
    '"open': "a text stands in quotes",
    '"a" 5': "a text stands in quotes",
}


def test_what_is_no_turn_is_refused_with_a_word_on_what_is(chatenv: Run) -> None:
    done = chatenv("chat", typed="hi\n" + "".join(f"/sampled {given}\n" for given in NO_TURNS))
    refusals = [line for line in done.stdout.splitlines() if line.startswith("! ")]
    assert len(refusals) == len(NO_TURNS)
    assert [told for told, said in zip(refusals, NO_TURNS.values(), strict=True) if said not in told] == []
    assert done.stderr == ""


def test_a_text_is_sampled_only_where_it_is_the_models_turn(chatenv: Run) -> None:
    assert "! it is not the model's turn" in chatenv("chat", typed='hi\n/sampled "a"\n/sampled "b"\n').stdout


def test_a_text_is_not_sampled_where_the_template_writes_another_beginning(
    serve: Serve, chatenv: Run, tmp_path: Path
) -> None:
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    server = serve(engine=TokenEngine.load(ByteTokenizer(), chat_template=template.read_text()))
    said = chatenv("chat", "--address", server.addresses[0], typed='hi\n/sampled "a"\n')
    assert "! the chat template does not write an assistant's message after its prompt; give token ids" in said.stdout


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


@contextmanager
def at_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int, Callable[[bytes], bytes]]]:
    """The command at a terminal of its own: the process, the terminal, and what reads from it up to a text."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command(*arguments)],
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
        yield process, ours, read_until
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_at_a_terminal_it_asks_with_the_role_and_a_refusal_is_no_failure(server: RunningServer) -> None:
    with at_a_terminal("chat", "--address", server.addresses[0]) as (process, terminal, read_until):
        assert read_until(b"user> ").startswith(b"Type a message, or /help.")
        os.write(terminal, b"/role assistant\n")
        read_until(b"assistant> ")
        os.write(terminal, b"/nonsense\n")
        assert b"! there is no /nonsense" in read_until(b"assistant> ")
        os.write(terminal, b"I speak\n")
        assert b"  assistant: I speak" in read_until(b"assistant> ")
        os.write(terminal, b"\x04")
        assert process.wait(30) == 0


CTRL_C = b"\x03"


def test_at_a_terminal_ctrl_c_drops_the_line_and_keeps_the_conversation(server: RunningServer) -> None:
    with at_a_terminal("chat", "--address", server.addresses[0]) as (process, terminal, read_until):
        read_until(b"user> ")
        os.write(terminal, b"not this")
        read_until(b"not this")
        time.sleep(0.2)  # until it waits for more: Python forgets a signal that comes right before
        os.write(terminal, CTRL_C)
        assert b"(/quit leaves)" in read_until(b"user> ")
        os.write(terminal, b"but this\n")
        assert b"step 1," in read_until(b"user> ")
        os.write(terminal, b"/quit\n")
        assert process.wait(30) == 0


def test_at_a_terminal_ctrl_c_ends_a_call_that_hangs_and_the_conversation_goes_on(serve: Serve) -> None:
    hanging, going_on = threading.Event(), threading.Event()

    def hang_once(observation: ChatObservation) -> ChatObservation:
        if not hanging.is_set():
            hanging.set()
            going_on.wait(30)
        return observation

    address = serve(transform=hang_once).addresses[0]
    with at_a_terminal("chat", "--address", address) as (process, terminal, read_until):
        read_until(b"user> ")
        os.write(terminal, b"one\n")
        assert hanging.wait(20)
        os.write(terminal, CTRL_C)
        assert b"! interrupted" in read_until(b"user> ")
        going_on.set()
        os.write(terminal, b"two\n")
        assert b"step 2," in read_until(b"user> ")
        os.write(terminal, b"/quit\n")
        assert process.wait(30) == 0


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
