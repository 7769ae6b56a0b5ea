"""verl: an agent loop that plays chatenv's episodes. See docs/trainers/verl.md."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.models import ChatAction, Sample, Trajectory
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.checking import check_row
from chatenv_client.trainers.playing import play_async
from chatenv_client.trainers.rollouts import EpisodeFailedError, Room, Server, opening, sound


class ChatEnvAgentLoop(AgentLoopBase):
    """An agent loop for `actor_rollout_ref.rollout.agent.agent_loop_config_path`.

    Args:
        *parts: verl's own, as are `own`.
        target: address of the chatenv server.
        client: more of `Server`, such as `token`.
        attempts: episodes that are played in the place of one that broke, the first included.
        **own: verl's.
    """

    def __init__(
        self, *parts: Any, target: str, client: Mapping[str, Any] | None = None, attempts: int = 3, **own: Any
    ) -> None:
        super().__init__(*parts, **own)
        self.server = Server(target, **client or {})
        self.attempts = attempts

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput | list[AgentLoopOutput]:
        """Play an episode for a row of verl's data: one output for each row to train on.

        Args:
            sampling_params: verl's.
            **row: `raw_prompt` opens the episode, `chatenv` has more keywords of `reset`, `uid` names the group.

        Raises:
            EpisodeFailedError: all attempts broke. verl leaves the sample out where it can.
            ValueError: there are several rows, or a longer prompt than verl has room for, and this trainer takes none;
                or verl has another tokenizer than the server.
        """
        stop_ids = await self.server.stop_ids(self.tokenizer, sampling_params.get("stop_token_ids"))
        options = opening(row.get("raw_prompt", ()), row.get("chatenv"), group=row.get("uid") and str(row["uid"]))
        params = {**sampling_params, "stop_token_ids": stop_ids}
        turns = _Turns(self, params)

        async def play() -> Trajectory:
            nonlocal turns
            turns = _Turns(self, params)
            async with self.server.client() as env:
                return await play_async(env, partial(turns.sample, env), **options)

        trajectory = await sound(play, self.attempts)
        outputs = [self._output(each, trajectory, turns) for each in trajectory.samples()]
        return outputs if "session_id" in row else self._only(outputs)

    def _output(self, row: Sample, trajectory: Trajectory, turns: _Turns) -> AgentLoopOutput:
        prompt, response, mask, logprobs, _ = row.split()
        has_logprobs = not np.isnan(logprobs).any()
        experts = turns.experts.get(row.segment)
        output = AgentLoopOutput(
            prompt_ids=prompt.tolist(),
            response_ids=response.tolist(),
            response_mask=mask.astype(int).tolist(),
            response_logprobs=logprobs.tolist() if has_logprobs else None,
            routed_experts=None if experts is None else experts[: len(row.tokens)],
            reward_score=row.reward,
            num_turns=len(trajectory.messages),
            metrics=AgentLoopMetrics(generate_sequences=turns.seconds),
            extra_fields={
                # verl looks for the first three in every output, and wants the same keys in all of a batch.
                "reward_extra_info": {},
                "turn_scores": [],
                "tool_rewards": [],
                "min_global_steps": turns.versions[0],
                "max_global_steps": turns.versions[1],
                "chatenv_episode": row.episode_id,
                "chatenv_rewards": dict(row.rewards),
            },
        )
        check_row(
            row,
            prompt_ids=output.prompt_ids,
            response_ids=output.response_ids,
            response_mask=output.response_mask,
            response_logprobs=output.response_logprobs,
        )
        return output

    def _only(self, outputs: list[AgentLoopOutput]) -> AgentLoopOutput:
        """The one output that a trainer without TransferQueue takes. It pads, and does not look for room."""
        if len(outputs) > 1:
            what = f"an episode has {len(outputs)} rows, and verl's trainer takes one of each without TransferQueue"
            raise ValueError(f"{what}; use the v1 trainer, or history_policy='append'")
        for what in ("prompt", "response"):
            length, room = len(getattr(outputs[0], f"{what}_ids")), getattr(self.rollout_config, f"{what}_length")
            if length > room:
                raise ValueError(f"the {what} has {length} tokens; raise rollout.{what}_length, which is {room}")
        return outputs[0]


class _Turns:
    """Asks verl's engine for the turns of one episode, and notes what its outputs are to say of them."""

    def __init__(self, loop: ChatEnvAgentLoop, params: dict[str, Any]) -> None:
        self._engine, self._params = loop.server_manager, params
        self._room = Room(loop.rollout_config.response_length, params.get("max_tokens"))
        self.experts: dict[int, Any] = {}
        """Of each segment, as the engine last gave them: for all tokens of the request."""
        self.versions: list[Any] = [None, None]
        """Of the weights: the first and the last."""
        self.seconds = 0.0

    async def sample(self, env: AsyncChatEnv, prompt: Int32Array) -> ChatAction | None:
        """One turn; None: there is no room for it."""
        left = self._room.left(env.observation)
        if left == 0:
            return None
        began = time.perf_counter()
        output = await self._engine.generate(
            request_id=env.episode_id, prompt_ids=prompt.tolist(), sampling_params={**self._params, "max_tokens": left}
        )
        self.seconds += time.perf_counter() - began
        if output.stop_reason in ("abort", "aborted"):
            raise EpisodeFailedError("the engine gave the turn up, and verl drops what it has aborted")
        if output.routed_experts is not None:
            self.experts[env.observation.segment] = output.routed_experts
        said = output.extra_fields
        first, last = (said.get(f"{which}_global_steps", said.get("global_steps")) for which in ("min", "max"))
        self.versions = [first if self.versions[0] is None else self.versions[0], last]
        version = "" if last is None else last if first == last else f"{first}-{last}"
        # verl says `completed` also of what its limit cut off: chatenv sees by the last token which it is.
        return ChatAction(tokens=output.token_ids, logprobs=output.log_probs or None, model_version=version)
