"""TRL's `environment_factory` of a task's tools: TRL runs the conversation, chatenv runs the tools and scores.

    from chatenv_client.trainers.trl_tools import environment_factory, say_last_words

    factory = environment_factory("localhost:50051")
    trainer = GRPOTrainer(..., environment_factory=factory, reward_funcs=say_last_words)

The tokens are TRL's on this way. `trl.py` is the way on which they are chatenv's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from chatenv_client.client import ChatEnv
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import ChatAction, Failure, ResetOptions, StopReason
from chatenv_client.trainers.playing import BROKEN, failure_of
from chatenv_client.trainers.speaking import tools_of
from chatenv_client.trainers.texts import turn_of
from chatenv_client.trainers.tool_methods import method_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TAKEN: Final = ("reset", "get_reward")


def environment_factory(target: str, **options: Unpack[ResetOptions]) -> Callable[[], EpisodeEnvironment]:
    """The `environment_factory` of a GRPOTrainer, with the tools that the task opens its episodes with.

    Args:
        target: address of a server, which is asked for the tools now.
        **options: of the reset of every episode. A row's columns of these names take their place.

    Raises:
        ValueError: the task has no tools, or one has a name that TRL takes for another thing.
        ChatEnvError: no episode could be opened.
    """
    with ChatEnv(target) as env:
        env.reset(**options)
        schemas = [tool["function"] for tool in tools_of(env.export())]
        stops = env.server_info().stop_ids
    if not schemas:
        raise ValueError("the task opens its episodes without tools; use chatenv_client.trainers.trl for it")
    if taken := [each["name"] for each in schemas if each["name"] in _TAKEN or each["name"].startswith("_")]:
        raise ValueError(f"TRL takes methods of these names for no tools: {', '.join(taken)}; give the tools others")
    fields = {"_target": target, "_options": options, "_stops": stops}
    tools = {each["name"]: method_of(each) for each in schemas}
    return type("EpisodeEnvironment", (EpisodeEnvironment,), {**fields, **tools})


def say_last_words(completions: Sequence[Any], environments: Sequence[EpisodeEnvironment], **_: Any) -> list[None]:
    """Let tasks score what the model says in the end, which TRL's environments are not told. For `reward_funcs`.

    It gives no reward of its own: the environment's has it all. Where TRL cut a rollout off at calls, nothing is said:
    those are no last words.
    """
    for completion, environment in zip(completions, environments, strict=True):
        last = completion[-1] if completion else {"role": "nobody"}
        if last["role"] == "assistant" and not last.get("tool_calls"):
            environment._say({"role": "assistant", "content": last.get("content") or ""})
    return [None] * len(completions)


class EpisodeEnvironment:
    """An episode as TRL's environment, with a method for each tool. TRL uses it again and again."""

    _target: str
    _options: ResetOptions
    _stops: Sequence[int]

    def __init__(self) -> None:
        self._env = ChatEnv(self._target)
        self._failure: Failure | None = None
        self._rewards: list[float] = []
        self._is_over = False

    def reset(self, **row: Any) -> str | None:
        """Begin an episode, with the columns of the row that are options of a reset; what its opening asks."""
        self._failure, self._rewards, self._is_over = None, [], False
        own = {name: row[name] for name in ResetOptions.__annotations__ if row.get(name) is not None}
        seed = zlib.crc32(json.dumps(row, sort_keys=True, default=str).encode())  # one for all of a group
        options: Any = {"seed": seed, **self._options, **own}
        try:
            observation = self._env.reset(**options).observation
        except BROKEN as error:
            self._fail(error)
            return None
        asked = [str(message["content"]) for message in observation.messages if message["role"] == "user"]
        return "\n".join(asked) or None

    def get_reward(self) -> float | None:
        """Sum of what the episode has earned. None: something broke in it, or nothing was rewarded."""
        return None if self._failure is not None or not self._rewards else sum(self._rewards)

    def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Run a tool; its result as a text."""
        call = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
        said = self._say({"role": "assistant", "content": "", "tool_calls": [call]})
        return "\n".join(str(message["content"]) for message in said)

    def _say(self, message: Any) -> list[Any]:
        """Take a turn of the model, as the template writes it: what was sampled is TRL's alone to know.

        What the task says to it is returned. Nothing is said once the episode is over.
        """
        if self._failure is not None or self._is_over:
            return []
        before = self._env.observation.conversation.length
        try:
            tokens = turn_of(self._env.render([message]), self._env.observation, self._stops)
            result = self._env.step(ChatAction(tokens, stop_reason=StopReason.STOP, message=message))
        except BROKEN as error:
            self._fail(error)
            return []
        self._is_over, self._failure = result.done, result.observation.failure
        if result.reward is not None:
            self._rewards.append(result.reward)
        return result.observation.conversation.since(before + 1)

    def _fail(self, error: ChatEnvError) -> None:
        reason, kind = failure_of(error)
        self._failure = Failure(kind, reason)
