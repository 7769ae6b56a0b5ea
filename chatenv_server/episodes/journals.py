"""Episodes as their store has them: journals that are read, and made environments of.

Knows nothing of locks, nor of what the process holds. What cannot be read is told apart: damaged, ended, never opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import (
    EpisodeClosedError,
    EpisodeDamagedError,
    EpisodeExpiredError,
    EpisodeNotFoundError,
    EpisodeUnknownError,
    InvalidRequestError,
)
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.answers import Answer
from chatenv_server.stores.store import End, Journal, Standing, Store

_ENDS: Final = {End.CLOSED: EpisodeClosedError, End.EXPIRED: EpisodeExpiredError}
_NOT_FOUND: Final[dict[type[EpisodeNotFoundError], str]] = {
    EpisodeUnknownError: "there is no such episode: it was never opened, or {lost}",
    EpisodeClosedError: "the episode was closed",
    EpisodeExpiredError: "the episode was idle for too long and expired",
}


class Read(NamedTuple):
    """An episode that was read."""

    journal: Journal
    environment: ChatEnvironment
    answer: Answer
    """To its last step."""


class Journals:
    """Reads the episodes of a store.

    Args:
        store: where they live.
        open_environment: makes an environment for an episode.
    """

    def __init__(self, store: Store, open_environment: Callable[[], ChatEnvironment]) -> None:
        self._store = store
        self._open_environment = open_environment

    async def read(self, episode_id: str) -> Read:
        """An episode, live in an environment of its own.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
            EpisodeDamagedError, TokenizerMismatchError, StoreUnavailableError: it cannot be read.
        """
        journal = self._journal_of(episode_id)
        snapshot = _snapshot_of(journal)
        environment = self._open_environment()
        with _told_as_damage():
            observation = await environment.restoring(snapshot)
        return Read(journal, environment, Answer(observation, snapshot.entries[-1].request_digest))

    def snapshot_of(self, episode_id: str) -> pb.EpisodeSnapshot:
        """An episode as a snapshot.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
            EpisodeDamagedError, StoreUnavailableError: it cannot be read.
        """
        return _snapshot_of(self._journal_of(episode_id))

    def _journal_of(self, episode_id: str) -> Journal:
        while (journal := self._store.load(episode_id)) is None:  # or it ended just now, and was opened anew since
            standing = self._store.standing(episode_id)
            if standing is None or standing.end is not None:
                raise self._not_found(standing)
        return journal

    def refusal_of(self, episode_id: str) -> EpisodeNotFoundError:
        """The error for an episode that is not live: what its store knows of its end."""
        return self._not_found(self._store.standing(episode_id))

    def _not_found(self, standing: Standing | None) -> EpisodeNotFoundError:
        kind = EpisodeUnknownError if standing is None or standing.end is None else _ENDS[standing.end]
        lost = "it ended long ago" if self._store.keeps else "the server was restarted since"
        return kind(f"{_NOT_FOUND[kind].format(lost=lost)}; call Reset to open one")


def _snapshot_of(journal: Journal) -> pb.EpisodeSnapshot:
    with _told_as_damage():
        return wire.snapshot_of_bytes(b"".join(journal.entries))


@contextmanager
def _told_as_damage() -> Iterator[None]:
    """What a caller's snapshot would be refused for, is damage in a store's."""
    try:
        yield
    except InvalidRequestError as error:
        what = f"the record of the episode is damaged, and is left as it is ({error.message})"
        raise EpisodeDamagedError(what) from error
