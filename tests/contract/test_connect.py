"""`connect`: what plays in this process is used as a server is. That it plays the same, the other files say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from typing import Any

import pytest

from chatenv_client import (
    ChatAction,
    ChatEnv,
    ChatObservation,
    EpisodePool,
    TaskError,
    Tls,
    VectorChatEnv,
    connect,
)

pytest.importorskip("chatenv_server.running.in_process", reason="no server is installed")

from chatenv_server import Answer, ModelTurn, Task, TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

HELLO = {"role": "user", "content": "Hello!"}
YES = ChatAction(tokens=[*b"Yes", 257])


class Repeats(Task):
    """Says what the row says."""

    def answer(self, turn: ModelTurn) -> Answer:
        """Says it."""
        return Answer(messages=[{"role": "user", "content": (turn.row or {}).get("says", turn.text)}], reward=1.0)


class Breaks(Task):
    """Cannot answer."""

    def answer(self, _: ModelTurn) -> Answer:
        """Raises."""
        raise ZeroDivisionError("of its own")


def test_an_address_leads_to_a_server(target: str) -> None:
    with connect(target, timeout_s=30) as env:
        assert type(env) is ChatEnv
        assert env.reset(messages=[HELLO]).observation.messages == [HELLO]


def test_a_task_its_rows_and_settings_are_given_as_they_are() -> None:
    with connect("local:", task=Repeats, rows=[{"says": "Again!"}], system_prompt="Be brief.", max_turns=1) as env:
        assert env.reset(messages=[HELLO], row=0).observation.messages[0]["content"] == "Be brief."
        result = env.step(YES)
        assert (result.reward, result.done) == (1.0, True)
        assert env.server_info().tasks == ("Repeats",)
        assert [row.index for row in env.list_rows()] == [0]


def test_several_environments_share_an_engine_and_nothing_else() -> None:
    engine = TokenEngine.load(ByteTokenizer())
    with connect("local:", engine=engine) as one, connect("local:", engine=engine) as other:
        one.reset(episode_id="same", messages=[HELLO])
        other.reset(episode_id="same")
        assert one.state().history_messages == [HELLO]
        assert other.state().history_messages == []


def test_a_class_of_transforms_gives_each_episode_its_own() -> None:
    class Counts:
        def __init__(self) -> None:
            self.seen = 0

        def __call__(self, observation: ChatObservation) -> ChatObservation:
            self.seen += 1
            observation.metadata["seen"] = self.seen
            return observation

    with connect("local:", transform=Counts) as env:
        seen = []
        for _ in range(2):
            env.reset()
            seen.append(env.step(HELLO).observation.metadata["seen"])
    assert seen[0] == seen[1]


def test_what_a_task_raised_is_seen_where_it_came_from() -> None:
    with connect("local:", task=Breaks) as env:
        env.reset(messages=[HELLO])
        with pytest.raises(TaskError) as caught:
            env.step(YES)
    assert "ZeroDivisionError: of its own" in "".join(traceback.format_exception(caught.value))


def test_a_fork_goes_on_after_its_origin_was_closed() -> None:
    env = connect("local:")
    env.reset(messages=[HELLO])
    (fork,) = env.fork()
    env.close()
    with fork:
        assert fork.step(YES).observation.step_count == 1


@pytest.mark.parametrize(
    ("target", "options", "error", "says"),
    [
        ("localhost:1", {"task": Repeats}, TypeError, "given at its start"),
        ("local:", {"tls": Tls()}, ValueError, "leave them out"),
        ("local:", {"token": "secret"}, ValueError, "leave them out"),
        ("local:", {"max_turn": 3}, TypeError, "max_turn"),
        ("local:", {"max_turns": -1}, ValueError, "max-turns"),
        ("local:", {"task": int}, TypeError, "no subclass"),
        ("local:", {"transform": 3}, TypeError, "a transform"),
        ("local:/no/such/folder", {}, ValueError, "cannot be loaded"),
    ],
)
def test_what_cannot_be_is_refused(target: str, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        connect(target, **options)


@pytest.mark.parametrize("target", ["local:", "local:Qwen/Qwen2.5-0.5B-Instruct"])
def test_the_other_clients_say_who_takes_such_a_target(target: str) -> None:
    async def pool() -> None:
        EpisodePool(target)

    for open_client in (lambda: ChatEnv(target), lambda: VectorChatEnv(target, 2), lambda: asyncio.run(pool())):
        with pytest.raises(ValueError, match="is for `connect`"):
            open_client()


def test_without_the_server_installed_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['jinja2'] = None; import chatenv_client; chatenv_client.connect('local:')"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "pip install 'chatenv-rl[server]'" in finished.stderr.splitlines()[-1]


def test_a_client_of_servers_never_loads_one(target: str) -> None:
    program = f"""
import sys, chatenv_client
with chatenv_client.connect({target!r}) as env:
    env.reset()
assert not any(name.startswith("chatenv_server") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
