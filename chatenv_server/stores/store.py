"""What a store of episodes does: the one protocol behind which SQLite and Redis stand.

A store keeps journals: for each episode its opening, then one entry for each applied call, as bytes that it does not
look into. It knows nothing of tokens or templates. Every change names the place in the journal that it follows on, and
is refused where another process has written meanwhile. So two processes cannot both apply a step.

A journal that is begun anew under the same id has another `run`, so that a place in the old one is never taken for one
in the new one.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol

ANSWERS_KEPT_S: Final = 600.0
"""Seconds for which a store gives the last answer of an episode again, unless the id is begun anew: time enough for a
server to be restarted and for a caller to try again."""


class End(Enum):
    """How an episode ended. Ends are remembered for a while, so that callers can be told closed from unknown."""

    CLOSED = "closed"
    EXPIRED = "expired"


class Place(NamedTuple):
    """A place in a journal."""

    run: str
    """Which journal of the episode's id: chosen anew by every `Begin`."""
    version: int
    """How many entries stand before it."""


NOWHERE: Final = Place("", 0)
"""The place of an episode that has no journal."""


_RUNS: Final = random.Random()  # noqa: S311 - no secret
# A forked process would go on with the same runs as its parent.
os.register_at_fork(after_in_child=_RUNS.seed)


def new_run() -> str:
    """A run that no other journal has."""
    # Asking the system for each makes a thread give up the interpreter, which took a tenth of a reset in a batch.
    return f"{_RUNS.getrandbits(64):016x}"


class Summary(NamedTuple):
    """What a list shows of an episode: rewritten with every entry."""

    step_count: int = 0
    token_count: int = 0
    """Length of the stream."""
    held_tokens: int = 0
    """What the episode counts against the limit of tokens."""
    message_count: int = 0
    created: float = 0.0
    """Seconds since 1970."""
    last_used: float = 0.0
    """Seconds since 1970."""
    terminated: bool = False
    truncated: bool = False
    metadata_json: str = ""
    """A JSON object; empty: there is none."""
    failed: bool = False
    """Whether something broke in it."""


class Begin(NamedTuple):
    """Begin a journal."""

    episode_id: str
    run: str
    entries: Sequence[bytes]
    summary: Summary
    replaces: bool = True
    """Whether a live episode of this id gives way; else the change is refused where there is one."""


class Append(NamedTuple):
    """Add an entry. Refused where the journal is not at that place, or has ended."""

    episode_id: str
    follows: Place
    entry: bytes
    summary: Summary
    continues: bool = False
    """Whether it follows on another change of the same write, and so is refused where that is: another process may have
    written as many entries."""


class Finish(NamedTuple):
    """End an episode, and drop its journal. Refused where the journal is another run, or has ended."""

    episode_id: str
    run: str
    end: End
    at: float
    """Seconds since 1970."""
    unused_since: float = math.inf
    """Refused, too, where it was used after this moment, in seconds since 1970."""
    version: int | None = None
    """Refused, too, where the journal has another number of entries; None: whatever it has."""
    answer: bytes = b""
    """What the caller is told with the end, kept for `ANSWERS_KEPT_S`; empty: nothing that has to be told again."""


class Touch(NamedTuple):
    """Note that an episode was used by a call that wrote nothing. Never refused."""

    episode_id: str
    run: str
    last_used: float
    """Seconds since 1970."""


Change = Begin | Append | Finish | Touch


class Standing(NamedTuple):
    """Where an episode stands in a store: little to ask for, whatever its length."""

    place: Place
    last_used: float
    end: End | None = None
    """None while it is live."""


class Journal(NamedTuple):
    """A whole episode."""

    place: Place
    entries: Sequence[bytes]
    summary: Summary


class Totals(NamedTuple):
    """What all live episodes take together."""

    episodes: int
    held_tokens: int


class Listed(NamedTuple):
    """An episode in a list."""

    episode_id: str
    summary: Summary


class Store(Protocol):
    """Journals of episodes. Safe to use from many threads and processes at once.

    Every method raises StoreUnavailableError where the store does not answer, cannot write, or lacks the time. Then it
    is not known whether a change took place: nothing is believed of an episode until it is looked up again.
    """

    name: str
    """What it is, for a person; without a password."""
    keeps: bool
    """Whether it keeps anything; else what a process holds is all there is."""

    def write(self, changes: Sequence[Change]) -> list[bool]:
        """Make changes in their order, durably, in one transaction; of each, whether it took place.

        One that is refused does not keep the others from taking place.
        """

    def standing(self, episode_id: str) -> Standing | None:
        """Where an episode stands; None: unknown, or it ended too long ago."""

    def answer(self, episode_id: str) -> bytes:
        """What was told with the end of an episode; empty: nothing, or too long ago."""

    def load(self, episode_id: str) -> Journal | None:
        """A live episode; None: there is no such one. Raises EpisodeDamagedError where the record is broken."""

    def totals(self) -> Totals:
        """What all live episodes take; costs the same whatever their number."""

    def listed(self, prefix: str, after: str, limit: int) -> tuple[Sequence[Listed], str]:
        """Live episodes whose id begins with `prefix`, newest use first, at most `limit` of them; and where to go on.

        `after` is what an earlier call gave as its second value; empty: from the beginning. The second value is empty
        at the end. Raises ValueError where `after` is none that a call gave.
        """

    def idle_since(self, moment: float, limit: int) -> Sequence[tuple[str, str]]:
        """(id, run) of at most `limit` live episodes that were last used before a moment, in seconds since 1970."""

    def check(self) -> None:
        """Whether it answers and can write. Raises StoreUnavailableError where it cannot."""

    def close(self) -> None:
        """Give up connections and files."""
