"""Turns that a template will write in another way once later turns have come.

Theory of operation. Some templates strip the thinking from all turns before the last user message. The stream keeps
what the model saw, so the difference has to be reported, once, on the step that brings it about. Where it hits the last
turn, the cut sees it (`cut.py`). A turn further back is out of the cut's sight, so one such turn at a time is kept in
mind: the first that the template will rewrite. It is rendered alone, with stand-ins for what answered it, now and with
what came later; if the beginning differs, the rewrite has come.

States of an episode, and who moves them:

    none      -- a tail is committed that holds, or follows, a turn to be rewritten -->  pending
    pending   -- the turn is still the last one: the cut looks at it, not this file -->  pending
    pending   -- a tail brings the rewrite, and is committed with its report        -->  what that tail found, or none

`RewriteFinder.find` says what a tail leaves pending, and `replaces` whether that counts; `RewriteFinder.has_come` says
whether a tail brings a rewrite. The log keeps the state in its head, so that a step which is taken back takes it back,
too: `to_check` says which pending rewrite a tail has to look at, `left_by` what is pending once a tail is committed.

An example, with a template that strips thoughts before the last user message:

    user, S1 = <think>a</think> + call          S1 is the last turn: nothing is pending yet
    tool result                                 its tail finds that S1 will be rewritten once a user speaks
    S2 = answer                                 the tail is committed: S1 is pending
    user                                        this tail brings it: HISTORY_REWRITTEN for S1's message
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import FidelityKind, FidelityReport, Message
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.conversation import PendingRewrite, SampledTurn, Tail
from chatenv_server.engine.forms import PreparedMessage, texts_of
from chatenv_server.engine.probe_messages import PROBE_CALL_ID, assistant, tool_result, user

_ANSWER = "Zq7xT3pR"


def to_check(pending: PendingRewrite | None, last: SampledTurn) -> PendingRewrite | None:
    """The pending rewrite that a tail after `last` has to look at; the cut looks at `last` itself."""
    return None if pending is None or pending.message_index == last.message_index else pending


def replaces(pending: PendingRewrite | None, reports: Sequence[FidelityReport]) -> bool:
    """Whether what a tail with these reports leaves pending takes the place of what was pending before."""
    return pending is None or any(report.kind is FidelityKind.HISTORY_REWRITTEN for report in reports)


def left_by(pending: PendingRewrite | None, tail: Tail) -> PendingRewrite | None:
    """What is pending once a tail is committed."""
    return tail.pending_rewrite if replaces(pending, tail.reports) else pending


def report_of(pending: PendingRewrite) -> FidelityReport:
    """The report on the step that brings a rewrite about."""
    return FidelityReport(
        FidelityKind.HISTORY_REWRITTEN,
        "the template writes this turn differently now that later turns have come",
        message_index=pending.message_index,
    )


Compare = Callable[[str, str, Sequence[str] | None], bool]
"""As `is_rewritten`."""


def is_rewritten(now: str, then: str, own: Sequence[str] | None) -> bool:
    """Whether a text that goes on begins in another way, up to the end of a turn.

    Args:
        now: what the template writes without what came later.
        then: what it writes with that.
        own: the texts of the turn; None: the stand-in for an answer follows it.
    """
    end = now.find(_ANSWER) if own is None else _end_of(own, now)
    return end >= 0 and not then.startswith(now[:end])


class RewriteFinder:
    """Looks for rewrites with the renders of one bound template, each after a head that stands for the rest."""

    def __init__(self, template: BoundTemplate) -> None:
        self.compare: Compare = is_rewritten
        """Tells what `find` asks. To learn what that depends on, another is put in its place. `has_come` never asks it:
        that is asked anew of every tail, since the next one may have another turn pending."""
        self._template = template
        self._may_come = template.needs.forgets
        self._may_come_late = template.needs.forgets_late

    def find(self, record: Sequence[Message], start: int, head: Sequence[PreparedMessage]) -> PendingRewrite | None:
        """The first assistant turn of `record` that later messages will make the template rewrite.

        Args:
            record: messages from the last sampled turn, or the beginning, to the end.
            start: index of its first message in the conversation.
            head: what stands for the messages before.
        """
        if not self._may_come:
            return None
        later = [self._template.prepare_own(assistant("x")), self._template.prepare_own(user())]
        last_user = max((i for i, message in enumerate(record) if message.get("role") == "user"), default=-1)
        for position, (message, follower) in enumerate(itertools.zip_longest(record, record[1:])):
            role = follower.get("role", "") if follower is not None else ""
            answered = position < last_user
            if message.get("role") != "assistant" or (answered and not (self._may_come_late and role == "user")):
                continue
            pending = PendingRewrite(message, start + position, role)
            if self._is_rewritten(pending, later, head, self.compare):
                return pending
        return None

    def has_come(
        self, pending: PendingRewrite, later: Sequence[PreparedMessage], head: Sequence[PreparedMessage]
    ) -> bool:
        """Whether the template writes the turn differently when `later` follows it and what answered it."""
        return self._is_rewritten(pending, later, head, is_rewritten)

    def _is_rewritten(
        self,
        pending: PendingRewrite,
        later: Sequence[PreparedMessage],
        head: Sequence[PreparedMessage],
        compare: Compare,
    ) -> bool:
        turn = self._template.prepare_own(pending.message)
        answers = [self._template.prepare_own(message) for message in _answers(pending)]
        try:
            now = self._template.render_local([*head, turn, *answers], False)
            then = self._template.render_local([*head, turn, *answers, *later], False)
        except TemplateRejectedError:
            return False
        return compare(now, then, None if answers else texts_of(turn))


def _answers(pending: PendingRewrite) -> list[dict[str, Any]]:
    """Stand-ins for what was said after the turn."""
    if pending.follower == "tool":
        calls = pending.message.get("tool_calls") or [{}]
        return [tool_result(_ANSWER) | {"tool_call_id": call.get("id", PROBE_CALL_ID)} for call in calls]
    return [user(_ANSWER)] if pending.follower == "user" else []


def _end_of(texts: Sequence[str], text: str) -> int:
    """Where the turn's own texts end; -1 where it has none that can be found."""
    own = "".join(texts).strip()
    found = text.rfind(own) if own else -1
    return found + len(own) if found >= 0 else -1
