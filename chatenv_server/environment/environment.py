"""ChatEnvironment: one episode at a time, in-process; the server holds one for every episode id.

It decides the order of a step: check, append, transform. If any of them fails, it takes the whole step back. The engine
owns the tokens; the server owns ids and concurrency.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from chatenv_client import wire
from chatenv_client.errors import EpisodeDoneError, TemplateRejectedError, TransformError, TransformTimeoutError
from chatenv_client.models import (
    Action,
    ChatObservation,
    ResetOptions,
    as_action,
)
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.blame import blaming
from chatenv_server.environment.guard import TransformGuard
from chatenv_server.environment.journal import NO_OUTCOME, Outcome
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.reading import EnvironmentReading
from chatenv_server.environment.record import EpisodeRecord, Moment
from chatenv_server.environment.restoring import restored
from chatenv_server.environment.snapshots import EpisodeSnapshot, newest_piece, snapshot_of
from chatenv_server.environment.transforms import Transform, check_transform
from chatenv_server.environment.validation import check_action, check_replace_from

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ChatEnvironment(EnvironmentReading):
    """A chat environment on one tokenizer. Not safe for threads: give each episode its own, they share the engine.

    Args:
        tokenizer: a Hugging Face tokenizer, any object with `apply_chat_template` and `decode`, or a `TokenEngine`
            to share.
        transform: called on the observation of every step; sets reward, end and metadata.
        chat_template: a Jinja template in place of the tokenizer's own.
        token_id_limit: ids from here on are refused; by default the tokenizer's length.
        keeps_journal: whether to keep what `snapshot` and `fork` need; a server with a store keeps it there.
        options: what `reset` takes (see `ResetOptions`), for every episode whose reset does not say otherwise:
            `system_prompt`, `max_steps`, `history_policy` and so on.

    Raises:
        TypeError: the object is no tokenizer, the transform cannot be called with an observation, or there is no such
            option.
        ValueError: the template or an option is not valid.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        transform: Transform | TransformGuard | None = None,
        chat_template: str | None = None,
        token_id_limit: int | None = None,
        keeps_journal: bool = True,
        **options: Unpack[ResetOptions],
    ) -> None:
        if not isinstance(tokenizer, TokenEngine):
            tokenizer = TokenEngine.shared(tokenizer, chat_template=chat_template, token_id_limit=token_id_limit)
        super().__init__(tokenizer)
        self._transform = _guarded(transform)
        self._options = EpisodeOptions().overridden_by(options)
        self._keeps_journal = keeps_journal

    # -- episodes ---------------------------------------------------------------------------------

    def reset(
        self, *, answer: Callable[[ChatObservation], None] | None = None, **options: Unpack[ResetOptions]
    ) -> ChatObservation:
        """Start a new episode. Options that are left out, or None, are the environment's own.

        Args:
            answer: called with the opening before the new episode takes the place of the one before. If it raises, it
                does not: so a server starts no episode that it cannot tell of.
            **options: see `ResetOptions`.

        Returns:
            The opening: prompt tokens and messages.

        Raises:
            InvalidRequestError: an option is wrong; the episode before is untouched.
            TemplateRejectedError: the template cannot render the opening messages; the episode before is untouched.
            TransformError: `state_dict` of the transform raised; the episode before is untouched.
            TypeError: there is no such option.
        """
        asked = self._options.overridden_by(options)
        # A transform may read the messages at every step, so for it their texts are kept.
        log = self.engine.open(asked.render_options(), keeps_texts=self._transform is not None)
        episode = EpisodeRecord(asked, log, keeps_journal=self._keeps_journal)
        try:
            opened = episode.open(None if self._transform is None else self._transform.state())
        except TemplateRejectedError as error:
            opening = asked.opening
            raise blaming(error, log, opening, len(opening) - len(asked.messages)) from error
        observation = episode.observation(opened)
        if answer is not None:
            answer(observation)
        self._episode = episode
        return observation

    def step(
        self,
        action: Action,
        *,
        replace_from: int | None = None,
        answer: Callable[[ChatObservation], None] | None = None,
    ) -> ChatObservation:
        """Append one turn: sampled tokens (`ChatAction(tokens=...)`), a message, or a list of messages.

        With `replace_from` the messages, which may be none, take the place of all messages from that index on. Where
        those are part of what a model has read already, the observation's `segment` goes up: its stream is then the
        full rendering of the conversation as it is now, and begins a new segment.

        The observation's `terminated` says that the task ended the episode, `truncated` that a limit or a transform
        cut it off.

        Args:
            action: what to append.
            answer: called with the observation at the end of the step. If it raises, the step is taken back: so a
                server applies no step that it cannot answer.

        Returns:
            The whole episode as it is now, with this step's reward and fidelity reports.

        Raises:
            InvalidRequestError: the action is wrong.
            TemplateRejectedError: the template cannot render the messages.
            HistoryRewrittenError: policy `strict`.
            PromptMismatchError: the action was sampled from another prompt.
            EpisodeDoneError: the episode is over.
            TransformError: the transform raised.
            In every case the episode is as it was.
        """
        episode = self._live()
        action = as_action(action, replace_from)
        check_action(action, self.engine.token_id_limit)
        if action.replace_from is not None:
            check_replace_from(action.replace_from, episode.log.message_count)
        moment = episode.moment
        try:
            appended = episode.append(action)
            observation = episode.observation(appended.change)
            if self._transform is not None:
                episode.end_as(self._transform.outcome(observation))
            outcome = self._outcome(episode, observation)
            if answer is not None:
                answer(observation)
        except TemplateRejectedError as error:
            self._take_back(episode, moment)
            raise blaming(error, episode.log, action.messages) from error
        except BaseException:
            self._take_back(episode, moment)
            raise
        episode.book(appended, outcome)
        return observation

    def _outcome(self, episode: EpisodeRecord, observation: ChatObservation) -> Outcome:
        if self._transform is None:
            return Outcome(truncated=True) if episode.progress.truncated else NO_OUTCOME
        own = episode.options.metadata
        return Outcome(
            observation.reward,
            episode.progress.terminated,
            episode.progress.truncated,
            None if _is_same_json(observation.metadata, own) else observation.metadata,
            self._transform.state(),
        )

    def _take_back(self, episode: EpisodeRecord, moment: Moment) -> None:
        episode.take_back(moment)
        if self._transform is not None:
            self._transform.take_back(episode.transform_state)

    def _live(self) -> EpisodeRecord:
        episode = self._episode or self._current()
        if episode.is_over:
            raise EpisodeDoneError("the episode is over; reset it to go on")
        return episode

    # -- episodes taken elsewhere -----------------------------------------------------------------

    def snapshot(self, at_step: int | None = None) -> EpisodeSnapshot:
        """The whole episode as one message, as it is now or was after a step; 0 is the opening.

        Raises:
            InvalidRequestError: there is no episode, or no such step.
        """
        return snapshot_of(self.engine, self._current(), at_step)

    def newest_piece(self, digest: bytes = b"") -> bytes:
        """What the last Reset or Step did, as the bytes of a snapshot that goes on where those of the one before end.

        Args:
            digest: of the request.
        """
        return newest_piece(self.engine, self._current(), digest)

    def restore(self, snapshot: EpisodeSnapshot | bytes) -> ChatObservation:
        """Take up an episode where a snapshot left it, in the place of the one before.

        Returns:
            What its last step showed.

        Raises:
            TokenizerMismatchError: another tokenizer, chat template or token-id limit wrote it.
            InvalidRequestError: it cannot be read, or is cut off or altered.
            TransformError: `load_state_dict` of the transform raised.
            In every case the environment is as it was.
        """
        told = wire.snapshot_of_bytes(snapshot) if isinstance(snapshot, bytes) else snapshot
        episode, observation = restored(
            self.engine, told, keeps_texts=self._transform is not None, keeps_journal=self._keeps_journal
        )
        if self._transform is not None:
            self._load_state(self._transform, episode)
        self._episode = episode
        return observation

    def _load_state(self, transform: TransformGuard, episode: EpisodeRecord) -> None:
        try:
            transform.load_state(episode.transform_state)
        except TransformError as error:
            transform.take_back(None if self._episode is None else self._episode.transform_state)
            if isinstance(error, TransformTimeoutError):
                raise
            raise TransformError(
                "load_state_dict of the transform raised, so the episode cannot be taken up; "
                "serve it with the transform that kept its state"
            ) from error.__cause__

    def fork(self, at_step: int | None = None, *, episode_id: str | None = None) -> ChatEnvironment:
        """A new environment whose episode shares this one's past, up to a step or until now, and goes its own way.

        A transform that keeps state with `state_dict` and `load_state_dict` is copied, with the state of that step; any
        other is shared.

        Raises:
            InvalidRequestError: there is no episode, or no such step.
            TransformError: a transform that keeps state cannot be copied.
        """
        snapshot = self.snapshot(at_step)
        snapshot.forked_from.episode_id = snapshot.episode_id
        snapshot.forked_from.at_step = len(snapshot.entries) - 1
        snapshot.episode_id = episode_id or uuid.uuid4().hex
        forked = copy.copy(self)
        forked._transform = None if self._transform is None else self._transform.copied()
        forked.restore(snapshot)
        return forked


def _is_same_json(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left == right and repr(left) == repr(right)  # 1 equals True, and JSON tells them apart


def _guarded(transform: Transform | TransformGuard | None) -> TransformGuard | None:
    if transform is None or isinstance(transform, TransformGuard):
        return transform
    check_transform(transform)
    return TransformGuard(transform)
