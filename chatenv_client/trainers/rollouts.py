"""What adapters share whose trainer runs many rollouts on one event loop, and asks an engine for each turn.

A rollout has a client of its own; all those of an event loop are of one pool. Knows nothing of any trainer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.calls import DEFAULT_TIMEOUT_S
from chatenv_client.channel import DEFAULT_MAX_MESSAGE_BYTES, Tls
from chatenv_client.models import ChatObservation, ResetOptions, Trajectory
from chatenv_client.pool.pool import DEFAULT_PATIENCE_S, EpisodePool
from chatenv_client.trainers.tokenizers import compared_with

_POOLS: Final[dict[asyncio.AbstractEventLoop, dict[Server, EpisodePool]]] = {}
_STOP_IDS: Final[dict[Server, list[int]]] = {}


class EpisodeFailedError(RuntimeError):
    """There is nothing to train on, and the trainer leaves out what raises."""


@dataclass(frozen=True)
class Server:
    """Where episodes are played. It holds no connection, so it can be pickled; arguments as for `EpisodePool`."""

    target: str
    tls: Tls | None = None
    token: str | None = None
    patience_s: float = DEFAULT_PATIENCE_S
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    affinity: bool = False

    def client(self) -> AsyncChatEnv:
        """A client for one episode, of the running event loop's pool, which is opened with the first."""
        for closed in [loop for loop in _POOLS if loop.is_closed()]:
            del _POOLS[closed]
        pools = _POOLS.setdefault(asyncio.get_running_loop(), {})
        if self not in pools:
            pools[self] = EpisodePool(**vars(self))
        return pools[self].client()

    async def stop_ids(self, tokenizer: Any = None, more: Iterable[int] | None = None) -> list[int]:
        """Ids that end a turn, and those given beside. The server is asked once, and its tokenizer compared then.

        Args:
            tokenizer: the trainer's; None: there is none to compare.
            more: ids that end a turn for the trainer.

        Raises:
            ValueError: the trainer has another tokenizer than the server.
        """
        if self not in _STOP_IDS:
            async with self.client() as env:
                _STOP_IDS[self] = (await compared_with(env, tokenizer)).stop_ids
        return sorted({*_STOP_IDS[self], *(more or ())})


def opening(prompt: str | Sequence[Mapping[str, Any]], given: Any = None, **facts: Any) -> ResetOptions:
    """Keywords of `reset` for a row of a trainer's data.

    Args:
        prompt: messages, or what the user says.
        given: keywords as the row has them, in a mapping or as JSON text; None: none. They go before all others. Those
            that are None are left out, as rows of a table have them.
        **facts: what the trainer knows, such as the group.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(each) for each in prompt]
    own = json.loads(given) if isinstance(given, str) else given or {}
    if not isinstance(own, Mapping):
        raise TypeError(f"a row's `chatenv` holds keywords of reset, in a mapping or as JSON text, not {given!r:.99}")
    options = {**({"messages": messages} if prompt else {}), **facts, **own}
    return cast("ResetOptions", {name: value for name, value in options.items() if value is not None})


class Room:
    """How many tokens a turn may have, where the trainer's rows have room for so many after their prompt.

    Args:
        tokens: of a response, its turns and all between them; None: any number.
        a_turn: of a turn; None: any number.
    """

    def __init__(self, tokens: int | None, a_turn: int | None = None) -> None:
        self._tokens, self._a_turn = tokens, a_turn
        self._segment, self._prompt_length = -1, 0

    def left(self, shown: ChatObservation) -> int | None:
        """Tokens that the next turn may have, or 0; None: any number."""
        length = len(shown.stream)
        if shown.segment != self._segment:
            self._segment, self._prompt_length = shown.segment, length
        after = None if self._tokens is None else self._tokens - (length - self._prompt_length)
        return min(
            (max(0, each) for each in (after, self._a_turn, shown.tokens_left) if each is not None), default=None
        )


async def sound(play: Callable[[], Awaitable[Trajectory]], attempts: int) -> Trajectory:
    """A trajectory that can be trained on: where an episode broke, another one is played in its place.

    Raises:
        EpisodeFailedError: none of them can; the message has the reason of the last.
    """
    if attempts < 1:
        raise ValueError(f"attempts is a number of episodes, at least 1, not {attempts}")
    why = ""
    for _ in range(attempts):
        trajectory = await play()
        why = why_unsound(trajectory)
        if not why:
            return trajectory
    raise EpisodeFailedError(f"{why}; {attempts} episodes were tried")


def why_unsound(trajectory: Trajectory) -> str:
    """Why nothing of an episode can be trained on; empty: it can."""
    if trajectory.failure is not None:
        return f"an episode failed ({trajectory.failure.kind}): {trajectory.failure.reason}"
    if not any(segment.loss_mask.any() for segment in trajectory.segments):
        return f"nothing was sampled in episode {trajectory.episode_id!r}"
    return ""
