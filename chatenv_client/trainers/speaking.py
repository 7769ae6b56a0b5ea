"""Turns of a model that is asked by messages, as chat APIs are: what it said becomes a sampled turn of the episode.

Where the caller has the ids that were sampled, after the very prompt that chatenv has, they are sent. Elsewhere the
message is, with the ids that the chat template would write for it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from chatenv_client._generated.chatenv_pb2 import EpisodeSnapshot
from chatenv_client.aio import AsyncChatEnv
from chatenv_client.models import ChatAction, Message, StepResult, StopReason
from chatenv_client.models.stop_reason import as_stop_reason
from chatenv_client.trainers.texts import turn_of

ANOTHER_PROMPT: Final = (
    "the model was asked with another prompt than chatenv has, so its turn is sent as the chat template writes it, and "
    "the episode's tokens are not those that were sampled; render prompts with "
    "chatenv_server.renderers.ChatEnvRenderer, and see docs/trainers/verifiers.md"
)


class SampledIds(NamedTuple):
    """What an engine says of the ids of a turn."""

    prompt: Sequence[int]
    """All that stood before it."""
    completion: Sequence[int]
    logprobs: Sequence[float] | None = None


class Speaker:
    """One episode, played by messages. Its `exact_turns` of `turns` were sent as they were sampled.

    Args:
        env: a client whose episode is open. It stays open.
    """

    def __init__(self, env: AsyncChatEnv) -> None:
        self.env = env
        self._stop_ids: frozenset[int] | None = None
        self.turns = 0
        self.exact_turns = 0

    async def say(
        self, message: Message, sampled: SampledIds | None = None, finish_reason: str | None = None
    ) -> tuple[StepResult, list[Message]]:
        """Send a turn of the model; gives the result, and the messages that answer it.

        Args:
            message: the assistant's, as the API gave it. Results of tools get the ids of its calls.
            sampled: its ids, where they are known.
            finish_reason: the engine's word for why it stopped.

        Raises:
            ChatEnvError: as `AsyncChatEnv.step`.
        """
        before, reason = self.env.observation, _reason_of(finish_reason)
        is_exact = sampled is not None and before.token_ids.tolist() == list(sampled.prompt)
        if sampled is not None and not is_exact:
            warnings.warn(ANOTHER_PROMPT, RuntimeWarning, stacklevel=2)
        if sampled is not None and is_exact:
            logprobs = list(sampled.logprobs) if sampled.logprobs else None
            action = ChatAction(tokens=list(sampled.completion), logprobs=logprobs, stop_reason=reason)
        else:
            action = await self._as_written(message, is_cut=reason is StopReason.LENGTH)
        result = await self.env.step(action)
        self.turns += 1
        self.exact_turns += is_exact
        own, *answers = result.observation.conversation.since(before.conversation.length)
        return result, _with_ids_of(message, own, answers)

    async def _as_written(self, message: Message, *, is_cut: bool) -> ChatAction:
        """The turn as the template writes it, through the token that ends it, or before that where it was cut off."""
        if self._stop_ids is None:
            self._stop_ids = frozenset((await self.env.server_info()).stop_ids)
        turn = turn_of(await self.env.render([message]), self.env.observation, self._stop_ids)
        if is_cut and turn[-1:] and turn[-1] in self._stop_ids:
            turn.pop()
        return ChatAction(tokens=turn, stop_reason=StopReason.LENGTH if is_cut else StopReason.STOP, message=message)


def _reason_of(finish_reason: str | None) -> StopReason | None:
    """What an API's word means here. A turn that was given up counts as cut off: nobody goes on with it."""
    reason = None if finish_reason is None else as_stop_reason(finish_reason)
    return StopReason.LENGTH if reason is StopReason.ABORT else reason


def _with_ids_of(message: Message, own: Message, answers: Sequence[Message]) -> list[Message]:
    """The answers, with results that name the calls as the API does, and not as chatenv read them."""
    read, given = ([call.get("id") for call in each.get("tool_calls") or ()] for each in (own, message))
    names = dict(zip(read, given, strict=False))
    return [
        {**answer, "tool_call_id": str(names.get(answer["tool_call_id"], answer["tool_call_id"]))}
        if answer.get("tool_call_id")
        else answer
        for answer in answers
    ]


def tools_of(exported: EpisodeSnapshot) -> list[dict[str, Any]]:
    """JSON schemas of the tools that an episode has, those of its task included."""
    written = exported.entries[0].opened.tools_json
    tools: list[dict[str, Any]] = json.loads(written) if written else []
    return tools


def as_message(given: Mapping[str, Any]) -> Message:
    """A message of an API as chatenv has it: no keys without a value, calls with their arguments as objects.

    What a model wrote as arguments may be anything. A call whose arguments are no object stays text.
    """
    message: dict[str, Any] = {"role": given["role"], "content": given.get("content") or ""}
    message |= {key: given[key] for key in ("reasoning_content", "tool_call_id") if given.get(key)}
    for call in given.get("tool_calls") or ():
        function = {"name": call["name"], "arguments": _object_of(call["arguments"])}
        if function["arguments"] is None:
            message["content"] += json.dumps({**function, "arguments": call["arguments"]})
        else:
            calls = message.setdefault("tool_calls", [])
            calls.append({"id": call["id"], "type": "function", "function": function})
    made: Message = message  # type: ignore[assignment]
    return made


def _object_of(arguments: str) -> dict[str, Any] | None:
    try:
        loaded = json.loads(arguments)
    except ValueError:
        return None
    return loaded if isinstance(loaded, dict) else None
