"""What is on record of one episode: its options, its log, how far it is, what its steps earned, when they came.

Steps are appended here, taken back, and booked. What others are shown of an episode is made in `views.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from chatenv_client.models import ChatAction, Failure, ForkOrigin, Message, StopReason, own_message
from chatenv_server.engine import EpisodeLog
from chatenv_server.engine.log import Change
from chatenv_server.engine.log_head import Head
from chatenv_server.environment.journal import NO_OUTCOME, Appended, Entry, Journal, Outcome, Sampled
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.progress import Progress
from chatenv_server.environment.rewards import Rewards
from chatenv_server.environment.spans import sampled_span
from chatenv_server.environment.times import Moments, Times, unix_ms


class Moment(NamedTuple):
    """Where an episode is at one moment."""

    head: Head
    progress: Progress


class EpisodeRecord:
    """One episode from its reset on. Not safe for threads."""

    __slots__ = (
        "episode_id",
        "forked_from",
        "has_limits",
        "journal",
        "log",
        "options",
        "progress",
        "rewards",
        "row",
        "times",
    )

    def __init__(
        self,
        options: EpisodeOptions,
        log: EpisodeLog,
        forked_from: ForkOrigin | None = None,
        *,
        keeps_journal: bool = True,
        began_unix_ms: int | None = None,
    ) -> None:
        self.episode_id = options.episode_id or uuid.uuid4().hex
        self.options = options
        self.log = log
        self.forked_from = forked_from
        self.has_limits = options.has_limits
        """Kept, since every step asks."""
        self.progress = Progress()
        self.rewards = Rewards()
        self.times = Times(unix_ms() if began_unix_ms is None else began_unix_ms)
        self.row: Mapping[str, Any] | None = None
        """The data that its task has."""
        self.journal = Journal(keeps=keeps_journal)

    @property
    def moment(self) -> Moment:
        """Where the episode is now, for `take_back`."""
        return Moment(self.log.head, self.progress)

    def take_back(self, moment: Moment) -> None:
        """Forget a step that is not booked yet."""
        head, self.progress = moment
        self.log.go_back_to(head)

    @property
    def transform_state(self) -> Mapping[str, Any] | None:
        """What its transform kept after the last step; None: it keeps nothing."""
        return self.journal.outcome.transform_state

    @property
    def task_state(self) -> Mapping[str, Any] | None:
        """What its task knew after the last step; None: there is no task, or what it knows cannot be told."""
        return self.journal.outcome.task_state

    @property
    def newest_entry(self) -> Entry:
        """What the last Reset or Step did, whole."""
        entry = self.journal.newest
        if entry.sampled is None or entry.sampled.stop_reason is not None:
            return entry
        return entry._replace(sampled=entry.sampled._replace(stop_reason=self.log.stop_reason))

    def open(
        self, transform_state: Mapping[str, Any] | None = None, task_state: Mapping[str, Any] | None = None
    ) -> Change:
        """Append the opening messages. The episode is truncated if it is at a limit already.

        Args:
            transform_state: what its transform keeps at the beginning.
            task_state: what its task knows then.

        Raises:
            TemplateRejectedError: the template cannot render them.
        """
        if self.options.continue_final_message:
            change = self.log.open_inside(self.options.opening)
        else:
            change = self.log.append_messages(self.options.opening, step=0)
        self._look_at_limits()
        truncated = self.progress.truncated
        outcome = Outcome(truncated=truncated, transform_state=transform_state, task_state=task_state)
        self.times.book(Moments())
        self.journal.add(Appended(change), outcome)
        return change

    def append(self, action: ChatAction) -> Appended:
        """Append one turn as the next step. The episode is truncated if it is at a limit then.

        Raises:
            TemplateRejectedError, HistoryRewrittenError: see `EpisodeLog`.
            PromptMismatchError: the action was sampled from another prompt.
        """
        step, moments = self.progress.step_count + 1, Moments(self.times.now())
        if action.changes_messages:
            messages = [own_message(message) for message in action.messages]
            appended = Appended(self.log.append_messages(messages, step, action.replace_from), moments=moments)
        else:
            sampled = sampled_span(action, self.log)
            appended = Appended(self.log.append_sampled(*sampled, step=step), sampled, moments=moments)
        self.count_step(step, appended.sampled)
        return appended

    def count_step(self, step: int, sampled: Sampled | None) -> None:
        """Note how far the episode is after a step, and whether that is a limit."""
        turns, tokens, is_open = self.progress.turn_count, self.progress.sampled_tokens, False
        if sampled is not None:
            is_open = self.log.stop_reason is StopReason.ABORT
            turns += not is_open
            tokens += len(sampled.tokens)
        self.progress = Progress(step, False, False, None, turns, tokens, is_open)
        if self.has_limits:
            self._look_at_limits()

    def answer(self, appended: Appended, messages: Sequence[Message]) -> Appended:
        """Append what a task answered to a turn, within the same step.

        Raises:
            TemplateRejectedError, HistoryRewrittenError: see `EpisodeLog`.
        """
        moments = appended.moments._replace(answered_at_ms=self.times.now())
        sampled, stop_reason = appended.sampled, self.log.stop_reason  # a new segment would not tell any more
        answered = self.log.append_messages(messages, self.progress.step_count)
        self._look_at_limits()
        told = None if sampled is None else sampled._replace(stop_reason=stop_reason)
        return replace(appended, sampled=told, answered=answered, moments=moments)

    def book(self, appended: Appended, outcome: Outcome) -> None:
        """Book what a step came to, once nothing can take it back any more."""
        if outcome is not NO_OUTCOME and outcome.reward:
            self.rewards.book(self.progress.step_count, outcome.reward, of_messages=appended.sampled is None)
        self.times.book(appended.moments)
        self.journal.add(appended, outcome)

    def fail(self, failure: Failure) -> Failure:
        """End the episode because something broke; the failure on record, which is the first."""
        if self.progress.failure is None:
            self.progress = replace(self.progress, failure=failure)
        return self.progress.failure or failure

    def end_as(self, terminated: bool, truncated: bool, failure: Failure | None = None) -> None:
        """Note whether the episode has ended, and how."""
        progress = self.progress
        if (terminated, truncated, failure) != (progress.terminated, progress.truncated, progress.failure):
            self.progress = replace(progress, terminated=terminated, truncated=truncated, failure=failure)

    def _look_at_limits(self) -> None:
        """Note that the episode is truncated, if it is at a limit."""
        if self.progress.is_at_limit(self.options, len(self.log)):
            self.progress = replace(self.progress, truncated=True)
