"""The peer's own client, and one round of load with it. Imported only where openenv is installed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from openenv.core import EnvClient
from openenv.core.client_types import StepResult

from benchmarks.turns import Conversation
from chatenv_client.tokens import Int32Array


@dataclass
class _Observation:
    messages: list[dict[str, str]]
    tokens: Int32Array


class _PeerEnv(EnvClient[dict[str, Any], _Observation, dict[str, Any]]):  # type: ignore[misc]
    def _step_payload(self, action: dict[str, Any]) -> dict[str, Any]:
        return action

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[_Observation]:
        shown = payload["observation"]
        tokens = np.array(shown["tokens"], dtype=np.int32)
        return StepResult(_Observation(shown["messages"], tokens), payload.get("reward"), payload.get("done", False))

    def _parse_state(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


async def play(target: str, said: Sequence[Conversation], *, counts_resets: bool = True) -> float:
    """Seconds that all episodes take at once, each on its own WebSocket, which is open when the clock starts."""
    clients = [_PeerEnv(base_url=f"http://{target}") for _ in said]
    await asyncio.gather(*(client.connect() for client in clients))
    began = time.perf_counter()
    await asyncio.gather(*(client.reset() for client in clients))
    if not counts_resets:
        began = time.perf_counter()
    await asyncio.gather(*map(_play_one, clients, said))
    took = time.perf_counter() - began
    await asyncio.gather(*(client.close() for client in clients))
    return took


async def _play_one(client: _PeerEnv, said: Conversation) -> None:
    await client.step({"message": said.opening})
    for sampled, reply in zip(said.sampled, said.replies, strict=True):
        await client.step({"tokens": sampled.tolist()})
        await client.step({"message": reply})
