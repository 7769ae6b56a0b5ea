"""What the tails of a template depend on, found out by comparing them after different conversations.

Asked for one episode's options: with tools or without, under its template arguments, with the generation prompt or
without. What holds without tools need not hold with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from chatenv_server.engine.dependencies import Dependencies
from chatenv_server.engine.outlines import outline_of
from chatenv_server.engine.probe_heads import (
    DEEPER_HEADS,
    EXCHANGES,
    LONGER_HEADS,
    ODD_HEADS,
    USUAL_EXCHANGES,
    Exchange,
    Messages,
    spoken_heads,
)
from chatenv_server.engine.probe_messages import (
    PROBE_CLOCK,
    SENTINEL,
    assistant,
    calling,
    tool_result,
    user,
)
from chatenv_server.engine.probe_renders import ProbeRenders
from chatenv_server.engine.template import clock_at

_SPEECH: Final = 'Zq7 says at length, (in brackets): "12.5%"!\n\n- {"a": [1, 2]} <b>'
"""A text unlike the letters of an outline."""
_THOUGHT: Final = "Zq7xR1"
_LAST: Final = "Zq7xL5sT"
"""Ends the last message of every head."""
_MOST_PAIRS: Final = 6


class _View(NamedTuple):
    """What the engine sees of a turn and what follows it."""

    exact: bool
    """The template writes head and prompt again as it wrote them before the turn."""
    follows: bool
    """It does so at least with the end of them, from the last message on, where it writes that message."""
    before: str
    """What the template writes of the turn up to the sentinel, where it follows its prompt."""
    after: str
    """What stands after the turn."""


_Views = Mapping[int, _View | None]
"""What it sees of the exchanges that were tried, by number; None where the template rejects or hides one."""


def find_dependencies(renders: ProbeRenders, *, asks: bool) -> Dependencies:
    """Find out what tails depend on.

    Args:
        renders: under the options of an episode; its tools, if it has any, are stood in for by the probe's own.
        asks: whether the model is asked to speak.
    """
    return _TailProbe(renders, asks).run()


class _TailProbe:
    def __init__(self, renders: ProbeRenders, asks: bool) -> None:
        self._renders = renders
        self._asks = asks
        self._shallow: _Views | None = None

    def run(self) -> Dependencies:
        needs_tools = self._needs_tools()
        if not needs_tools:
            self._renders = replace(self._renders, variables={**self._renders.variables, "tools": None})
        self._shallow = self._views([user()])
        needs_skeleton = self._needs_skeleton()
        under_system = needs_skeleton or self._needs_skeleton_under_system()
        needs_texts = under_system and self._needs_texts()
        forgets_late = self._forgets_late()
        return Dependencies(
            system=self._needs_system(),
            tools=needs_tools,
            clock=self._needs_clock(),
            skeleton=needs_skeleton,
            skeleton_under_system=under_system,
            texts=needs_texts,
            rounds_are_alike=under_system and not needs_texts and self._rounds_are_alike(),
            forgets=forgets_late or self._forgets_waiting(),
            forgets_late=forgets_late,
        )

    # -- what is seen of turns and their tails -----------------------------------------------------

    def _views(
        self, head: Messages, exchanges: Iterable[int] = range(len(EXCHANGES)), **variables: Any
    ) -> _Views | None:
        """What is seen of exchanges after a head; None where the template rejects the head itself."""
        head = [*head[:-1], {**head[-1], "content": head[-1]["content"] + _LAST}]
        asked = self._renders.render(head, prompt=self._asks, **variables)
        if asked is None:
            return None
        return {number: self._view(head, asked, EXCHANGES[number], variables) for number in exchanges}

    def _view(self, head: Messages, asked: str, exchange: Exchange, variables: Mapping[str, Any]) -> _View | None:
        whole = self._renders.render([*head, exchange.turn, *exchange.following], prompt=self._asks, **variables)
        if whole is None or SENTINEL not in whole:
            return None
        exact = whole.startswith(asked)
        follows = asked[asked.rfind(_LAST) :] in whole if _LAST in asked else exact
        before = whole[len(asked) : whole.index(SENTINEL)] if exact else ""
        return _View(exact, follows, before, whole[whole.rindex(SENTINEL) + len(SENTINEL) :])

    def _differs(self, head: Messages, **variables: Any) -> bool:
        """Whether anything is seen after this head otherwise than after the constant one."""
        return self._differ(self._shallow, head, _seen_otherwise, **variables)

    def _differ(
        self, shown: _Views | None, head: Messages, otherwise: Callable[[_View, _View | None], bool], **variables: Any
    ) -> bool:
        """Whether anything of what was seen is seen otherwise after another head."""
        known = {number: view for number, view in (shown or {}).items() if view is not None}
        views = self._views(head, known, **variables)
        return views is not None and any(otherwise(known[number], view) for number, view in views.items())

    # -- what a tail depends on -------------------------------------------------------------------

    def _needs_tools(self) -> bool:
        if self._renders.variables["tools"] is None:
            return False
        heads = ([user()], DEEPER_HEADS[3])
        return any(self._views(head) != self._views(head, tools=None) for head in heads)

    def _needs_system(self) -> bool:
        texts = ("Zq7xS1", "Zq7xS2", *self._renders.template.tested_texts)
        heads = [[_system(text), user()] for text in texts]
        return self._renders.wants_system or any(map(self._differs, heads))

    def _needs_clock(self) -> bool:
        other = clock_at(PROBE_CLOCK / 2)  # another year, month, day, hour and minute
        return "strftime_now" in self._renders.template.variables and self._differs([user()], strftime_now=other)

    def _needs_skeleton(self) -> bool:
        telling = ([user(text)] for text in self._renders.template.tested_texts)
        return any(map(self._differs, DEEPER_HEADS)) or any(
            self._differ(self._shallow, head, _goes_on_otherwise) for head in (*ODD_HEADS, *telling)
        )

    def _needs_skeleton_under_system(self) -> bool:
        telling = " ".join(self._renders.template.tested_texts)
        return any(map(self._differ_under, ("Zq7xS1", telling) if telling else ("Zq7xS1",)))

    def _differ_under(self, system: str) -> bool:
        """Whether tails depend on what came before where there is a system prompt, and where texts tell something."""
        shallow = self._views([_system(system), user()])
        deeper = any(self._differ(shallow, [_system(system), *head], _seen_otherwise) for head in DEEPER_HEADS[1:9:2])
        return deeper or any(
            self._differ(shallow, [_system(system), *head], _goes_on_otherwise) for head in spoken_heads(system, system)
        )

    def _needs_texts(self) -> bool:
        """Whether anything is seen otherwise after messages in outline than after messages at length."""
        thinking = spoken_heads(f"<think>\n{_SPEECH}\n</think>\n\nx", "  x ")
        plain = spoken_heads(_SPEECH, _SPEECH)
        return any(self._differ(self._outlined(head), head, _seen_otherwise) for head in plain) or any(
            self._differ(self._outlined(head), head, _goes_on_otherwise) for head in thinking
        )

    def _outlined(self, head: Messages) -> _Views | None:
        tested = self._renders.template.tested_texts
        return self._views([outline_of(message, index, tested) for index, message in enumerate(head)])

    def _rounds_are_alike(self) -> bool:
        for few, more in LONGER_HEADS:
            views = self._views(few, USUAL_EXCHANGES)
            if any(self._differ(views, many, _seen_otherwise) for many in more):
                return False
        return True

    # -- forgetting -------------------------------------------------------------------------------

    def _forgets_late(self) -> bool:
        """Whether a turn that a user has answered is written differently once later turns have come."""
        return any(self._rewrites([user(), turn, user(SENTINEL)]) for turn in self._thinking())

    def _forgets_waiting(self) -> bool:
        """Whether a turn that waits for an answer is written differently once later turns have come."""
        called = [
            turn | {"tool_calls": calling({"key": "x"})["tool_calls"]} for turn in (*self._thinking(), assistant("x"))
        ]
        waiting = [[user(), turn, tool_result(SENTINEL)] for turn in called]
        answering = [[user(), {**assistant(SENTINEL), "reasoning_content": _THOUGHT}]]
        return any(map(self._rewrites, (*waiting, *answering)))

    def _thinking(self) -> list[dict[str, Any]]:
        """Turns that think: beside the content, and inside it as the template may know it."""
        texts = self._renders.template.cut_texts
        pairs = [(left, right) for left in texts for right in texts if left != right and _words(left) == _words(right)]
        marked = [("<think>\n", "\n</think>\n\n"), *pairs[:_MOST_PAIRS], *(("", text) for text in texts)]
        inside = [assistant(f"{left}{_THOUGHT}{right}x") for left, right in marked]
        return [{**assistant("x"), "reasoning_content": _THOUGHT}, *inside]

    def _rewrites(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether what stands before the sentinel is written differently once further turns have come."""
        now = self._renders.render(messages, prompt=False)
        if now is None or SENTINEL not in now:
            return False
        later = self._renders.render([*messages, assistant("x"), user()], prompt=False)
        return later is not None and not later.startswith(now[: now.index(SENTINEL)])


def _seen_otherwise(one: _View, other: _View | None) -> bool:
    return other is None or one._replace(follows=True) != other._replace(follows=True)


def _goes_on_otherwise(one: _View, other: _View | None) -> bool:
    """Whether a tail is another, or the turn does not follow its prompt any more, where the template takes both."""
    return other is not None and (one.after != other.after or (one.exact and not other.follows))


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _words(text: str) -> str:
    return re.sub(r"\W", "", text)
