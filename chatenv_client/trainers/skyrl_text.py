"""SkyRL-Gym's text environment over a chatenv server. The extra `skyrl`.

    skyrl_gym.register("chatenv", entry_point="chatenv_client.trainers.skyrl_text:ChatTextEnv")

SkyRL hands over the text of a turn and renders the prompts itself, so chatenv has state, rewards and ends here, and no
say over tokens. `skyrl.py` has the seam where tokens are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput, ConversationType

from chatenv_client.client import ChatEnv
from chatenv_client.models import ChatAction, StepResult, StopReason
from chatenv_client.trainers.rollouts import opening
from chatenv_client.trainers.texts import tokens_of_turn


class ChatTextEnv(BaseTextEnv):
    """One episode. SkyRL calls it in a thread pool, and closes it only when all went well.

    Args:
        env_config: has the server's `address`; as a mapping or with attributes.
        extras: of the row: `chatenv`, what `reset` takes; `max_turns`, as SkyRL gives it.
    """

    def __init__(self, env_config: Any, extras: Mapping[str, Any]) -> None:
        super().__init__()
        address = env_config["address"] if isinstance(env_config, Mapping) else env_config.address
        self._env = ChatEnv(address)
        self._extras = extras
        self._stop_texts: list[str] = []
        self._rewards: dict[str, float] = {}
        self._is_rewarded = False

    def init(self, prompt: ConversationType) -> tuple[ConversationType, dict[str, Any]]:
        """Open the episode: its messages, and what else is known.

        Raises:
            ChatEnvError: it cannot be opened.
        """
        options = opening(prompt, self._extras.get("chatenv"))
        if "max_turns" in self._extras:
            options.setdefault("max_turns", self._extras["max_turns"])
        observation = self._env.reset(**options).observation
        self._stop_texts = [token.text for token in self._env.server_info().special_tokens if token.stops]
        return list(map(dict, observation.messages)), {"episode_id": observation.episode_id}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Take a turn of the model.

        Raises:
            ChatEnvError: a task, a transform or the server broke; SkyRL has no reward that says so.
            RuntimeError: the episode failed, or is over and nothing in it was rewarded.
        """
        before = self._env.observation
        tokens = tokens_of_turn(self._env, before, self._without_stop(action))
        result = self._env.step(ChatAction(tokens=tokens, stop_reason=StopReason.STOP))
        self.turns += 1
        observation = result.observation
        self._book(result)
        answers = observation.messages[before.conversation.length + 1 :]
        return BaseTextEnvStepOutput(
            observations=[] if result.done else list(map(dict, answers)),
            reward=float(result.reward or 0.0),
            done=result.done,
            metadata={"episode_id": observation.episode_id, "rewards": dict(observation.rewards)},
        )

    def _without_stop(self, action: str) -> str:
        """A turn without the text of the token that ends it, which engines leave in or out."""
        return next((action[: -len(end)] for end in self._stop_texts if end and action.endswith(end)), action)

    def _book(self, result: StepResult) -> None:
        observation = result.observation
        self._is_rewarded |= result.reward is not None
        for name, value in observation.rewards.items():
            self._rewards[name] = self._rewards.get(name, 0.0) + value
        if observation.failure is not None:
            raise RuntimeError(f"episode {observation.episode_id} failed: {observation.failure.reason}")
        if result.done and not self._is_rewarded:
            raise RuntimeError(
                f"episode {observation.episode_id} is over and nothing in it was rewarded, which is no reward of 0; "
                "have its task or a transform reward a turn"
            )

    def get_metrics(self) -> dict[str, Any]:
        """Components of the reward by name, each summed over the episode."""
        return dict(self._rewards)

    def close(self) -> None:
        """Close the episode and the client."""
        self._env.close()
