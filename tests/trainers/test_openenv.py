"""OpenEnv's stock client plays chats of a chatenv server over OpenEnv's own server."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openenv", reason="the extra openenv is not installed")

import uvicorn
from guessing_game import Guess
from openenv.core.generic_client import GenericEnvClient
from openenv.core.harness import TrainingTrace
from websockets.exceptions import ConnectionClosed

from chatenv_client import ChatEnv, Trajectory, training_trace
from chatenv_client.trainers.openenv import openenv_app
from chatenv_server import Settings, serve
from tests.machine import free_port
from tests.trainers.tasks import STOP, said

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = CHECKOUT / "examples"
PAGE = CHECKOUT / "docs" / "trainers" / "openenv.md"


@pytest.fixture(scope="module")
def port(address: str) -> Iterator[int]:
    """Of OpenEnv's server over the chatenv server."""
    with ChatEnv(address) as client, socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(openenv_app(client), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def env(port: int) -> Iterator[Any]:
    with GenericEnvClient(base_url=f"http://127.0.0.1:{port}").sync() as client:
        yield client


def turn(text: str, shown: Any = None) -> dict[str, Any]:
    """An action, which follows on what was shown."""
    action = said(text)
    assert action.logprobs is not None
    fields = {"tokens": action.tokens.tolist(), "logprobs": action.logprobs.tolist()}
    return fields if shown is None else {**fields, "metadata": shown.observation["metadata"]}


def trajectory(address: str, episode_id: str) -> Trajectory:
    with ChatEnv(address) as env:
        env.resume(episode_id)
        return env.trajectory()


class Wire:
    """A way to a port on which the connection can be cut before an answer has come through."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.drops_next_answer = False
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                far = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._copy, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._copy, args=(far, near, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if is_answer and self.drops_next_answer:
                    self.drops_next_answer = False
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    way = Wire(port)
    yield way
    way.close()


def test_the_stock_client_plays_a_whole_conversation(env: Any, address: str) -> None:
    shown = env.reset(seed=7, episode_id="whole")
    assert shown.observation["messages"] == [{"role": "user", "content": "Seed 7."}]
    assert (shown.done, shown.reward) == (False, None)
    prompt = shown.observation["tokens"]
    shown = env.step(turn("abc", shown))
    assert shown.observation["messages"][1:] == [
        {"role": "assistant", "content": "abc"},
        {"role": "user", "content": "abc"},
    ]
    assert shown.observation["tokens"][len(prompt) : len(prompt) + 4] == [*b"abc", STOP]
    assert (shown.done, shown.reward) == (False, 3.0)
    shown = env.step(turn("de", shown))
    assert (shown.done, shown.reward) == (True, 2.0)
    state = env.state()
    assert (state["episode_id"], state["step_count"]) == ("whole", 2)
    assert [message["role"] for message in state["history_messages"]] == ["user", "assistant", "user", "assistant"]
    assert len(state["history_tokens"]) == 4
    whole = trajectory(address, "whole")
    assert whole.tokens.tolist() == shown.observation["tokens"]
    assert whole.logprobs[whole.loss_mask].tolist() == [*turn("abc")["logprobs"], *turn("de")["logprobs"]]
    assert whole.reward == 5.0


def test_metadata_need_not_be_sent_while_the_connection_holds(env: Any) -> None:
    env.reset()
    assert env.step(turn("abc")).reward == 3.0
    assert env.step(turn("de")).done


def test_a_step_whose_answer_was_lost_is_answered_again_over_another_connection(wire: Wire, address: str) -> None:
    with GenericEnvClient(base_url=f"http://127.0.0.1:{wire.port}").sync() as env:
        opening = env.reset(episode_id="cut")
        wire.drops_next_answer = True
        with pytest.raises(ConnectionClosed):
            env.step(turn("abc", opening))
        shown = env.step(turn("abc", opening))
        assert shown.reward == 3.0
        assert env.step(turn("de", shown)).done
    assert wire.connections == 2
    assert trajectory(address, "cut").reward == 5.0


def test_another_client_goes_on_where_one_left(port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    with GenericEnvClient(base_url=base).sync() as env:
        shown = env.reset()
    with GenericEnvClient(base_url=base).sync() as env:
        assert env.step(turn("abc", shown)).reward == 3.0
        assert env.state()["step_count"] == 1


def test_messages_are_given_as_such(env: Any) -> None:
    given = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi."}]
    shown = env.reset(episode_id="given", messages=given[:1], task="", max_turns=2)
    shown = env.step({"message": given[1]})
    assert shown.observation["messages"][-1] == given[1]
    shown = env.step({"messages": [{"role": "user", "content": "Well?"}], "metadata": shown.observation["metadata"]})
    assert shown.observation["messages"][-1]["content"] == "Well?"


def test_a_batch_of_one_is_taken_as_the_row_that_it_is(env: Any) -> None:
    env.reset()
    fields = turn("abc")
    assert env.step({"tokens": [fields["tokens"]], "logprobs": [fields["logprobs"]]}).reward == 3.0


def test_what_breaks_is_an_error_and_no_reward(env: Any) -> None:
    with pytest.raises(RuntimeError, match="task"):
        env.reset(task_args={"breaks_at": -1})
    env.reset(task_args={"breaks_at": 0})
    with pytest.raises(RuntimeError, match="task"):
        env.step(turn("abc"))


def test_a_failed_episode_is_done_and_has_no_reward(env: Any, address: str) -> None:
    shown = env.reset(episode_id="broken", task_args={"turns": 5})
    env.step(turn("abc", shown))
    with ChatEnv(address) as other:
        other.resume("broken")
        other.fail("the judge is gone", kind="judge")
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(turn("de"))


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ({}, "either tokens, or message, or messages"),
        ({"tokens": [1], "message": {"role": "user", "content": "x"}}, "either tokens"),
        ({"text": "hello"}, "no field 'text'; it has .*tokens"),
        ({"tokens": "hello"}, "token"),
        ({"tokens": [10**6]}, "token"),
        ({"tokens": [65], "logprobs": [1.0, 2.0]}, "logprobs"),
        ({"tokens": [65], "stop_reason": "bored"}, "stop_reason"),
        ({"message": "hello"}, "message"),
        ({"tokens": [65], "metadata": {"episode_id": 5}}, "episode_id, a text"),
        ({"tokens": [65], "metadata": {"step_index": "one"}}, "step_index, a number"),
        ({"tokens": [65], "metadata": {"step_index": 9}}, "9"),
        ({"tokens": [65], "metadata": {"episode_id": "nobody"}}, "no such episode"),
        ({"tokens": [65], "metadata": {"prompt_fingerprint": "0" * 16}}, "another prompt"),
    ],
)
def test_a_wrong_action_is_told_in_words_and_spoils_nothing(env: Any, action: dict[str, Any], told: str) -> None:
    shown = env.reset()
    with pytest.raises(RuntimeError, match=told):
        env.step(action)
    assert env.step(turn("abc", shown)).reward == 3.0


def test_a_wrong_reset_is_told_in_words(env: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"episode_id": "a b"}, "1 to 128 characters"),
        ({"bored": 1}, "bored"),
        ({"messages": "hello"}, "message"),
        ({"index": 3}, "row"),
    ]
    for options, told in wrong:
        with pytest.raises(RuntimeError, match=told):
            env.reset(**options)
    with pytest.raises(RuntimeError, match="no episode: reset"):
        env.step(turn("abc"))
    assert env.state()["episode_id"] is None


def test_a_reset_closes_the_episode_before(env: Any, address: str) -> None:
    env.reset(episode_id="before")
    env.reset(episode_id="after")
    with ChatEnv(address) as client:
        assert [each.episode_id for each in client.episodes("before")] == []
        assert [each.episode_id for each in client.episodes("after")] == ["after"]


def posted(port: int, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_plain_http_plays_too(port: int) -> None:
    _, shown = posted(port, "/reset", {"seed": 3})
    status, shown = posted(port, "/step", {"action": {**turn("abc"), "metadata": shown["observation"]["metadata"]}})
    assert (status, shown["reward"], shown["done"]) == (200, 3.0, False)
    again = {**turn("de"), "metadata": shown["observation"]["metadata"]}
    assert [posted(port, "/step", {"action": again})[1]["reward"] for _ in range(2)] == [2.0, 2.0]
    assert posted(port, "/step", {"action": {"tokens": [65]}})[0] == 400
    status, told = posted(port, "/step", {"action": {"tokens": [65], "metadata": {"episode_id": "nobody"}}})
    assert (status, told["reason"]) == (404, "EPISODE_UNKNOWN")
    assert posted(port, "/reset", {"bored": 1})[0] == 400


def test_what_it_is_can_be_asked(port: int) -> None:
    assert posted(port, "/health")[1] == {"status": "healthy"}
    assert posted(port, "/metadata")[1]["name"] == "chatenv"
    _, schema = posted(port, "/schema")
    assert schema["action"]["properties"]["tokens"]["items"] == {"type": "integer"}
    assert {"messages", "tokens", "metadata"} <= schema["observation"]["properties"].keys()
    assert {"history_messages", "history_tokens"} <= schema["state"]["properties"].keys()


def test_the_command_serves_the_example() -> None:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Guess) as server:
        port = free_port()
        command = [sys.executable, "-m", "chatenv_server.commands.cli", "openenv"]
        serving = subprocess.Popen(
            [*command, "--address", server.target, "--port", str(port)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline() == f"OpenEnv at 127.0.0.1:{port} over bytes\n"
            example = [sys.executable, str(EXAMPLES / "trainers" / "openenv_chat.py"), f"http://127.0.0.1:{port}"]
            until_it_listens(port)
            played = subprocess.run(example, capture_output=True, text=True, check=False, timeout=60)
            assert (played.returncode, played.stderr) == (0, "")
            assert played.stdout.splitlines()[-1].endswith("found, reward 1.0")
        finally:
            serving.send_signal(signal.SIGINT)
            assert serving.wait(20) == 0


def until_it_listens(port: int) -> None:
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


def test_the_code_of_the_page_runs(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    exec(compile(block.replace("localhost:8000", f"127.0.0.1:{port}"), "openenv.md", "exec"), {})
    assert capsys.readouterr().out == "{'role': 'user', 'content': '5'} 1.0 False\n"


def test_a_trajectory_is_a_training_trace_of_openenvs_own(env: Any, address: str) -> None:
    shown = env.reset(episode_id="traced")
    env.step(turn("de", env.step(turn("abc", shown))))
    traced = TrainingTrace(**training_trace(trajectory(address, "traced")))
    assert [one.completion_token_ids for one in traced.turns] == [[*b"abc", STOP], [*b"de", STOP]]
    assert traced.turns[0].prompt_token_ids == shown.observation["tokens"]
    assert TrainingTrace.model_validate_json(json.dumps(training_trace(trajectory(address, "traced")))) == traced
