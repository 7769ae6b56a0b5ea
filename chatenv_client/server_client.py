"""What a blocking client can ask of its server without an episode: what it is and has, and which episodes are live."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chatenv_client import inquiries, reading
from chatenv_client._connection import Connection
from chatenv_client.models import ChatState, EpisodeSummary, Row, ServerInfo, TokenText


class ServerClient:
    """A client of a chatenv server, whatever else it does there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """What the server is. Needs no episode."""
        return self._connection.make(inquiries.server_info(), timeout_s)

    def describe_tokens(self, ids: Iterable[int], *, timeout_s: float | None = None) -> Sequence[TokenText]:
        """What tokens of the server's tokenizer stand for, one for each id. Needs no episode.

        Args:
            ids: any; each is best asked for once.
            timeout_s: deadline of each call.
        """
        asking = inquiries.tokens(ids)
        return [text for call in asking for text in self._connection.make(call, timeout_s)]

    def list_rows(
        self, task: str | None = None, split: str | None = None, *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Row]:
        """The rows of data that the server has for a task, in order: what `reset(row=...)` chooses from.

        Needs no episode. What a row is to hide, such as its answer, stays on the server.

        Args:
            task: name of the task; None: the only one.
            split: name of the split; None: the only one, or `train`.
            page_size: how many are read at once; 0: as many as the server likes.
            timeout_s: deadline of each call.

        Raises:
            InvalidRequestError: there is no such task or split.
        """
        for call in inquiries.rows(task, split, page_size):
            yield from self._connection.make(call, timeout_s)

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

    def peek(self, episode_id: str, *, timeout_s: float | None = None) -> ChatState:
        """The whole of somebody's episode, read from the server. This client's own stays what it is.

        Raises:
            EpisodeNotFoundError: there is none of that id.
        """
        return self._connection.make(reading.state(episode_id), timeout_s)
