"""What a server reports of its work. How that is measured, `metrics` knows."""

from __future__ import annotations

from collections.abc import Callable


class Telemetry:
    """Is told what happens, from any thread, and ignores it. A subclass overrides what it measures, and must not raise.

    It is never told the id of an episode: no store of metrics can bear that many labels.
    """

    def call_ended(self, method: str, code: str, waited_s: float, took_s: float) -> None:
        """A call was answered.

        Args:
            method: name of the RPC, such as `Step`.
            code: name of its gRPC status.
            waited_s: seconds between its arrival and the moment when a thread took it up.
            took_s: seconds from then on.
        """

    def failed(self, method: str, reason: str) -> None:
        """A call, or an item of a batch or a stream, was refused or failed."""

    def answered(self, received_tokens: int, sent_tokens: int) -> None:
        """A Reset or Step was answered, alone or in a batch or a stream."""

    def inexact(self, kind: str) -> None:
        """A fidelity report was made."""

    def episode_started(self) -> None:
        """An episode was opened, or opened anew."""

    def segment_began(self) -> None:
        """A Step began a new segment of its episode."""

    def episode_ended(self, cause: str) -> None:
        """A live episode is gone: `closed` or `expired`."""

    def episode_held(self) -> None:
        """A call found its episode in memory, where it might have been in the store alone."""

    def episode_loaded(self, seconds: float) -> None:
        """An episode was read from the store and made anew."""

    def store_wrote(self, changes: int, seconds: float) -> None:
        """The store has written so many changes together."""

    def store_conflicted(self) -> None:
        """The store refused a change, because another process was quicker."""

    def store_failed(self) -> None:
        """The store did not answer, or could not write."""

    def archived(self, seconds: float) -> None:
        """The record of an ended episode was written into the archive, which took so long."""

    def archive_failed(self) -> None:
        """There is no record of an ended episode."""

    def watch(self, read: Callable[[], Levels]) -> None:
        """Is given, once, when the server begins to serve, a function that reads what the server holds now."""


class Levels:
    """What a server holds at one moment."""

    __slots__ = ("calls", "episodes", "held_episodes", "held_tokens", "tokens")

    def __init__(self, *, calls: int, episodes: int, tokens: int, held_episodes: int, held_tokens: int) -> None:
        self.calls = calls
        """Calls that are being worked on."""
        self.episodes = episodes
        """Live episodes."""
        self.tokens = tokens
        """Tokens of all live episodes."""
        self.held_episodes = held_episodes
        """Episodes that this process holds in memory."""
        self.held_tokens = held_tokens
        """Tokens of those."""
