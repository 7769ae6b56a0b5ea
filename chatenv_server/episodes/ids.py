"""Ids of episodes: which texts can be one, and a new one where the caller gives none."""

from __future__ import annotations

import re
import uuid
from typing import Final

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason

_EPISODE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def is_episode_id(text: str) -> bool:
    """Whether a text could be the id of an episode."""
    return _EPISODE_ID.fullmatch(text) is not None


def checked_id(episode_id: str | None, field: str = "episode_id") -> str:
    """An id, or a new one where none is given.

    Raises:
        InvalidRequestError: it is none.
    """
    if not episode_id:
        return uuid.uuid4().hex
    if not is_episode_id(episode_id):
        raise InvalidRequestError(
            f"{field} must be 1 to 128 characters of A-Z a-z 0-9 . _ : -", reason=Reason.BAD_EPISODE_ID, field=field
        )
    return episode_id
