"""A task that answers each turn with what its scenario gives next, in the step of that turn."""

from __future__ import annotations

from collections.abc import Sequence

from chatenv_client.models import Message
from chatenv_server.tasks.task import Answer, ModelTurn, Task


class ScriptedTask(Task):
    """Says what it is told to."""

    def __init__(self) -> None:
        self.meant: Message = {"role": "assistant"}
        """The turn that comes next, as its scenario has it."""
        self.given: Sequence[Message] = ()
        """The messages that answer it."""

    def answer(self, turn: ModelTurn) -> Answer:
        """The messages of the scenario, results of tools under the ids that the turn was read with."""
        return Answer(messages=answering(self.given, self.meant, turn.message))


def answering(given: Sequence[Message], meant: Message, said: Message) -> list[Message]:
    """The messages that follow a turn, their results under the ids that the turn's calls were read with."""
    pairs = zip(meant.get("tool_calls") or [], said.get("tool_calls") or [], strict=False)
    ids = {one["id"]: other["id"] for one, other in pairs}
    return [
        {**message, "tool_call_id": ids[message["tool_call_id"]]} if message.get("tool_call_id") in ids else message
        for message in given
    ]
