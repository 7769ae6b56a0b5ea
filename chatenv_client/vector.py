"""VectorChatEnv: many episodes driven side by side. Its session builds the rounds, and its `RoundMaker` makes them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from chatenv_client._connection import FAREWELL_S, Connection, yielding_to
from chatenv_client.calls import DEFAULT_TIMEOUT_S, CallDefaults
from chatenv_client.channel import DEFAULT_MAX_MESSAGE_BYTES, Tls
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import Action, ResetOptions, StepResult, Trajectory
from chatenv_client.rounds import RoundMaker
from chatenv_client.vector_episodes import VectorEpisodes
from chatenv_client.vector_session import VectorSession

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class VectorChatEnv(VectorEpisodes):
    """Many episodes on a chatenv server, each at its own pace, as a context manager.

        with VectorChatEnv("localhost:50051", 64) as env:
            results = env.reset(messages=[{"role": "user", "content": "Hello!"}])
            while not all(result.done for result in results):
                results = env.step([None if result.done else policy(result.observation) for result in results])

    A round of steps travels as a few BatchStep calls. While the server works on one, the next waits there, the answer
    to the one before is read, and another is built; where tasks answer, which may wait, all are sent at once. The
    server's limits are asked for and kept. Of a server with several processes each gets its part of the episodes, over
    a connection of its own, unless the target is a channel.

    One bad item spoils no other: the rest is applied, and then BatchError holds what each was answered. Items that
    failed may be tried again, with None for those that did not: the results of that step are those of the whole round.

    Threads: use it from one thread at a time; any number of them may share a channel. Processes: as for `ChatEnv`.
    """

    def __init__(
        self,
        target: str | grpc.Channel,
        n: int,
        *,
        autoreset: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
        token: str | None = None,
        affinity: bool = False,
    ) -> None:
        """Connect with the first call.

        Args:
            target: as for `ChatEnv`.
            n: number of episodes, at least 1.
            autoreset: whether a step starts an episode anew that was done before, in place of its action; the result
                is then the opening. Known as next-step autoreset in Gymnasium. Where there is no action, it stays.
            timeout_s: deadline of each call that gives none of its own.
            max_message_bytes: as for `ChatEnv`.
            tls: as for `ChatEnv`.
            token: as for `ChatEnv`.
            affinity: whether all of these episodes, which travel together, stick to one of several servers.
        """
        session = VectorSession(n, autoreset=autoreset)
        defaults = CallDefaults.of(timeout_s=timeout_s, token=token)
        if affinity:
            defaults = defaults.sticking_to(uuid.uuid4().hex)
        connect = partial(Connection, target, defaults, tls=tls, max_message_bytes=max_message_bytes, affinity=affinity)
        another = partial(connect, own=True) if isinstance(target, str) else None
        super().__init__(RoundMaker(connect(), another, most=n), session)

    def reset(
        self,
        episodes: Sequence[ResetOptions] | None = None,
        *,
        timeout_s: float | None = None,
        **shared: Unpack[ResetOptions],
    ) -> list[StepResult]:
        """Start all episodes; those before them are closed then.

        An episode that could not be started leaves the one before it as it was, which is closed first only where the
        server has no room for both. Episodes that are to be compared with each other get a `group` here; where none
        is given, there is none.

        Args:
            episodes: options of each episode, which go before the shared ones.
            timeout_s: deadline of each call.
            **shared: options of all episodes; see `ResetOptions`.

        Raises:
            ValueError: there are more or fewer options than episodes, or several episodes of one id.
            BatchError: some episodes could not be started.
            ChatEnvError: no answer came.
        """
        return self._session.show(self._rounds.succeed(self._session.reset(episodes, shared), timeout_s))

    def reset_at(
        self,
        indices: Iterable[int],
        episodes: Sequence[ResetOptions] | None = None,
        *,
        timeout_s: float | None = None,
        **shared: Unpack[ResetOptions],
    ) -> list[StepResult]:
        """Start the episodes at some places anew, and leave the others untouched; those before them are closed then.

        Options are as for `reset`: nothing of earlier ones stays. The results are of all episodes: those at other
        places show what they showed last, as in `step`. After a `reset` in which some episodes could not be started,
        this starts them.

        Args:
            indices: places of the episodes, from 0, each once.
            episodes: options of each of them, in the order of `indices`, which go before the shared ones.
            timeout_s: deadline of each call.
            **shared: options of all of them; see `ResetOptions`.

        Raises:
            RuntimeError: an episode at another place was not started.
            TypeError: an index is no whole number.
            ValueError: there is no such place, or it comes twice; there are more or fewer options than places, or
                several episodes of one id.
            BatchError: some episodes could not be started; those that were before them stay.
            ChatEnvError: no answer came.
        """
        return self._session.show(self._rounds.succeed(self._session.reset_at(indices, episodes, shared), timeout_s))

    def step(self, actions: Sequence[Action | None], *, timeout_s: float | None = None) -> list[StepResult]:
        """Append one turn to each episode that has an action.

        Args:
            actions: one an episode, each as `ChatEnv.step` takes it. None leaves the episode as it is, also one that
                is over: the result is what it showed last, with its reward only where no call has returned that yet.
            timeout_s: deadline of each call.

        Raises:
            RuntimeError: not every episode was started.
            TypeError: something is no action; nothing was sent.
            ValueError: there are more or fewer actions than episodes.
            BatchError: some steps failed; the others were applied. Its `results` have what these show; so has the next
                step, where they have no action in it.
            ChatEnvError: no answer came; the same step may be tried again.
        """
        return self._session.show(self._rounds.succeed(self._session.step(actions), timeout_s))

    def finish(self, *, assistants: bool = False, timeout_s: float | None = None) -> list[Trajectory]:
        """All episodes as training wants them, in order, and their end, in a few calls; see `ChatEnv.finish`.

        Afterwards there are no episodes until the next `reset`. After a BatchError it may be tried again: it then ends
        those that are left, and gives the trajectories of all.

        Args:
            assistants: as for `ChatEnv.trajectory`.
            timeout_s: deadline of each call.

        Raises:
            RuntimeError: not every episode was started.
            BatchError: some episodes could not be finished; `results` has the trajectories of the others.
            ChatEnvError: no answer came.
        """
        finishing = self._rounds.make(self._session.finish(assistants=assistants), timeout_s)
        return self._session.take_finished(finishing)

    def fork_groups(self, n: int, *, timeout_s: float | None = None) -> VectorChatEnv:
        """Let each episode become a group of `n` that share its past and go their own way from there.

        For group-relative training: start one episode for each prompt, and fork each into its group. The episodes of
        this client stay as they are; the new client owns the forks. Episode `i` becomes those from `i * n` to
        `(i + 1) * n - 1`; their `observations` are what to sample from. Each fork is in the group of its episode; where
        that has none, in one that has the episode's id as its name.

        Args:
            n: episodes of each group.
            timeout_s: deadline of each call.

        Raises:
            RuntimeError: not every episode was started.
            ValueError: a group has no episode.
            BatchError: some episodes could not be forked; there are no forks then.
            ChatEnvError: no answer came.
        """
        forking = self._rounds.make(self._session.fork_groups(n), timeout_s)
        groups = VectorChatEnv.__new__(VectorChatEnv)
        VectorEpisodes.__init__(groups, self._rounds.shared(), self._session.of_forks(forking.results))
        try:
            forking.check()
        except ChatEnvError:
            with suppress(ChatEnvError):
                groups.close(timeout_s=timeout_s)
            raise
        return groups

    def close(self, *, timeout_s: float | None = None) -> None:
        """End all episodes, and close the channel if it was opened here. Closing twice is fine.

        Raises:
            ChatEnvError: the server could not be told of all; this client is closed all the same.
        """
        connection = self._rounds.connection
        if connection.is_over:
            return
        with connection.closing():
            self._rounds.make(self._session.close(), timeout_s).check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with yielding_to(error):
            if error is not None:
                self._rounds.end_within(FAREWELL_S)
            self.close()
