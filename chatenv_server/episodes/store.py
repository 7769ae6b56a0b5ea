"""Episodes by id: opens, finds and ends them, within a budget. Knows nothing of gRPC or of templates.

There are two kinds of lock, taken in this order: that of an episode, held while a call works on it, and that of the
store, held for a few dictionary operations. So no episode waits for the transform of another.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from chatenv_client.errors import (
    EpisodeClosedError,
    EpisodeExpiredError,
    EpisodeLimitError,
    EpisodeNotFoundError,
    EpisodeUnknownError,
    InvalidRequestError,
    TokenLimitError,
)
from chatenv_client.models import ChatAction, ChatObservation, ResetOptions
from chatenv_client.reasons import Reason
from chatenv_server.bounded_cache import BoundedCache
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import LiveTokens
from chatenv_server.episodes.episode import Caller, Episode, Write
from chatenv_server.observing.telemetry import Telemetry

MAX_MESSAGES: Final = 65_536
"""Of one episode. A limit of tokens would not bound its memory, since a template may write nothing for a message."""

REMEMBERED_ENDS: Final = 8192
"""Ended episodes whose end is remembered, so that NOT_FOUND tells closed and expired from unknown."""

_LOG: Final = logging.getLogger(__name__)

_EPISODE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_NOT_FOUND: Final[dict[type[EpisodeNotFoundError], str]] = {
    EpisodeUnknownError: "there is no such episode: it was never opened, or the server was restarted since",
    EpisodeClosedError: "the episode was closed",
    EpisodeExpiredError: "the episode was idle for too long and expired",
}

_CAUSES: Final = {EpisodeClosedError: "closed", EpisodeExpiredError: "expired"}
"""Ends of episodes that were live; one whose first Reset failed never was."""


@dataclass(frozen=True)
class Budget:
    """What all live episodes together may take."""

    max_episodes: int
    max_live_tokens: int
    idle_timeout_s: float = 0.0
    """Seconds without a call after which an episode expires; 0: never."""


class EpisodeStore:
    """All live episodes of a server, in memory. Safe to use from many threads; calls on one episode are serialised.

    A call waits for other calls on its episode until its `caller` has waited long enough; then it raises DeadlineError
    and has done nothing. Without a caller it waits for ever.
    """

    def __init__(
        self,
        open_environment: Callable[[], ChatEnvironment],
        budget: Budget,
        *,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._open_environment = open_environment
        self._telemetry = telemetry or Telemetry()
        self._budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._episodes: dict[str, Episode] = {}
        self._ends: BoundedCache[str, type[EpisodeNotFoundError]] = BoundedCache(REMEMBERED_ENDS)
        self._tokens = LiveTokens(budget.max_live_tokens)
        self._none_is_idle_until = -math.inf
        """By the clock: before it no episode can have been idle for too long, so that nobody needs to look."""

    @property
    def live_episodes(self) -> int:
        """Episodes live now."""
        return len(self._episodes)

    @property
    def live_tokens(self) -> int:
        """Tokens that live episodes hold now."""
        return self._tokens.count

    def reset(
        self, options: ResetOptions, *, caller: Caller | None = None, answer: Write | None = None
    ) -> ChatObservation:
        """Start an episode, or start the named one anew. If that or `answer` fails, everything is as it was.

        Raises:
            InvalidRequestError: a bad episode_id, or whatever the environment refuses.
            EpisodeLimitError: too many episodes.
            TokenLimitError: too many tokens.
        """
        episode_id = _checked_id(options.get("episode_id"))
        named: ResetOptions = {**options, "episode_id": episode_id}
        while True:
            episode = self._find_or_add(episode_id)
            with episode.locked(caller):
                if episode.end is None:  # else it ended while this call waited, and its id is free again
                    return self._start(episode, named, answer)

    def step(
        self,
        episode_id: str,
        action: ChatAction,
        *,
        digest: bytes,
        step_index: int | None = None,
        caller: Caller | None = None,
        answer: Write | None = None,
    ) -> ChatObservation:
        """Append one turn, or give the stored answer again. If `answer` fails, nothing is appended.

        Args:
            episode_id: the episode.
            action: what to append.
            digest: the same for two requests exactly if they ask the same.
            step_index: step_count as the caller has seen it; None: no check.
            caller: who waits for the answer.
            answer: writes it.

        Raises:
            StepIndexMismatchError: neither the next step nor a repetition of the last.
            EpisodeNotFoundError: unknown, closed or expired.
            InvalidRequestError: too many messages.
            TokenLimitError: too many tokens.
            ChatEnvError: whatever the environment refuses.
        """
        # No context manager: its generator would take a microsecond or two, and a whole step takes few.
        episode, environment = self._acquire(episode_id, caller)
        try:
            stored = episode.replayed(environment.step_count, step_index, digest)
            if stored is not None:
                if answer is not None:
                    answer(stored)
                return stored
            _check_message_count(environment, action)
            at_least = max(1, len(action.tokens))
            self._reserve(at_least)
            try:
                observation = episode.step(environment, action, digest, answer)
            finally:
                self._account(episode, reserved=at_least)
            self._count_reports(observation)
            if observation.segment != episode.segment:
                episode.segment = observation.segment
                self._telemetry.segment_began()
            return observation
        finally:
            self._release(episode)

    @contextmanager
    def reading(self, episode_id: str, *, caller: Caller | None = None) -> Iterator[ChatEnvironment]:
        """An episode's environment, to read from while nobody changes it.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
        """
        episode, environment = self._acquire(episode_id, caller)
        try:
            yield environment
        finally:
            self._release(episode)

    def close(self, episode_id: str, *, caller: Caller | None = None) -> bool:
        """End an episode; whether it was live until now."""
        episode = self._episodes.get(episode_id)
        if episode is None:
            return False
        with episode.locked(caller):
            return self._end(episode, EpisodeClosedError)

    def expire_idle(self) -> None:
        """End the episodes that were idle for too long. Costs nothing while none can be."""
        if self._budget.idle_timeout_s and self._clock() > self._none_is_idle_until:
            for episode in self._idle_episodes():
                if episode.try_acquire():
                    try:
                        self._expire_if_idle(episode)
                    finally:
                        episode.release()

    def _idle_episodes(self) -> list[Episode]:
        """All that are idle for too long. Notes until when none of the others can be."""
        now = self._clock()
        with self._lock:
            episodes = list(self._episodes.values())
        idle, oldest = [], now
        for episode in episodes:
            if self._is_idle(episode):
                idle.append(episode)
            else:
                oldest = min(oldest, episode.last_used)
        # A call may hold an idle episode just now; it is looked at again with the next that become idle.
        self._none_is_idle_until = oldest + self._budget.idle_timeout_s
        return idle

    def _is_idle(self, episode: Episode) -> bool:
        timeout_s = self._budget.idle_timeout_s
        return timeout_s > 0 and self._clock() - episode.last_used > timeout_s

    def _expire_if_idle(self, episode: Episode) -> None:
        if self._is_idle(episode) and self._end(episode, EpisodeExpiredError):
            _LOG.info("episode expired", extra={"episode_id": episode.episode_id})

    def _acquire(self, episode_id: str, caller: Caller | None) -> tuple[Episode, ChatEnvironment]:
        """Hold the lock of a live episode, until `_release`."""
        episode = self._episodes.get(episode_id)
        if episode is None:
            raise self._not_found(episode_id)
        episode.acquire(caller)
        try:
            self._expire_if_idle(episode)
        except BaseException:
            episode.release()
            raise
        if episode.environment is None:
            episode.release()
            raise self._not_found(episode_id)
        return episode, episode.environment

    def _release(self, episode: Episode) -> None:
        episode.last_used = self._clock()
        episode.release()

    def _not_found(self, episode_id: str) -> EpisodeNotFoundError:
        kind = self._ends.get(episode_id) or EpisodeUnknownError
        return kind(f"{_NOT_FOUND[kind]}; call Reset to open one")

    def _find_or_add(self, episode_id: str) -> Episode:
        if episode_id not in self._episodes and len(self._episodes) >= self._budget.max_episodes:
            self.expire_idle()
        with self._lock:
            episode = self._episodes.get(episode_id)
            if episode is None:
                if len(self._episodes) >= self._budget.max_episodes:
                    raise EpisodeLimitError(
                        f"{self._budget.max_episodes} episodes are live, as many as this server allows; "
                        "close some, or raise --max-episodes"
                    )
                episode = self._episodes[episode_id] = Episode(episode_id, self._clock())
            return episode

    def _start(self, episode: Episode, options: ResetOptions, answer: Write | None) -> ChatObservation:
        try:
            self._reserve(1)
            try:
                environment = self._open_environment()
                observation = environment.reset(answer=answer, **options)
                episode.begin(environment)
            finally:
                self._account(episode, reserved=1)
        except BaseException:
            if episode.environment is None:
                self._end(episode, EpisodeUnknownError)
            raise
        episode.last_used = self._clock()
        self._telemetry.episode_started()
        self._count_reports(observation)
        return observation

    def _count_reports(self, observation: ChatObservation) -> None:
        for report in observation.fidelity:
            self._telemetry.inexact(report.kind.value)

    def _reserve(self, tokens: int) -> None:
        """Count tokens that are about to be appended, at least so many."""
        try:
            self._tokens.reserve(tokens)
        except TokenLimitError:
            self.expire_idle()
            self._tokens.reserve(tokens)

    def _account(self, episode: Episode, *, reserved: int) -> None:
        """Count what an episode really holds in place of the tokens that were reserved for it."""
        length = 0 if episode.environment is None else episode.environment.held_tokens
        self._tokens.adjust(length - episode.accounted_tokens - reserved)
        episode.accounted_tokens = length

    def _end(self, episode: Episode, end: type[EpisodeNotFoundError]) -> bool:
        """Take an episode out; the caller holds its lock. False: it was out already."""
        if episode.end is not None:
            return False
        with self._lock:
            del self._episodes[episode.episode_id]
            if end is not EpisodeUnknownError:
                self._ends.put(episode.episode_id, end)
        self._tokens.adjust(-episode.accounted_tokens)
        episode.finish(end)
        if end in _CAUSES:
            self._telemetry.episode_ended(_CAUSES[end])
        return True


def _check_message_count(environment: ChatEnvironment, action: ChatAction) -> None:
    if environment.message_count + len(action.messages) > MAX_MESSAGES:
        raise InvalidRequestError(
            f"the episode would hold more than {MAX_MESSAGES} messages; end it, and go on in another",
            reason=Reason.TOO_MANY_MESSAGES,
            field="messages",
        )


def is_episode_id(text: str) -> bool:
    """Whether a text could be the id of an episode."""
    return _EPISODE_ID.fullmatch(text) is not None


def _checked_id(episode_id: str | None) -> str:
    if not episode_id:
        return uuid.uuid4().hex
    if not is_episode_id(episode_id):
        raise InvalidRequestError(
            "episode_id must be 1 to 128 characters of A-Z a-z 0-9 . _ : -",
            reason=Reason.BAD_EPISODE_ID,
            field="episode_id",
        )
    return episode_id
