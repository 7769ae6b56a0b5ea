"""A step whose answer is lost on the way is answered again: through a proxy that cuts the line at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from chatenv_client import ChatEnv, StepResult, UnavailableError
from tests.contract.conftest import Sampler

HELLO = {"role": "user", "content": "Hello!"}


class CuttingProxy:
    """Forwards TCP connections. When armed, it cuts one line as soon as the server has done what was asked."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._done: Callable[[], bool] | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut_when(self, done: Callable[[], bool]) -> None:
        """Hold back what the server sends from now on, and cut the line once `done` says that the work is done."""
        self._done = done

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for pair in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self._done is not None:
                    self._hold_back_and_cut(self._done)
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()

    def _hold_back_and_cut(self, done: Callable[[], bool]) -> None:
        while not done():
            threading.Event().wait(0.005)
        self._done = None
        self.cuts += 1


@pytest.fixture
def proxy(target: str) -> Iterator[CuttingProxy]:
    if ":" not in target or "/" in target:
        pytest.skip(f"{target} is no host:port that a proxy could stand before")
    proxy = CuttingProxy(target)
    yield proxy
    proxy.close()


def answer_to(client: ChatEnv, action: Any) -> StepResult:
    """Asks until it is answered: a line that was cut may take a moment to be seen as cut."""
    while True:
        with contextlib.suppress(UnavailableError):
            return client.step(action)


def test_the_client_asks_again_by_itself_and_the_step_applies_once(
    env: ChatEnv, proxy: CuttingProxy, sample: Sampler
) -> None:
    with ChatEnv(proxy.address) as unlucky:
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        script: list[Any] = [sample(), HELLO, sample()]
        for index, action in enumerate(script):
            env.resume(episode_id)
            proxy.cut_when(lambda count=index + 1: env.state().step_count == count)  # type: ignore[misc]
            result = unlucky.step(action)
            assert result.observation.step_count == index + 1
            assert result.observation.token_ids.tolist() == env.state().token_ids.tolist()
        assert proxy.cuts == 3


def test_who_asks_again_by_hand_is_answered_from_the_record(env: ChatEnv, proxy: CuttingProxy, sample: Sampler) -> None:
    action = sample()
    with grpc.insecure_channel(proxy.address, [("grpc.enable_retries", 0)]) as channel:
        unlucky = ChatEnv(channel)
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        env.resume(episode_id)
        proxy.cut_when(lambda: env.state().step_count == 1)
        with pytest.raises(UnavailableError):
            unlucky.step(action)
        assert answer_to(unlucky, action).observation.step_count == 1
        assert answer_to(unlucky, HELLO).observation.token_ids.tolist() == env.state().token_ids.tolist()


def test_a_reward_and_a_failure_whose_answers_are_lost_are_set_once(
    env: ChatEnv, proxy: CuttingProxy, sample: Sampler
) -> None:
    with ChatEnv(proxy.address) as unlucky:
        episode_id = unlucky.reset(messages=[HELLO]).observation.episode_id
        unlucky.step(sample())
        env.resume(episode_id)
        proxy.cut_when(lambda: env.trajectory().reward == 0.5)
        assert unlucky.set_reward({"judge": 0.5}, step=1).reward == 0.5
        proxy.cut_when(lambda: env.trajectory().failure is not None)
        assert unlucky.fail("the engine died").reason == "the engine died"
        assert proxy.cuts == 2
        assert env.trajectory().turns[1].rewards == {"judge": 0.5}
