"""What a server holds: idle, a live episode, and after many came and went. And how long it takes to start."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks import servers
from benchmarks.measure import Figure
from benchmarks.turns import Conversation
from benchmarks.work import Subject, conversation
from chatenv_client import ChatAction, VectorChatEnv, channel_options

EPISODE_TOKENS = 2048
_SAMPLED_TOKENS = 128
_AT_ONCE = 250
_SETTLE_S = 1.0


@dataclass(frozen=True)
class Amount:
    """How much is done."""

    starts: int
    live_episodes: int
    passing_episodes: int


def can_measure() -> bool:
    """Whether memory can be read here."""
    return Path("/proc/self/statm").exists()


def measure(subject: Subject, amount: Amount, run: Executor) -> dict[str, Figure]:
    """Memory and start-up of a server with its defaults."""
    figures = {
        "startup": Figure("start-up", "s"),
        "idle": Figure("idle RSS", "MB"),
        "torch": Figure("torch loaded", "yes=1"),
    }
    for _ in range(amount.starts):
        with servers.chatenv(subject.setting) as server:
            figures["startup"].rounds.append(server.startup_s)
            figures["idle"].rounds.append(server.resident_bytes() / 1e6)
            figures["torch"].rounds.append(float("libtorch" in server.modules()))
    said = conversation(subject, EPISODE_TOKENS // _SAMPLED_TOKENS, _SAMPLED_TOKENS, seed=-4)
    figures["live"] = Figure(f"per live episode of {EPISODE_TOKENS} tokens", "KiB")
    figures["after"] = Figure(f"RSS after {amount.passing_episodes} episodes came and went, against before", "x")
    for name, measured, episodes in (
        ("live", _live, amount.live_episodes),
        ("after", _passing, amount.passing_episodes),
    ):
        # A server of its own for each: memory that others gave back would be taken up unseen.
        with servers.chatenv(subject.setting) as server:
            figures[name].rounds.append(measured(server, said, episodes, run))
    return figures


def _passing(server: servers.Server, said: Conversation, episodes: int, run: Executor) -> float:
    """Memory behind the episodes, against memory before."""
    # Threads, buffers and caches come into being that stay for good.
    run.submit(_play, server.target, said, 2 * _AT_ONCE, close=True).result()
    before = _settled(server)
    run.submit(_play, server.target, said, episodes, close=True).result()
    return _settled(server) / before


def _live(server: servers.Server, said: Conversation, episodes: int, run: Executor) -> float:
    """KiB that each further live episode adds, once there are as many as will be added."""
    # The first ones take up memory that loading the tokenizer gave back.
    run.submit(_play, server.target, said, episodes, close=False).result()
    before = _settled(server)
    run.submit(_play, server.target, said, episodes, close=False).result()
    return (_settled(server) - before) / episodes / 1024


def _settled(server: servers.Server) -> int:
    time.sleep(_SETTLE_S)
    return server.resident_bytes()


def _play(target: str, said: Conversation, episodes: int, *, close: bool) -> None:
    """Play episodes until they hold their tokens, some at once."""
    with grpc.insecure_channel(target, channel_options()) as channel:
        for start in range(0, episodes, _AT_ONCE):
            env = VectorChatEnv(channel, min(_AT_ONCE, episodes - start))
            _fill(env, said)
            if close:
                env.close()


def _fill(env: VectorChatEnv, said: Conversation) -> None:
    results = env.reset(messages=[said.opening])
    for sampled, reply in zip(said.sampled, said.replies, strict=True):
        if len(results[0].observation.stream) >= EPISODE_TOKENS:
            return
        env.step([ChatAction(tokens=sampled)] * len(env))
        results = env.step([reply] * len(env))
