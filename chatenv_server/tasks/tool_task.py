"""A task whose model calls tools: Python functions that run in the server, before its Step is answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from chatenv_server.tasks.prompts import opening_messages
from chatenv_server.tasks.scores import Score, ending
from chatenv_server.tasks.task import Answer, ModelTurn, Opening, Task, TaskEpisode
from chatenv_server.tasks.tool import Tool, ToolFunction, by_name
from chatenv_server.tasks.tool_calls import CallLimits, results_of
from chatenv_server.tasks.user_functions import called


class ToolTask(Task):
    """A task whose model calls tools until it is done; then it is scored, and the episode has terminated.

    Subclass it, give it `tools`, and define `score`; define `begin` where the task makes its own problem.

    ```python
    def add(a: float, b: float) -> float:
        \"\"\"Add two numbers.

        Args:
            a: The first number.
            b: The second number.
        \"\"\"
        return a + b

    class Sums(ToolTask):
        tools = (add,)

        def score(self, turn):
            return {"right": float(str(turn.row["sum"]) in turn.text)}
    ```

    The calls of a turn run before its Step is answered: those of `async` tools at once, those of plain ones in order,
    in threads, so that they hold up no other episode. The results become tool messages, in the order of the calls. An
    unknown tool, arguments that do not fit, and whatever a tool raises become one that says so: the model may try
    again. Only `ToolUnavailableError` fails the step. A plain tool that overran cannot be stopped, and goes on in its
    thread.

    A turn without a call is scored. So is one that calls after `max_rounds` rounds; its calls are not run, and the
    episode is truncated.

    Attributes of an instance have to be JSON, since they are its state. Tools that change it are methods: functions
    that take `self`, listed in `tools`.
    """

    __slots__ = ("_own_tools",)  # beside the attributes, which are the state

    tools: Sequence[ToolFunction] = ()
    """Functions, plain or `async`, with a docstring that describes each argument under `Args:`. What they return is
    the result: a text, or anything that JSON can hold."""
    max_rounds: int = 16
    """Turns of an episode whose calls are run."""
    max_calls: int = 16
    """Calls of a turn that are run."""
    call_timeout_s: float = 30.0
    """Seconds that each call may take; 0: any. Keep it below the server's `--task-timeout`."""
    max_result_characters: int = 16_384
    """Of each result. What is longer is cut off, and the message says how much."""

    rounds: int = 0
    """Turns so far whose calls were run."""
    _tools_of_class: Mapping[str, Tool] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Find out now whether the class's tools have schemas, and not in the first episode."""
        super().__init_subclass__(**keywords)
        cls._tools_of_class = by_name(cls.tools)

    def __init__(self, tools: Sequence[ToolFunction] | None = None, /) -> None:
        """Make the task of an episode.

        Args:
            tools: in the place of the class's, for a subclass that makes them of its own arguments.

        Raises:
            ValueError: no schema can be made of one of them, or two have the same name.
        """
        if tools is not None:
            self._own_tools = by_name(tools)

    def begin(self, episode: TaskEpisode) -> Opening | Awaitable[Opening | None] | None:
        """How the episode opens, the tools apart; plain or `async`. None: as the caller gave it.

        Where it is not defined, with the caller's messages, or with those of the row's `prompt` if there are none.
        """
        messages = opening_messages(episode)
        return None if messages is None else Opening(messages=messages)

    def score(self, turn: ModelTurn) -> Score | Answer | Awaitable[Score | Answer | None] | None:  # noqa: ARG002
        """Score the last turn, which calls no tool; plain or `async`. None: no reward.

        Returns:
            The reward, or its components by name: the episode has terminated. An `Answer` goes as it is, so it may also
            say something and let the model go on.
        """
        return None

    async def open(self, episode: TaskEpisode) -> Opening:
        """Open with what `begin` gives, and with the tools."""
        tools = await self._ready_tools()
        opening = await called(self.begin, episode) or Opening()
        return dataclasses.replace(opening, tools=[tool.schema for tool in tools.values()]) if tools else opening

    async def answer(self, turn: ModelTurn) -> Answer:
        """Run the calls of the turn, or score it."""
        calls = turn.message.get("tool_calls")
        if not calls:
            return await self._spoken(turn)
        if self.rounds >= self.max_rounds:
            return ending(await called(self.score, turn), truncated=True)
        self.rounds += 1
        limits = CallLimits(self.max_calls, self.call_timeout_s, self.max_result_characters)
        return Answer(messages=await results_of(calls, await self._ready_tools(), limits))

    async def _spoken(self, turn: ModelTurn) -> Answer:
        """The answer to a turn that calls no tool."""
        return ending(await called(self.score, turn))

    async def _ready_tools(self) -> Mapping[str, Tool]:
        """The tools by name, ready to be called."""
        tools: Mapping[str, Tool] = getattr(self, "_own_tools", self._tools_of_class)
        # Nothing keeps a bound one: a task that nobody has any more is to go at once.
        return {name: tool.of(self) for name, tool in tools.items()}
