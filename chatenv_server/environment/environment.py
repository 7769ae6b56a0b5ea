"""ChatEnvironment: one episode at a time, in-process; the server holds one for every episode id.

How an episode is played is told in `playing.py`; this is what users call.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chatenv_client.models import (
    Action,
    ChatObservation,
    EpisodeDefaults,
    Failure,
    FailureKind,
    ResetOptions,
    Trajectory,
    as_action,
)
from chatenv_client.models.failure import as_kind
from chatenv_client.models.rewards import bad_reward
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.guard import TransformGuard
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.playing import Playing, Tell
from chatenv_server.environment.rewards import earned
from chatenv_server.environment.snapshots import EpisodeSnapshot, mark_as_fork, newest_piece, snapshot_of
from chatenv_server.environment.transforms import Transform, check_transform
from chatenv_server.tasks.choice import TaskMaker, Tasks
from chatenv_server.tasks.rows import Rows
from chatenv_server.tasks.task import End
from chatenv_server.work import done

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class ChatEnvironment(Playing):
    """A chat environment on one tokenizer. Not safe for threads: give each episode its own, they share the engine.

    Args:
        tokenizer: a Hugging Face tokenizer, any object with `apply_chat_template` and `decode`, or a `TokenEngine`
            to share.
        transform: called on the observation of every step, after the task; shapes reward, end and metadata.
        task: a subclass of `Task`, or several by name, of which each reset chooses one: an instance of it opens the
            episode and answers the model's turns.
        rows: data for tasks: JSON objects.
        task_timeout_s: seconds that a call of the task may take; 0: any.
        chat_template: a Jinja template in place of the tokenizer's own.
        token_id_limit: ids from here on are refused; by default the tokenizer's length.
        keeps_journal: whether to keep what `snapshot` and `fork` need; a server with a store keeps it there.
        options: what `reset` takes (see `ResetOptions`), for every episode whose reset does not say otherwise:
            `system_prompt`, `max_steps`, `history_policy` and so on.

    Raises:
        TypeError: the object is no tokenizer, the transform cannot be called with an observation, the task is none, or
            there is no such option.
        ValueError: the template, an option or a row is not valid.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        transform: Transform | TransformGuard | None = None,
        task: TaskMaker | Mapping[str, TaskMaker] | Tasks | None = None,
        rows: Rows | Sequence[Mapping[str, Any]] | None = None,
        task_timeout_s: float = 0.0,
        chat_template: str | None = None,
        token_id_limit: int | None = None,
        keeps_journal: bool = True,
        **options: Unpack[EpisodeDefaults],
    ) -> None:
        if not isinstance(tokenizer, TokenEngine):
            tokenizer = TokenEngine.shared(tokenizer, chat_template=chat_template, token_id_limit=token_id_limit)
        super().__init__(
            tokenizer,
            EpisodeOptions().overridden_by(options),
            _guarded(transform),
            Tasks.of(task, rows),
            task_timeout_s,
            keeps_journal=keeps_journal,
        )

    # -- episodes ---------------------------------------------------------------------------------

    def reset(self, *, answer: Tell | None = None, **options: Unpack[ResetOptions]) -> ChatObservation:
        """Start a new episode. Options that are left out, or None, are the environment's own.

        Args:
            answer: called with the opening before the new episode takes the place of the one before. If it raises, it
                does not: so a server starts no episode that it cannot tell of.
            **options: see `ResetOptions`.

        Returns:
            The opening: prompt tokens and messages.

        Raises:
            InvalidRequestError: an option is wrong.
            TemplateRejectedError: the template cannot render the opening messages.
            TaskError: the task failed, or opened with what cannot be.
            TransformError: `state_dict` of the transform raised.
            TypeError: there is no such option.
            In every case the episode before is untouched.
        """
        return done(self.resetting(answer=answer, **options))

    def step(self, action: Action, *, replace_from: int | None = None, answer: Tell | None = None) -> ChatObservation:
        """Append one turn: sampled tokens (`ChatAction(tokens=...)`), a message, or a list of messages.

        With `replace_from` the messages, which may be none, take the place of all messages from that index on. Where
        those are part of what a model has read already, the observation's `segment` goes up: its stream is then the
        full rendering of the conversation as it is now, and begins a new segment.

        A turn that the model ended is answered by the task, if there is one, in the same step.

        The observation's `terminated` says that the task ended the episode, `truncated` that a limit, the task or a
        transform cut it off.

        Args:
            action: what to append.
            replace_from: as above.
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
            TaskError: the task failed, or answered what cannot be.
            TransformError: the transform raised.
            In every case the episode is as it was.
        """
        return done(self.stepping(as_action(action, replace_from), answer=answer))

    def set_reward(
        self,
        rewards: float | Mapping[str, float],
        *,
        step: int | None = None,
        turn: int | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> float:
        """Set what a step earned, also after the end. Doing it again changes nothing; other components stay.

        Args:
            rewards: one number, or numbers by name.
            step: the step, from 1. Neither this nor `turn`: the last one.
            turn: in place of that, the turn among those that the model ended, from 0.
            weights: of components; 1 where none is given.

        Returns:
            The step's reward now.

        Raises:
            InvalidRequestError: a number is none, there is no such step or turn, or both are given.
        """
        if step is not None and turn is not None:
            raise bad_reward("a reward is of a step or of a turn; give one of the two", "turn")
        by_name = isinstance(rewards, Mapping)
        reward = earned(None if by_name else rewards, rewards if by_name else None, weights)
        last = self.step_count if step is None and turn is None else step
        _, now = self.set_late_reward(reward, step=last, turn=turn)
        return now.total or 0.0

    def fail(self, reason: str, kind: FailureKind | str = FailureKind.OTHER) -> Failure:
        """End the episode because something broke, so that nobody takes it for one that went badly.

        Returns:
            The failure on record: an earlier one, where there was one.

        Raises:
            InvalidRequestError: there is no such kind, or the reason is too long.
        """
        return self.record_failure(Failure(as_kind(kind, "failure.kind"), reason))

    def finish(self, *, assistants: bool = False) -> Trajectory:
        """The episode as training wants it, and its end; see `trajectory` and `close`. It can still be read."""
        trajectory = self.trajectory(assistants=assistants)
        self.close()
        return trajectory

    def close(self) -> None:
        """Close the task of the episode, if there is one; the episode can still be read."""
        done(self.closing(End.CLOSED))

    def __reduce__(self) -> str:
        raise TypeError(
            "an environment holds a tokenizer's engine and a task, which cannot be pickled; send `snapshot()`, and "
            "`restore` it in an environment that is made there"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            digest: of the action.
        """
        return newest_piece(self.engine, self._current(), digest)

    def restore(self, snapshot: EpisodeSnapshot | bytes) -> ChatObservation:
        """Take up an episode where a snapshot left it, in the place of the one before.

        Returns:
            What its last step showed.

        Raises:
            TokenizerMismatchError: another tokenizer, chat template or token-id limit wrote it.
            InvalidRequestError: it cannot be read, or is cut off or altered; or its task or row is not there.
            TaskError: the task cannot be made, or cannot be brought where it was.
            TransformError: `load_state_dict` of the transform raised.
            In every case the environment is as it was.
        """
        return done(self.restoring(snapshot))

    def fork(self, at_step: int | None = None, *, episode_id: str | None = None) -> ChatEnvironment:
        """A new environment whose episode shares this one's past, up to a step or until now, and goes its own way.

        It is of the same group; where there is none, of one that has this episode's id as its name.
        Its task is another instance, with the state of that step. A transform that keeps state with `state_dict` and
        `load_state_dict` is copied, with the state of that step; any other is shared.

        Raises:
            InvalidRequestError: there is no episode, or no such step.
            TaskError: the task keeps what is not JSON.
            TransformError: a transform that keeps state cannot be copied.
        """
        snapshot = self.snapshot(at_step)
        mark_as_fork(snapshot, snapshot.episode_id)
        snapshot.episode_id = episode_id or uuid.uuid4().hex
        forked = type(self).__new__(type(self))
        vars(forked).update(vars(self))
        forked._task = None
        forked._transform = None if self._transform is None else done(self._transform.copied())
        forked.restore(snapshot)
        return forked


def _guarded(transform: Transform | TransformGuard | None) -> TransformGuard | None:
    if transform is None or isinstance(transform, TransformGuard):
        return transform
    check_transform(transform)
    return TransformGuard(transform)
