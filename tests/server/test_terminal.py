"""The manners of the commands at a terminal: colours, widths, progress, completion."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnv
from chatenv_server.commands import cli
from chatenv_server.commands.terminal import Cell, Terminal, columns
from chatenv_server.running.process import RunningServer
from tests.server.conftest import Serve, plain_environment
from tests.server.test_command import command

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
AtTerminal = Callable[..., str]
INTERRUPTED = """
import signal, sys
from chatenv_server.commands import cli
from chatenv_server.tokenizer_files import loading
load = loading.load_tokenizer
def interrupted(*arguments):
    signal.raise_signal(signal.SIGINT)
    return load(*arguments)
loading.load_tokenizer = interrupted
sys.exit(cli.main(["doctor", "bytes"]))
"""
"""The doctor, while somebody presses Ctrl-C."""


@pytest.fixture
def server(serve: Serve) -> RunningServer:
    return serve()


@pytest.fixture
def at_terminal(server: RunningServer) -> AtTerminal:
    """What a command shows at a terminal of 60 columns."""

    def run(*arguments: str, stream: str = "stdout", **environment: str) -> str:
        ours, theirs = pty.openpty()
        outputs: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: theirs}
        own = {"TERM": "xterm-256color", "COLUMNS": "60", "CHATENV_ADDRESS": server.addresses[0]}
        process = subprocess.Popen(
            command(*arguments), stdin=subprocess.DEVNULL, env=plain_environment() | own | environment, **outputs
        )
        os.close(theirs)
        shown = b"".join(_read(ours))
        os.close(ours)
        assert process.wait(30) == 0
        return shown.decode().replace("\r\n", "\n")

    return run


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 2**16)
        except OSError:  # nobody has the other end open any more
            return
        if not chunk:
            return
        yield chunk


@pytest.fixture
def env(server: RunningServer) -> Iterator[ChatEnv]:
    """An episode with a long message, a sampled turn with logprobs, and a reward."""
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="e", messages=[{"role": "user", "content": "all of these words " * 12}])
        env.step(ChatAction(tokens=[*b"No", 0xC3, 257], logprobs=[-0.1, -1.5, -3.0, -9.0]))
        env.set_reward({"right": -1.0}, step=1)
        yield env


@pytest.mark.usefixtures("env")
def test_colours_are_for_terminals_alone(at_terminal: AtTerminal, server: RunningServer) -> None:
    for arguments in (("state", "e"), ("state", "e", "--logprobs"), ("episodes",)):
        assert COLOUR.search(at_terminal(*arguments))
        for without in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            assert not COLOUR.search(at_terminal(*arguments, **without))
        piped = subprocess.run(command(*arguments, "--address", server.addresses[0]), capture_output=True, check=True)
        assert b"\x1b" not in piped.stdout


@pytest.mark.usefixtures("env")
def test_a_state_keeps_to_the_width_of_the_terminal(at_terminal: AtTerminal) -> None:
    for arguments in (("state", "e"), ("state", "e", "--tokens"), ("state", "e", "--logprobs")):
        lines = COLOUR.sub("", at_terminal(*arguments)).splitlines()
        assert max(map(columns, lines)) <= 60
        assert len(lines) > 8
    said = COLOUR.sub("", at_terminal("state", "e"))
    assert ("all of these words " * 12).strip() in re.sub(r"\n +", " ", said)


def test_a_state_shows_tokens_with_their_logprobs(env: ChatEnv, server: RunningServer) -> None:
    asked = command("state", "e", "--logprobs", "--address", server.addresses[0])
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "N(-0.10) o(-1.50) <c3>(-3.00) <|im_end|>(-9.00)" in shown
    assert "<|im_start|> u s e r ↵ a l l · o f" in shown
    assert env.state().step_count == 1


@pytest.mark.usefixtures("env")
def test_progress_is_shown_and_wiped(at_terminal: AtTerminal, tmp_path: Any) -> None:
    file = str(tmp_path / "a.jsonl")
    shown = at_terminal("trajectories", "--out", file, stream="stderr")
    assert shown.startswith("\r\x1b[K1 read, the last is e")
    assert shown.endswith("\r\x1b[K")
    assert at_terminal("trajectories", "--out", file, stream="stderr", TERM="dumb") == ""


@given(st.text(st.characters(categories=["L", "N", "P", "Zs", "Mn"])), st.integers(20, 90), st.integers(0, 15))
def test_a_wrapped_text_fits_and_loses_nothing_but_spaces(text: str, width: int, lead: int) -> None:
    lines = list(Terminal(width=width).wrapped(text, lead="x" * lead))
    assert columns(lines[0]) + lead <= max(20, width)
    assert all(columns(line) <= width for line in lines[1:])
    assert "".join("".join(lines).split(" ")) == "".join(text.split(" "))


@given(st.lists(st.text("ab界", min_size=1, max_size=15)), st.integers(20, 60))
def test_cells_that_flow_stay_whole_and_in_order(texts: list[str], width: int) -> None:
    lines = list(Terminal(width=width).flow((Cell(text, "red") for text in texts), indent="  "))
    assert " ".join(line.removeprefix("  ") for line in lines).split() == texts
    assert all(columns(line) <= width or " " not in line.strip() for line in lines)


def test_what_to_do_next_is_told(server: RunningServer) -> None:
    for arguments, told in [
        (("state", "never-was", "--address", server.addresses[0]), "`chatenv-rl episodes` lists those that are live"),
        (("info", "--address", "localhost:1"), "`chatenv-server` starts one"),
    ]:
        done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_every_command_and_its_flags(shell: str) -> None:
    pytest.importorskip("shtab", reason="shtab is not installed")
    script = subprocess.run(command("completion", shell), capture_output=True, text=True, check=True).stdout
    for each in cli._COMMANDS:
        assert each.NAME in script
    assert "--logprobs" in script


def test_what_the_output_cannot_write_is_spelt_out(server: RunningServer) -> None:
    environment = plain_environment() | {"PYTHONIOENCODING": "ascii", "CHATENV_ADDRESS": server.addresses[0]}
    with ChatEnv(server.addresses[0]) as env:
        env.reset(episode_id="e", messages=[{"role": "user", "content": "Grüße, 世界"}])
        told, as_json = (
            subprocess.run(command("state", "e", *form), capture_output=True, env=environment, check=True).stdout
            for form in ((), ("--json",))
        )
    assert b"Gr\\xfc\\xdfe, \\u4e16\\u754c" in told
    assert json.loads(as_json)["history_messages"][0]["content"] == "Grüße, 世界"


def test_an_interrupted_doctor_says_so_in_one_line() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        told = process.communicate(timeout=60)
    assert (process.returncode, *told) == (1, "", "chatenv-rl doctor: interrupted\n")


def test_bash_completes_a_command() -> None:
    pytest.importorskip("shtab", reason="shtab is not installed")
    script = subprocess.run(command("completion", "bash"), capture_output=True, text=True, check=True).stdout
    asked = 'COMP_WORDS=(chatenv-rl traj); COMP_CWORD=1; _shtab_chatenv_rl; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert done.stdout == "trajectories\n"


def parser_of(one: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    one.add_arguments(parser)
    return parser


def test_every_command_speaks_json() -> None:
    for one in cli._COMMANDS:
        parser = parser_of(one)
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parsers = [sub for action in below for sub in action.choices.values()] or [parser]
        assert one.NAME == "completion" or all("--json" in each._option_string_actions for each in parsers)


def test_a_tokenizer_is_written_and_told_as_json(tmp_path: Any) -> None:
    done = subprocess.run(
        command("tokenizer", "export", str(tmp_path / "t"), "--json"), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "t")}
