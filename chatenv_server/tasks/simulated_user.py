"""A user that a model plays: it reads the conversation from the other side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from chatenv_server.tasks.endpoint import Endpoint, EndpointError
from chatenv_server.tasks.scores import ending
from chatenv_server.tasks.task import Answer, ModelTurn, Opening, TaskEpisode
from chatenv_server.tasks.tool_results import cut
from chatenv_server.tasks.tool_task import ToolTask
from chatenv_server.tasks.user_functions import called

MOST_SHOWN: Final = 32_768
"""Characters of each text in the metadata."""
NOTHING_SAID: Final = "(The assistant says nothing.)"
_SWAPPED: Final = {"assistant": "user", "user": "assistant"}


class SimulatedUser(ToolTask):
    """A task that talks with the model as a user would. The user is played by another model.

    Subclass it, give it an `endpoint` and a `persona`, and define `score`. The model may have `tools`, as in any
    `ToolTask`. Where the persona depends on the episode, define `begin`, which may set `self.persona`. Needs the extra
    `endpoint`.

    ```python
    class Traveller(SimulatedUser):
        endpoint = Endpoint("gpt-4o-mini")
        persona = "You want to book a train to Bern for tomorrow. When it is booked, say ###STOP###."

        def score(self, turn):
            return {"booked": float("booked" in turn.text)}
    ```

    The user begins, unless the episode opens with something that a user says. It hears what both say; it sees neither
    the model's system prompt, nor its thinking, nor its tools. The episode has terminated when the user says the
    `stop_word`, and is truncated after `max_turns`. In both cases the model's last turn is scored.
    """

    endpoint: Endpoint
    """Where the user's model is found."""
    persona: str = ""
    """System prompt of the user's model: who the user is, what they want, and when to say the stop word."""
    greeting: str = "Hello! How can I help you?"
    """What the user's model is told that the assistant said first, where the user begins."""
    stop_word: str = "###STOP###"
    """Ends the episode, wherever it stands in what the user says. What it is said with is no message."""
    max_turns: int = 16
    """Turns of the model, those that call tools included, after which the episode is truncated."""

    async def open(self, episode: TaskEpisode) -> Opening:
        """Open with what `begin` gives and with the tools; the user speaks if it is their turn."""
        opening = await super().open(episode)
        messages = list(episode.messages if opening.messages is None else opening.messages)
        if messages and messages[-1]["role"] not in ("system", "developer", "assistant"):
            return opening
        reply = await self._reply(messages)
        return dataclasses.replace(opening, messages=[*messages, self._message(reply)])

    async def _spoken(self, turn: ModelTurn) -> Answer:
        if turn.turn_count >= self.max_turns:
            return ending(await called(self.score, turn), truncated=True)
        reply = await self._reply(turn.messages)
        metadata = {"simulated_user": {"persona": cut(self.persona, MOST_SHOWN), "reply": cut(reply, MOST_SHOWN)}}
        if self.stop_word not in reply:
            return Answer(messages=[self._message(reply)], metadata=metadata)
        end = ending(await called(self.score, turn))
        return dataclasses.replace(end, metadata={**(end.metadata or {}), **metadata})

    async def _reply(self, messages: Sequence[Mapping[str, Any]]) -> str:
        prompt = [{"role": "system", "content": self.persona}, *from_the_other_side(messages, self.greeting)]
        return (await self.endpoint.ask(prompt)).text

    def _message(self, reply: str) -> dict[str, Any]:
        said = reply.partition(self.stop_word)[0].strip()
        if not said:
            raise EndpointError("the simulated user said nothing")
        return {"role": "user", "content": said}


def from_the_other_side(messages: Sequence[Mapping[str, Any]], greeting: str) -> list[dict[str, str]]:
    """A conversation as its user sees it: they are the assistant, and the assistant is the user.

    System prompts and results of tools are left out, and so is what an assistant does without a word. The assistant
    speaks first, with the greeting if need be, and last; nobody speaks twice in a row.
    """
    heard: list[dict[str, str]] = []
    for role, text in _said(messages):
        if not heard and role == "assistant":
            heard.append({"role": "user", "content": greeting})
        if heard and heard[-1]["role"] == role:
            heard[-1]["content"] += "\n\n" + text
        else:
            heard.append({"role": role, "content": text})
    if not heard:
        return [{"role": "user", "content": greeting}]
    return heard if heard[-1]["role"] == "user" else [*heard, {"role": "user", "content": NOTHING_SAID}]


def _said(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for message in messages:
        role, text = _SWAPPED.get(message["role"]), _text_of(message.get("content"))
        if role is not None and text:
            yield role, text


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if part.get("type") == "text").strip()
