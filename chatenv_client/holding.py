"""What a client of one episode, blocking or for asyncio, knows of it and does with it without a call."""

from __future__ import annotations

from chatenv_client.models import ChatObservation
from chatenv_client.session import Session


class EpisodeHolder:
    """Holds the session of one episode."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def episode_id(self) -> str | None:
        """The live episode; None before reset and after close."""
        return self._session.episode_id

    @property
    def observation(self) -> ChatObservation:
        """What the last call showed, or the fork or import that made the episode.

        Raises:
            RuntimeError: there is no episode yet.
        """
        return self._session.observation

    def detach(self) -> str:
        """Let go of the episode, which stays live until somebody ends it or it expires; its id. Makes no call.

        Afterwards this client has no episode: neither `close` nor the end of a `with` block ends the one that it had.

        Raises:
            RuntimeError: there is no episode.
        """
        return self._session.detach()
