"""Health is answered while the longest legal calls are worked on: long texts are encoded outside the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from tests.server.conftest import Launch
from tests.server.test_raw_http2 import health_answered_throughout

LONGEST = 2**20 - 1024
TEXTS = {
    "words": "word and another, " * (LONGEST // 18),
    "one letter": "x" * LONGEST,
    "control tokens": "<|im_end|>" * (LONGEST // 10),
    "emoji": "\N{GRINNING FACE}" * (LONGEST // 4),
}


@pytest.mark.parametrize("name", ["bytes", "qwen2_5"])
def test_health_is_answered_while_the_longest_legal_calls_are_worked_on(
    launch: Launch, conformance_dir: Path, name: str
) -> None:
    tokenizer = name if name == "bytes" else str(conformance_dir / "tokenizers" / name)
    server = launch("--tokenizer", tokenizer)
    with open_channel(server.addresses[0]) as channel, health_answered_throughout(server):
        stub = ChatEnvServiceStub(channel)
        for episode_id, text in enumerate(TEXTS.values()):
            asked = pb.ResetRequest(episode_id=f"{episode_id}", messages=[pb.Message(role="user", content=text)])
            stub.Reset(asked, timeout=50)
        stub.Step(pb.StepRequest(episode_id="0", tokens=[65] * 2_000_000), timeout=50)
        stub.GetState(pb.GetStateRequest(episode_id="0"), timeout=50)
        stub.AuditEpisode(pb.AuditEpisodeRequest(episode_id="1"), timeout=50)
