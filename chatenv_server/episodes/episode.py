"""One live episode of a server: its lock, its environment, and its last answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from chatenv_client.errors import DeadlineError, StepIndexMismatchError
from chatenv_client.models import ChatAction, ChatObservation
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.answers import Answer, digest_of
from chatenv_server.stores.store import NOWHERE, Place
from chatenv_server.work import Pause
from chatenv_server.workers import shared_workers


class Caller(Protocol):
    """The caller that waits for an answer; a `grpc.ServicerContext` is one."""

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline; None: it has none."""

    def is_active(self) -> bool:
        """Whether somebody still waits for the answer."""


Write = Callable[[ChatObservation], None]
"""Writes an answer to a Reset or Step, before what it did is final; raises where there can be no answer."""


@dataclass(eq=False)
class Episode:
    """A live episode as a process holds it. All but its id belongs to the thread that holds its lock."""

    episode_id: str
    last_used: float
    """Time of the last call, by the clock of the episodes."""
    environment: ChatEnvironment | None = None
    """None before the first Reset went through or the store has given it, and once it is out."""
    is_out: bool = False
    """Whether it is no longer among the episodes that the process holds: whoever waited for it has to look again."""
    accounted_tokens: int = 0
    """Its tokens, as they were last counted among those that are held."""
    segment: int = 0
    """Number of the segment that its last step showed."""
    place: Place = NOWHERE
    """How far its journal is."""
    created: float = 0.0
    """Seconds since 1970."""
    noted_use: float = 0.0
    """Time of the last use that the store knows of, by the clock of the episodes."""
    answer: Answer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, caller: Caller | None) -> None:
        """Wait for the lock and hold it until `release`. Without a caller it waits for ever.

        Raises:
            DeadlineError: others held it until the caller's deadline, or the caller hung up while it waited.
        """
        # Asking how long the caller waits costs more than the lock, which is free nearly always.
        if not self._lock.acquire(blocking=False) and not self._lock.acquire(timeout=_patience_s(caller)):
            raise DeadlineError(
                "another call on this episode lasted until this call's deadline, so this one was not begun; "
                "try again with a longer deadline"
            )
        self.check_waited_for(caller)

    def check_waited_for(self, caller: Caller | None) -> None:
        """Give the lock back, and raise DeadlineError, where the caller has hung up."""
        try:
            check_waits(caller)
        except DeadlineError:
            self._lock.release()
            raise

    @property
    def is_at_work(self) -> bool:
        """Whether a call holds the lock just now."""
        return self._lock.locked()

    def try_acquire(self) -> bool:
        """Hold the lock until `release` if nobody else holds it; whether it was free."""
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    async def acquired(self, caller: Caller | None) -> None:
        """Wait as `acquire` does, within work."""
        await _Held(self, caller)

    def begin(self, environment: ChatEnvironment, place: Place, created: float) -> None:
        """Go on with a new environment, which was just reset."""
        self.environment = environment
        self.place, self.created = place, created
        self.segment = 0
        self.answer = None

    def leave(self) -> None:
        """Drop all that it holds, for good."""
        self.is_out, self.environment, self.answer, self.accounted_tokens = True, None, None, 0

    def replayed(self, step_count: int, step_index: int | None, action: ChatAction) -> ChatObservation | None:
        """The stored answer if a Step repeats the last one; None if it is the next.

        Raises:
            StepIndexMismatchError: it is neither.
        """
        if step_index is None or step_index == step_count:
            return None
        repeats_last = step_index == step_count - 1
        if repeats_last and self.answer is not None and self.answer.digest == digest_of(self.episode_id, action):
            return self.answer.observation
        what = "but asks another thing than the step on record" if repeats_last else "which is not the next step"
        raise StepIndexMismatchError(
            f"the episode has taken {step_count} steps and this Step says {step_index}, {what}; "
            "read the state to go on, or reset the episode",
            details={"expected_step_index": str(step_count), "received_step_index": str(step_index)},
        )


class _Held(Pause[None]):
    """The lock of an episode, as something that work waits for."""

    __slots__ = ("_caller", "_episode", "_failure")

    def __init__(self, episode: Episode, caller: Caller | None) -> None:
        self._episode = episode
        self._caller = caller
        self._failure: DeadlineError | None = None

    def wait(self) -> None:
        """Wait in this thread."""
        self._episode.acquire(self._caller)

    def start(self, ended: Callable[[], None]) -> None:
        """Wait in another thread, which holds it for who goes on."""

        def wait() -> None:
            try:
                self._episode.acquire(self._caller)
            except DeadlineError as error:
                self._failure = error
            ended()

        shared_workers().start(wait)

    def result(self) -> None:
        """Nothing: it is held. Raises DeadlineError where it is not."""
        if self._failure is not None:
            raise self._failure


def check_waits(caller: Caller | None) -> None:
    """See that somebody waits for the answer still, before a call begins.

    Raises:
        DeadlineError: nobody does.
    """
    if caller is not None and not caller.is_active():
        raise DeadlineError("the caller hung up before its call could begin, so nothing was done")


def _patience_s(caller: Caller | None) -> float:
    remaining_s = None if caller is None else caller.time_remaining()
    # Of a call without a deadline gRPC says that centuries remain, which is more than a lock takes.
    return -1 if remaining_s is None or remaining_s > threading.TIMEOUT_MAX else max(0.0, remaining_s)
