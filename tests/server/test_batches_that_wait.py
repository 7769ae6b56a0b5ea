"""Several steps of one episode in a batch, which wait for a task or a transform, and which a store keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.models import ChatObservation
from chatenv_server import Answer, ModelTurn, Settings, Task, serve

STEPS = 5


class Replies(Task):
    """Says something after each turn."""

    async def answer(self, turn: ModelTurn) -> Answer:
        return Answer(messages=[{"role": "user", "content": f"{turn.step_count}?"}], reward=1.0)


class Breaks(Task):
    """Fails at the third turn."""

    async def answer(self, turn: ModelTurn) -> Answer:
        if turn.step_count == 3:
            raise RuntimeError("broken")
        return Answer(reward=1.0)


def nothing(observation: ChatObservation) -> ChatObservation:
    return observation


WAITING: dict[str, Callable[[], dict[str, Any]]] = {
    "a task": lambda: {"task": Replies},
    "a transform": lambda: {"open_transform": lambda: nothing},
}


def steps(episode_id: str) -> list[pb.StepRequest]:
    return [pb.StepRequest(episode_id=episode_id, tokens=[97 + index, 257]) for index in range(STEPS)]


def reset(stub: Any, *ids: str) -> None:
    for episode_id in ids:
        stub.Reset(pb.ResetRequest(episode_id=episode_id, messages=[pb.Message(role="user", content="Hi")]))


@pytest.mark.parametrize("waiting", WAITING)
def test_all_steps_of_an_episode_in_a_batch_are_taken_and_kept(waiting: str, tmp_path: Path) -> None:
    settings = Settings(listen=("127.0.0.1:0",), store=f"sqlite:///{tmp_path / 'store.db'}")
    kept: dict[str, list[int]] = {}
    for first in (True, False):
        with serve(settings, **WAITING[waiting]()) as server, grpc.insecure_channel(server.target) as channel:
            stub: Any = ChatEnvServiceStub(channel)
            if first:
                reset(stub, "a", "b")
                mixed = [step for pair in zip(steps("a"), steps("b"), strict=True) for step in pair]
                results = stub.BatchStep(pb.BatchStepRequest(steps=mixed), timeout=30).results
                counts = [result.response.observation.step_count for result in results]
                assert counts == [count for count in range(1, STEPS + 1) for _ in "ab"]
            for episode_id in "ab":
                state = stub.GetState(pb.GetStateRequest(episode_id=episode_id), timeout=10)
                assert state.step_count == STEPS
                assert list(state.tokens) == kept.setdefault(episode_id, list(state.tokens))


def test_a_step_that_fails_in_a_batch_leaves_those_before_and_after_it(tmp_path: Path) -> None:
    settings = Settings(listen=("127.0.0.1:0",), store=f"sqlite:///{tmp_path / 'store.db'}")
    with serve(settings, task=Breaks) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = ChatEnvServiceStub(channel)
        reset(stub, "a")
        results = stub.BatchStep(pb.BatchStepRequest(steps=steps("a")), timeout=30).results
        assert [result.HasField("response") for result in results] == [True, True, False, False, False]
        assert stub.GetState(pb.GetStateRequest(episode_id="a"), timeout=10).step_count == 2
        assert stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id="a"), timeout=10).was_live
