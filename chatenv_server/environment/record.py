"""What is on record of one episode: its options, its log, how far it is; and what callers are shown of all that."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from chatenv_client.errors import PromptMismatchError
from chatenv_client.models import (
    ChatAction,
    ChatObservation,
    ChatState,
    ForkOrigin,
    SegmentEnd,
    StopReason,
    Trajectory,
    own_message,
)
from chatenv_client.tokens import runs_of_mask
from chatenv_server.engine import EpisodeLog
from chatenv_server.engine.conversation import NO_NOTES, RecordedTurn, SpanNotes
from chatenv_server.engine.log import Change
from chatenv_server.engine.log_head import Head
from chatenv_server.environment.columns import checked_columns
from chatenv_server.environment.journal import Appended, Entry, Journal, Outcome, Sampled
from chatenv_server.environment.options import EpisodeOptions


class Progress(NamedTuple):
    """How far an episode is; replaced as a whole."""

    step_count: int = 0
    terminated: bool = False
    truncated: bool = False


class Moment(NamedTuple):
    """Where an episode is at one moment."""

    head: Head
    progress: Progress


class EpisodeRecord:
    """One episode from its reset on. Not safe for threads."""

    __slots__ = ("episode_id", "forked_from", "journal", "log", "options", "progress")

    def __init__(
        self,
        options: EpisodeOptions,
        log: EpisodeLog,
        forked_from: ForkOrigin | None = None,
        *,
        keeps_journal: bool = True,
    ) -> None:
        self.episode_id = options.episode_id or uuid.uuid4().hex
        self.options = options
        self.log = log
        self.forked_from = forked_from
        self.progress = Progress()
        self.journal = Journal(keeps=keeps_journal)

    @property
    def is_over(self) -> bool:
        """Whether the episode ended, by itself or cut off."""
        return self.progress.terminated or self.progress.truncated

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
    def newest_entry(self) -> Entry:
        """What the last Reset or Step did, whole."""
        entry = self.journal.newest
        if entry.sampled is None:
            return entry
        return entry._replace(sampled=entry.sampled._replace(stop_reason=self.log.stop_reason))

    def open(self, transform_state: Mapping[str, Any] | None = None) -> Change:
        """Append the opening messages. The episode is truncated if it is at a limit already.

        Args:
            transform_state: what its transform keeps at the beginning.

        Raises:
            TemplateRejectedError: the template cannot render them.
        """
        if self.options.continue_final_message:
            change = self.log.open_inside(self.options.opening)
        else:
            change = self.log.append_messages(self.options.opening, step=0)
        self.progress = Progress(truncated=self._is_at_limit(0))
        truncated = self.progress.truncated
        outcome = Outcome(truncated=truncated, transform_state=transform_state)
        self.journal.add(Appended(change), outcome)
        return change

    def append(self, action: ChatAction) -> Appended:
        """Append one turn as the next step. The episode is truncated if it is at a limit then.

        Raises:
            TemplateRejectedError, HistoryRewrittenError: see `EpisodeLog`.
            PromptMismatchError: the action was sampled from another prompt.
        """
        step = self.progress.step_count + 1
        if action.changes_messages:
            messages = [own_message(message) for message in action.messages]
            appended = Appended(self.log.append_messages(messages, step, action.replace_from))
        else:
            sampled = self.sampled(action)
            appended = Appended(self.log.append_sampled(*sampled, step=step), sampled)
        self.progress = Progress(step, truncated=self._is_at_limit(step))
        return appended

    def sampled(self, action: ChatAction) -> Sampled:
        """The span of an action, as a log takes it.

        Raises:
            PromptMismatchError: it was sampled from another prompt.
            InvalidRequestError: its columns do not fit the segment.
        """
        log = self.log
        if action.prompt_fingerprint and action.prompt_fingerprint != log.fingerprint():
            raise PromptMismatchError(
                "these tokens were sampled from another prompt than the one on record; read the state and sample again",
                details={
                    "expected_fingerprint": log.fingerprint(),
                    "received_fingerprint": action.prompt_fingerprint,
                },
            )
        notes = SpanNotes(action.model_version) if action.model_version else NO_NOTES
        if action.mask is not None or action.model_version_runs:
            notes = _notes_with_runs(action)
        if action.extras or action.amended_extras:
            notes = notes._replace(columns=checked_columns(action, log))
        return Sampled(
            action.tokens,
            action.logprobs if len(action.tokens) else None,
            None if action.stop_reason is None else StopReason(action.stop_reason),
            notes,
            None if action.message is None else own_message(action.message),
        )

    def book(self, appended: Appended, outcome: Outcome) -> None:
        """Book what a step came to, once nothing can take it back any more."""
        if outcome.reward is not None:
            self.log.add_reward(outcome.reward, of_messages=appended.sampled is None)
        self.journal.add(appended, outcome)

    def write_again(self, entry: Entry, step: int) -> ChatObservation:
        """Do what an entry did that was written before, as that step; 0 is the opening. What the step showed."""
        outcome = entry.outcome
        if entry.then is not None:
            appended = Appended(self.log.go_on_as_recorded(entry.then, step))
        else:
            span = entry.sampled or Sampled()
            recorded = RecordedTurn(entry.read, entry.reports)
            appended = Appended(self.log.append_sampled(*span, step=step, recorded=recorded), span)
        self.progress = Progress(step, outcome.terminated, outcome.truncated)
        observation = self.observation(appended.change)
        if outcome.metadata is not None:
            observation.metadata = dict(outcome.metadata)
        observation.reward = outcome.reward
        self.book(appended, outcome)
        return observation

    def end_as(self, observation: ChatObservation) -> None:
        """Take over from a transform whether the episode has ended."""
        self.progress = self.progress._replace(terminated=observation.terminated, truncated=observation.truncated)

    def _is_at_limit(self, step_count: int) -> bool:
        max_steps, max_tokens = self.options.max_steps, self.options.max_tokens
        at_last_step = max_steps is not None and step_count >= max_steps
        return at_last_step or (max_tokens is not None and len(self.log) >= max_tokens)

    # -- what callers are shown -------------------------------------------------------------------

    def observation(self, change: Change) -> ChatObservation:
        """The episode as it is now, after a step or reset that did this to its log."""
        log, head, progress, options = self.log, self.log.head, self.progress, self.options
        return ChatObservation(
            episode_id=self.episode_id,
            step_count=progress.step_count,
            stream=log.stream,
            conversation=log.conversation,
            terminated=progress.terminated,
            truncated=progress.truncated,
            metadata=copy.deepcopy(dict(options.metadata)) if options.metadata else {},
            generation_prompt_length=head.tail.generation_prompt_length,
            fidelity=change.reports,
            seed=options.seed,
            held_tokens=change.held_tokens,
            held_messages=change.held_messages,
            segment=len(head.sealed),
        )

    def state(self) -> ChatState:
        """The episode as it is now."""
        log, progress, options = self.log, self.progress, self.options
        return ChatState(
            episode_id=self.episode_id,
            step_count=progress.step_count,
            history_messages=log.conversation.copy(),
            message_spans=log.message_spans(),
            token_ids=log.stream.token_ids,
            turns=log.turns(),
            fidelity=log.reports(),
            generation_prompt_length=log.generation_prompt_length,
            prompt_fingerprint=log.fingerprint(),
            terminated=progress.terminated,
            truncated=progress.truncated,
            max_steps=options.max_steps,
            max_tokens=options.max_tokens,
            seed=options.seed,
            metadata=copy.deepcopy(dict(options.metadata)),
            clock_unix_seconds=log.options.clock_unix_seconds,
            column_rows=log.column_rows(),
            forked_from=self.forked_from,
            sealed=tuple(SegmentEnd(one.length, one.message_count, one.last_step) for one in log.sealed),
        )

    def trajectory(self) -> Trajectory:
        """The episode as training wants it."""
        progress = self.progress
        return Trajectory(self.episode_id, self.log.segments(), progress.terminated, progress.truncated)


def _notes_with_runs(action: ChatAction) -> SpanNotes:
    """What an action says of its span, with the last of its versions as that of the whole."""
    runs = action.model_version_runs
    sampled = () if action.mask is None or action.mask.all() else runs_of_mask(action.mask)
    return SpanNotes(runs[-1][0] if runs else action.model_version, runs, sampled)
