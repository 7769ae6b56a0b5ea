"""What travels over OpenEnv's protocol: the action, observation and state of a chat, as OpenEnv's own example has them.

Fields hold anything, so that what is wrong is told by a sentence: OpenEnv's server tells of a wrong type only that the
message is invalid. `/schema` shows the types that are meant.
"""

from __future__ import annotations

from typing import Any

from openenv.core.env_server.types import Action, Observation, State
from pydantic import ConfigDict, Field

_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_OBJECT = {"type": "object"}
_OBJECTS = {"type": "array", "items": _OBJECT}
_TEXT = {"type": "string"}


class ChatAction(Action):
    """A turn: sampled tokens, or messages. `metadata` is that of the observation that it follows on."""

    model_config = ConfigDict(extra="allow")  # unknown fields are refused by their names later

    tokens: Any = Field(None, json_schema_extra=_INTEGERS, description="Ids as sampled, the stop token included")
    logprobs: Any = Field(None, json_schema_extra=_NUMBERS, description="One for each of the tokens")
    stop_reason: Any = Field(None, json_schema_extra=_TEXT, description="Why the sampler stopped, in its own word")
    model_version: Any = Field(None, json_schema_extra=_TEXT, description="Weights that sampled")
    message: Any = Field(None, json_schema_extra=_OBJECT, description="In place of tokens: a chat message")
    messages: Any = Field(None, json_schema_extra=_OBJECTS, description="In place of tokens: chat messages")


class ChatObservation(Observation):
    """The whole conversation after a turn. `metadata` has the episode_id and step_index that the next action gives."""

    messages: list[dict[str, Any]] = Field(default_factory=list, description="All messages")
    tokens: list[int] = Field(default_factory=list, description="The exact stream: the prompt of the next turn")


class ChatState(State):
    """The whole episode."""

    history_messages: list[dict[str, Any]] = Field(default_factory=list, description="All messages")
    history_tokens: list[list[int]] = Field(default_factory=list, description="The tokens of each message")
