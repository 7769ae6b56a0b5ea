"""How a store says that a record is broken."""

from __future__ import annotations

from chatenv_client.errors import EpisodeDamagedError


def damaged(episode_id: str, what: str) -> EpisodeDamagedError:
    """What to raise for a broken record."""
    return EpisodeDamagedError(f"the record of episode {episode_id} is damaged, and left as it is: {what}")
