"""Episodes that came and went leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from tests.machine import resident_bytes
from tests.server.conftest import Launch

AT_ONCE = 250
EPISODES = 10_000
TOLERATED_GROWTH_BYTES = 16 * 2**20
"""An allocator keeps some, and 8,192 ends are remembered. Ten thousand episodes would take 80 MiB or more."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is read from /proc, which is Linux's"
)


def play(stub: ChatEnvServiceStub, episodes: int) -> None:
    """Opens episodes, some at once, samples a turn in each, and closes them."""
    question = pb.Message(role="user", content="What is 2 + 3? " * 10)
    resets = pb.BatchResetRequest(resets=[pb.ResetRequest(messages=[question])] * AT_ONCE)
    for _ in range(episodes // AT_ONCE):
        ids = [result.response.observation.episode_id for result in stub.BatchReset(resets).results]
        steps = [pb.StepRequest(episode_id=episode_id, tokens=[65] * 200) for episode_id in ids]
        stub.BatchStep(pb.BatchStepRequest(steps=steps))
        closing = [stub.CloseEpisode.future(pb.CloseEpisodeRequest(episode_id=episode_id)) for episode_id in ids]
        assert all(call.result().was_live for call in closing)


@pytest.mark.timeout(300)
def test_memory_is_flat_over_ten_thousand_episodes(launch: Launch) -> None:
    server = launch()
    with open_channel(server.addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        play(stub, EPISODES // 5)  # threads and buffers come into being that stay
        before = resident_bytes(server.process.pid)
        play(stub, EPISODES)
        assert resident_bytes(server.process.pid) - before < TOLERATED_GROWTH_BYTES
        held = stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (held.live_episodes, held.live_tokens) == (0, 0)
