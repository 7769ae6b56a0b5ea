"""Tasks whose model calls the tools of a real server of the Model Context Protocol, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from chatenv_client.models import FailureKind
from chatenv_server.tasks.mcp import McpTask
from chatenv_server.tasks.task import End, TaskEpisode
from chatenv_server.tasks.tool import ToolUnavailableError
from tests.machine import free_port
from tests.tasks.conftest import call, contents, turn

SERVER = Path(__file__).with_name("mcp_server.py")
CLOSED = End.CLOSED


class OverStdio(McpTask):
    server = (sys.executable, str(SERVER))


def is_listened_on(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


class Http:
    """The server on a port of this machine, as a process that can be ended and started again."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/mcp"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, str(SERVER), str(self._port)], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while not is_listened_on(self._port):
            assert time.monotonic() < until, "the server does not come up"
            time.sleep(0.02)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def shared_http() -> Iterator[Http]:
    server = Http()
    yield server
    server.end()


@pytest.fixture
def http() -> Iterator[Http]:
    """One to end and to start again."""
    server = Http()
    yield server
    server.end()


@pytest.fixture(params=["stdio", "http"])
def task(request: pytest.FixtureRequest) -> McpTask:
    """A task for each transport."""
    if request.param == "stdio":
        return OverStdio()
    one = McpTask()
    one.server = request.getfixturevalue("shared_http").url
    return one


def play(task: McpTask, game: Callable[[], Awaitable[Any]], *, opens: bool = True) -> Any:
    """Open the task, play in the same event loop, close it."""

    async def episode() -> Any:
        if opens:
            await task.open(TaskEpisode())
        try:
            return await game()
        finally:
            await task.close(CLOSED)

    return asyncio.run(episode())


def said(task: McpTask, name: str, *, opens: bool = True, **arguments: Any) -> str:
    """What the model reads of one call."""

    async def game() -> Any:
        (text,) = contents(await task.answer(turn("", call(name, arguments))))
        return text

    return str(play(task, game, opens=opens))


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def process_of(task: McpTask) -> int:
    """The process of the task's server."""
    (text,) = contents(await task.answer(turn("", call("process"))))
    return int(text)


# -- tools and results ---------------------------------------------------------------------------------------


def test_the_tools_of_the_server_are_offered_as_templates_take_them(task: McpTask) -> None:
    async def game() -> Any:
        return await task.open(TaskEpisode())

    tools = play(task, game).tools
    assert tools[0] == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"description": "The first number.", "title": "A", "type": "integer"},
                    "b": {"title": "B", "type": "integer"},
                },
                "required": ["a", "b"],
                "title": "addArguments",
            },
        },
    }
    assert [tool["function"]["name"] for tool in tools][:3] == ["add", "note", "nap"]


def test_results_answer_the_calls_in_order_with_their_ids_and_names(task: McpTask) -> None:
    calls = [call("nap", {"seconds": 0.1}, "c1"), call("add", {"a": 1, "b": 2}, "c2")]

    async def game() -> Any:
        return (await task.answer(turn("", *calls))).messages

    assert play(task, game) == [
        {"role": "tool", "content": "slept", "tool_call_id": "c1", "name": "nap"},
        {"role": "tool", "content": "3", "tool_call_id": "c2", "name": "add"},
    ]


def test_calls_of_a_turn_run_at_once(task: McpTask) -> None:
    async def game() -> Any:
        began = time.monotonic()
        answer = await task.answer(turn("", *[call("nap", {"seconds": 0.3})] * 8))
        return contents(answer), time.monotonic() - began

    texts, seconds = play(task, game)
    assert texts == ["slept"] * 8
    assert seconds < 1.5


SAYINGS: list[tuple[str, Any, str]] = [
    ("table", {}, '"primes"'),
    ("picture", {}, "[image/png, 102 bytes, left out]"),
    ("add", {"a": "one"}, "validation error"),
    ("fail", {}, "Error executing tool fail"),
    ("refuse", {}, "refuse was not called: there is no such page."),
    ("no_such_tool", {}, "There is no tool 'no_such_tool'."),
]


def test_whatever_the_server_says_of_a_call_the_model_reads(task: McpTask) -> None:
    async def game() -> Any:
        return contents(await task.answer(turn("", *(call(name, arguments) for name, arguments, _ in SAYINGS))))

    for text, (_, _, expected) in zip(play(task, game), SAYINGS, strict=True):
        assert expected in text


def test_a_result_of_200_kb_comes_whole_or_says_how_much_was_cut(task: McpTask) -> None:
    async def game() -> Any:
        texts = []
        for most in (1000, 200_000):
            task.max_result_characters = most
            texts += contents(await task.answer(turn("", call("big", {"characters": 200_000}))))
        return texts

    assert play(task, game) == ["é" * 1000 + "\n[199,000 of 200,000 characters cut off]", "é" * 200_000]


def test_a_call_that_takes_too_long_is_stopped_and_the_connection_goes_on(task: McpTask) -> None:
    task.call_timeout_s = 0.2

    async def game() -> Any:
        turns = [turn("", call("nap", {"seconds": 30})), turn("", call("add", {"a": 1, "b": 2}))]
        return [contents(await task.answer(each)) for each in turns]

    assert play(task, game) == [["nap was stopped: it took longer than 0.2 s."], ["3"]]


def test_only_some_tools_are_offered_where_the_task_says_so(task: McpTask) -> None:
    task.offered = ["add"]
    assert said(task, "note", text="a") == "There is no tool 'note'. The tools are: add."


def test_functions_are_tools_beside_those_of_the_server() -> None:
    def twice(text: str) -> str:
        """Say it twice.

        Args:
            text: What to say.
        """
        return text * 2

    class Both(OverStdio):
        tools = (twice,)

    task = Both()

    async def game() -> Any:
        calls = call("twice", {"text": "a"}), call("add", {"a": 1, "b": 2})
        return contents(await task.answer(turn("", *calls)))

    assert play(task, game) == ["aa", "3"]


def test_a_command_gets_the_variables_that_are_given_and_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "the server of chatenv")
    task = OverStdio()
    assert said(task, "who") == "nobody"
    task = OverStdio()
    task.environment = {"WHO": "a test"}
    assert said(task, "who") == "a test"


# -- connections ---------------------------------------------------------------------------------------------


def test_a_server_that_breaks_down_fails_the_step_which_may_be_tried_again(task: McpTask) -> None:
    async def game() -> Any:
        with pytest.raises(ToolUnavailableError, match="out of order: MCPError: the disk is full"):
            await task.answer(turn("", call("break_down")))
        return contents(await task.answer(turn("", call("add", {"a": 1, "b": 2}))))

    assert play(task, game) == ["3"]


def test_a_lost_connection_fails_the_step_and_the_next_try_connects_anew() -> None:
    task = OverStdio()

    async def game() -> Any:
        with pytest.raises(ToolUnavailableError, match="the connection to the MCP server is lost"):
            await task.answer(turn("", call("nap", {"seconds": 30}), call("die")))
        return contents(await task.answer(turn("", call("add", {"a": 1, "b": 2}))))

    assert play(task, game) == ["3"]


def test_a_server_that_was_down_is_found_again(http: Http) -> None:
    task = McpTask()
    task.server = http.url

    async def game() -> Any:
        http.end()
        for _ in range(2):
            with pytest.raises(ToolUnavailableError, match="the MCP server"):
                await task.answer(turn("", call("add", {"a": 1, "b": 2})))
        http.start()
        return contents(await task.answer(turn("", call("add", {"a": 1, "b": 2}))))

    assert play(task, game) == ["3"]


def test_an_episode_that_is_taken_up_again_connects_when_it_first_needs_to(task: McpTask) -> None:
    assert said(task, "add", opens=False, a=1, b=2) == "3"


def test_an_episode_whose_server_kept_something_ends_with_a_failure_when_the_connection_is_lost() -> None:
    class Stateful(OverStdio):
        reconnects = False

    task = Stateful()

    async def game() -> Any:
        noted = [contents(await task.answer(turn("", call("note", {"text": "a"})))) for _ in range(2)]
        return noted, await task.answer(turn("", call("die")))

    noted, answer = play(task, game)
    assert noted == [["1"], ["2"]]
    assert answer.failure.kind is FailureKind.TOOL
    assert "the connection to the MCP server is lost" in answer.failure.reason
    assert (answer.reward, answer.rewards, list(answer.messages)) == (None, None, [])


def test_and_so_when_it_is_taken_up_by_another_instance() -> None:
    class Stateful(OverStdio):
        reconnects = False

    before, after = Stateful(), Stateful()
    said(before, "note", text="a")
    vars(after).update(vars(before))

    async def game() -> Any:
        return await after.answer(turn("", call("note", {"text": "b"})))

    assert play(after, game, opens=False).failure.kind is FailureKind.TOOL


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (("no-such-command-here",), "cannot be connected to: FileNotFoundError"),
        ((sys.executable, "-c", "import no_such_module"), "its command wrote .*No module named 'no_such_module'"),
        ((sys.executable, "-c", "import sys; sys.stderr.write('x' * 10**7)"), "cannot be connected to"),
        (
            (sys.executable, "-c", "print('hello', flush=True); import time; time.sleep(60)"),
            "did not answer within 2 s",
        ),
        ("http://127.0.0.1:1/mcp", "cannot be connected to"),
        ("not a url", "cannot be connected to"),
    ],
)
def test_what_is_no_server_fails_the_reset(server: Any, said: str) -> None:
    task = McpTask()
    task.server = server
    task.connect_timeout_s = 2.0

    async def game() -> Any:
        with pytest.raises(ToolUnavailableError, match=said):
            await task.open(TaskEpisode())

    began = time.monotonic()
    play(task, game, opens=False)
    assert time.monotonic() - began < 15


def test_without_a_server_the_task_says_so() -> None:
    with pytest.raises(ValueError, match="has no `server`"):
        play(McpTask(), lambda: asyncio.sleep(0))


def test_to_close_ends_the_command() -> None:
    task = OverStdio()

    async def game() -> Any:
        pid = await process_of(task)
        assert is_alive(pid)
        return pid

    assert not is_alive(play(task, game))


def test_a_command_that_does_not_end_by_itself_is_killed() -> None:
    task = OverStdio()

    async def game() -> Any:
        pid = await process_of(task)
        os.kill(pid, signal.SIGSTOP)
        return pid

    assert not is_alive(play(task, game))


def test_a_task_that_never_connected_is_closed_all_the_same() -> None:
    play(OverStdio(), lambda: asyncio.sleep(0), opens=False)


def test_to_be_closed_twice_does_no_harm(task: McpTask) -> None:
    play(task, lambda: task.close(CLOSED))


def test_a_command_ends_with_an_episode_that_is_dropped_without_a_word() -> None:
    async def episode() -> int:
        task = OverStdio()
        await task.open(TaskEpisode())
        return await process_of(task)

    async def dropped() -> bool:
        pid = await episode()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # the connection lives in one
        await asyncio.wait(left, timeout=20)
        return not is_alive(pid)

    assert asyncio.run(dropped())


def test_episodes_that_share_a_connection_share_one_command_until_the_last_is_closed() -> None:
    class Shared(OverStdio):
        is_shared = True

    async def episodes() -> Any:
        tasks = [Shared() for _ in range(5)]
        await asyncio.gather(*(task.open(TaskEpisode()) for task in tasks))
        started = {await process_of(task) for task in tasks}
        noted = [contents(await task.answer(turn("", call("note", {"text": "a"})))) for task in tasks]
        for task in tasks[:4]:
            await task.close(CLOSED)
        noted.append(contents(await tasks[4].answer(turn("", call("note", {"text": "a"})))))
        await tasks[4].close(CLOSED)
        return started, noted

    started, noted = asyncio.run(episodes())
    assert len(started) == 1
    assert noted == [[str(count)] for count in range(1, 7)]
    assert not any(map(is_alive, started))


def test_episodes_that_share_a_lost_connection_share_the_new_one() -> None:
    class Shared(OverStdio):
        is_shared = True

    async def episodes() -> Any:
        tasks = [Shared() for _ in range(3)]
        await asyncio.gather(*(task.open(TaskEpisode()) for task in tasks))
        calls = [call("die"), call("nap", {"seconds": 30}), call("nap", {"seconds": 30})]
        turns = [task.answer(turn("", each)) for task, each in zip(tasks, calls, strict=True)]
        lost = await asyncio.gather(*turns, return_exceptions=True)
        found = await asyncio.gather(*(task.answer(turn("", call("add", {"a": 1, "b": 2}))) for task in tasks))
        started = {await process_of(task) for task in tasks}
        await asyncio.gather(*(task.close(CLOSED) for task in tasks))
        return lost, found, started

    lost, found, started = asyncio.run(episodes())
    assert [type(each).__mro__[1] for each in lost] == [ToolUnavailableError] * 3
    assert [contents(each) for each in found] == [["3"]] * 3
    assert len(started) == 1
    assert not any(map(is_alive, started))


def test_attributes_are_the_state_and_the_connection_is_not_among_them(task: McpTask) -> None:
    task.server = task.server
    said(task, "add", a=1, b=2)
    assert vars(task) == {"server": task.server, "rounds": 1, "has_connected": True}
