"""What `ChatEnv` can do with whole episodes: fork them, take them elsewhere, list them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from chatenv_client import inquiries
from chatenv_client._connection import Connection
from chatenv_client._generated.chatenv_pb2 import EpisodeSnapshot
from chatenv_client.models import EpisodeSummary, StepResult
from chatenv_client.session import Session

if TYPE_CHECKING:
    from typing_extensions import Self


class CopyingClient:
    """The part of a client of one episode that copies and lists episodes."""

    _connection: Connection
    _session: Session

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
        env._connection, env._session = self._connection.shared(near=self._session.episode_id), session
        return env

    def export(self, *, timeout_s: float | None = None) -> EpisodeSnapshot:
        """The whole episode as one message, which this server or another takes up again: `import_episode`.

        `SerializeToString()` makes bytes of it. It holds all that was said and sampled.
        """
        return self._connection.make(self._session.export(), timeout_s)

    def import_episode(
        self, snapshot: EpisodeSnapshot | bytes, episode_id: str | None = None, *, timeout_s: float | None = None
    ) -> StepResult:
        """Take an exported episode up, on this server or another, and go on with it. The one before it is closed then.

        Args:
            snapshot: what `export` gave, or its bytes.
            episode_id: the id that it gets; None: its own.
            timeout_s: deadline of this call.

        Raises:
            InvalidRequestError: it is no snapshot, or is cut off or altered.
            TokenizerMismatchError: another tokenizer, chat template or token-id limit wrote it.
            EpisodeExistsError: the id is that of another live episode.
        """
        taking_up = self._session.take_up(snapshot, episode_id)
        closing = self._session.close(unless=taking_up.request.episode_id)
        return self._connection.succeed(closing, taking_up, timeout_s)

    def episodes(
        self, prefix: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[EpisodeSummary]:
        """The live episodes of the server, newest use first. Needs no episode.

        Args:
            prefix: only episodes whose id begins with it.
            page_size: how many are read at once; 0: as many as the server likes.
            timeout_s: deadline of each call.
        """
        for call in inquiries.episodes(prefix, page_size):
            yield from self._connection.make(call, timeout_s)
