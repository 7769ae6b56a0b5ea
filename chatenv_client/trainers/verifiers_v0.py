"""verifiers 0.3: episodes of a chatenv server as a `MultiTurnEnv` of `verifiers.legacy`.

Each rollout is an episode with a client of its own, on a channel that all of an event loop share. A rollout that is
cancelled in the middle of a step leaves nothing behind for the next.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import grpc.aio
import verifiers.legacy as vf
from datasets import Dataset
from verifiers.legacy.utils.message_utils import normalize_messages

from chatenv_client._connection import FAREWELL_S, yielding_to
from chatenv_client.aio import AsyncChatEnv
from chatenv_client.channel import open_async_channel
from chatenv_client.models import Message, StepResult
from chatenv_client.trainers.examples import examples_of
from chatenv_client.trainers.playing import BROKEN
from chatenv_client.trainers.speaking import SampledIds, Speaker, as_message, tools_of
from chatenv_client.trainers.verifiers_v0_scoring import LeavingOutFailures, chatenv_reward


class ChatEnvMultiTurnEnv(vf.MultiTurnEnv):
    """The server plays the user, the tools and the judge.

    Args:
        address: of the server.
        seeds: an example for each seed from 0 on. None: one for each row of the server's data.
        reset: options of every reset, such as `task`, `split` and `max_turns`. Limits belong here: a turn after which
            verifiers itself ends the rollout is never answered, and so has no reward.
        token: the server's, where it asks for one.
        rubric: more to reward, beside what the server does.
        **options: of `vf.MultiTurnEnv`.
    """

    rubric: Any

    def __init__(
        self,
        address: str,
        *,
        seeds: int | None = None,
        reset: Mapping[str, Any] | None = None,
        token: str | None = None,
        rubric: Any = None,
        **options: Any,
    ) -> None:
        self.address, self.token, self.reset_options = address, token, dict(reset or {})
        self._channels: WeakKeyDictionary[asyncio.AbstractEventLoop, grpc.aio.Channel] = WeakKeyDictionary()
        played = examples_of(address, token, seeds, self.reset_options)
        examples = [{"prompt": [_NOBODY], "info": json.dumps(each)} for each in played]
        own = vf.Rubric(funcs=[chatenv_reward])
        super().__init__(dataset=Dataset.from_list(examples), rubric=own, **options)
        self.rubric = LeavingOutFailures([self.rubric, *([rubric] if rubric else [])])

    async def setup_state(self, state: vf.State) -> vf.State:
        """Open the episode; its messages are the prompt."""
        env = AsyncChatEnv(self._channel(), token=self.token)
        state["chatenv"] = Speaker(env)
        state["chatenv_rewards"] = {}
        options = {"group": str(state["example_id"]), **self.reset_options, **state["info"]}
        try:
            result = await env.reset(**options)
            tools = [tool.get("function", tool) for tool in tools_of(await env.export())]
        except BROKEN as error:
            raise vf.InfraError(str(error)) from error
        state["prompt"] = _typed(result.observation.messages)
        state["tool_defs"] = self._normalize_tool_defs(tools)
        return state

    async def env_response(self, _messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        """Send the model's turn; gives what answers it."""
        response = state["trajectory"][-1]["response"].message
        tokens = response.tokens
        sampled = tokens and SampledIds(tokens.prompt_ids, tokens.completion_ids, tokens.completion_logprobs)
        try:
            result, answers = await state["chatenv"].say(
                as_message(response.model_dump()), sampled, response.finish_reason
            )
        except BROKEN as error:
            raise vf.InfraError(str(error)) from error
        if result.observation.failure is not None:
            raise vf.InfraError(result.observation.failure.reason)
        _add(state["chatenv_rewards"], result)
        if result.done:
            state["final_env_response"] = _typed(answers)
            state["is_truncated"] = state["is_truncated"] or result.observation.truncated
        return _typed(answers)

    @vf.cleanup
    async def close_episode(self, state: vf.State) -> None:
        """Close the episode, whatever ended the rollout."""
        speaker = state.pop("chatenv", None)
        if speaker is not None:
            state["chatenv_exact"] = speaker.exact_turns / max(1, speaker.turns)
            with yielding_to(state.get("error")):
                await speaker.env.close(timeout_s=FAREWELL_S)

    @vf.teardown
    async def close_channel(self) -> None:
        """Close the channel of this event loop."""
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.close()

    def _channel(self) -> grpc.aio.Channel:
        loop = asyncio.get_running_loop()
        if loop not in self._channels:
            self._channels[loop] = open_async_channel(self.address)
        return self._channels[loop]


def _add(rewards: dict[str, float], result: StepResult) -> None:
    """Add the rewards of a step, its sum under an empty name."""
    gained = {**result.observation.rewards, **({} if result.reward is None else {"": result.reward})}
    for name, value in gained.items():
        rewards[name] = rewards.get(name, 0.0) + value


_NOBODY = {"role": "user", "content": ""}
"""In the place of the opening, which the server knows."""


def _typed(messages: Sequence[Message]) -> vf.Messages:
    return normalize_messages([dict(message) for message in messages])
