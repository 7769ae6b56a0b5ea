"""What a blocking client can do with the episode that it has, also after its end: read it, judge it and copy it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

from chatenv_client._connection import Connection
from chatenv_client._generated.chatenv_pb2 import EpisodeSnapshot
from chatenv_client.holding import EpisodeHolder
from chatenv_client.models import (
    AuditReport,
    ChatState,
    Failure,
    FailureKind,
    Rendered,
    Rewards,
    StepReward,
    Trajectory,
)
from chatenv_client.server_client import ServerClient
from chatenv_client.session import Session

if TYPE_CHECKING:
    from typing_extensions import Self


class EpisodeClient(EpisodeHolder, ServerClient):
    """A client of one episode on a chatenv server: reads it, judges it, and copies it."""

    def __init__(self, connection: Connection, session: Session) -> None:
        EpisodeHolder.__init__(self, session)
        ServerClient.__init__(self, connection)

    def state(self, *, timeout_s: float | None = None) -> ChatState:
        """The whole episode, read from the server."""
        return self._connection.make(self._session.state(), timeout_s)

    def trajectory(self, *, assistants: bool = False, timeout_s: float | None = None) -> Trajectory:
        """The whole episode as training wants it: per segment tokens, loss mask, logprobs, turns.

        Args:
            assistants: whether to find what assistants say in messages that were given, for `mask("assistant")`. Takes
                the server two renders of the conversation for each of them, or three.
            timeout_s: deadline of this call.
        """
        return self._connection.make(self._session.trajectory(assistants=assistants), timeout_s)

    def render(self, messages: Sequence[Mapping[str, Any]], *, timeout_s: float | None = None) -> Rendered:
        """What the stream would become if messages were appended now. Changes nothing."""
        return self._connection.make(self._session.render(messages), timeout_s)

    def audit(self, *, timeout_s: float | None = None) -> AuditReport:
        """Compare the stream with a full rendering of the conversation. Costs time proportional to it."""
        return self._connection.make(self._session.audit(), timeout_s)

    def set_reward(
        self,
        rewards: Rewards,
        *,
        step: int | None = None,
        turn: int | None = None,
        weights: Mapping[str, SupportsFloat] | None = None,
        timeout_s: float | None = None,
    ) -> StepReward:
        """Set rewards of a step that was taken, also after the episode is over: a judge may take its time.

        May be tried again: a reward takes the place of the one that the step had, and those of other names stay.

        Args:
            rewards: a number, or numbers by name, whose weighted sum is added to the number.
            step: number of the step, from 1. None: the last one that this client knows, unless a turn is named.
            turn: number of the turn among those that the model ended, from 0, in place of a step.
            weights: of rewards by name; 1 where none is given.
            timeout_s: deadline of this call.

        Returns:
            The rewards of the step as they are now.

        Raises:
            TypeError: a reward is no number; nothing was sent.
            InvalidRequestError: a reward is not finite, a name is none, or there is no such step or turn.
        """
        return self._connection.make(self._session.set_reward(rewards, weights, step, turn), timeout_s)

    def fail(
        self, reason: str, kind: FailureKind | str = FailureKind.OTHER, *, timeout_s: float | None = None
    ) -> Failure:
        """End the episode because something broke, so that nobody takes it for one that went badly.

        May be tried again, and may come after the end: the first failure stays. What `observation` and the trajectory
        show from now on says it.

        Args:
            reason: one sentence for a person.
            kind: what broke.
            timeout_s: deadline of this call.

        Returns:
            The failure on record: an earlier one, where there was one.

        Raises:
            TypeError: the reason is no text; nothing was sent.
            InvalidRequestError: there is no such kind, or the reason has more than 4,096 characters.
        """
        return self._connection.make(self._session.fail(reason, kind), timeout_s)

    def fork(
        self,
        n: int = 1,
        *,
        episode_ids: Sequence[str] | None = None,
        at_step: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Self]:
        """Make episodes that share this one's past, and go their own way from there; a client for each.

        A fork owns its episode: its `close` ends it. What it shows is its `observation`. All forks are made, or none.
        They share this client's channel, which the last of them closes; with affinity they share its server, too. They
        are in the episode's group; where it has none, in one that has its id as its name.

        Args:
            n: how many.
            episode_ids: their ids; None: new ones. A fork with ids may be tried again.
            at_step: the last step to share; 0: the opening alone; None: all that this client knows.
            timeout_s: deadline of this call.

        Raises:
            InvalidRequestError: there is no such step, or an id is none.
            EpisodeExistsError: an id is that of another live episode.
        """
        forking = self._session.fork(n, episode_ids, at_step)
        sessions = self._connection.make(forking, timeout_s)
        return [self._beside(session) for session in sessions]

    def _beside(self, session: Session) -> Self:
        """A client of a fork of this one's episode."""
        env = type(self).__new__(type(self))
        EpisodeClient.__init__(env, self._connection.shared(near=self.episode_id), session)
        return env

    def export(self, *, timeout_s: float | None = None) -> EpisodeSnapshot:
        """The whole episode as one message, which this server or another takes up again: `import_episode`.

        `SerializeToString()` makes bytes of it. It holds all that was said and sampled.
        """
        return self._connection.make(self._session.export(), timeout_s)
