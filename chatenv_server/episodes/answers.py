"""The answer to the last step of an episode, in case it got lost on the way, and how its repetition is known."""

from __future__ import annotations

import hashlib
from typing import Final

from chatenv_client.models import ChatAction, ChatObservation

_DIGEST_BYTES: Final = 16


class Answer:
    """The answer to a step.

    Args:
        observation: what was answered.
        asked: what it answers: the action, or the digest of one that a store or a snapshot kept.
    """

    __slots__ = ("_asked", "observation")

    def __init__(self, observation: ChatObservation, asked: ChatAction | bytes) -> None:
        self.observation = observation
        self._asked = asked

    @property
    def digest(self) -> bytes:
        """Of what it answers. Made when somebody asks: few steps are repeated, and not all are stored."""
        if not isinstance(self._asked, bytes):
            self._asked = digest_of(self.observation.episode_id, self._asked)
        return self._asked


def digest_of(episode_id: str, action: ChatAction) -> bytes:
    """The same for two steps exactly if they ask the same of the same episode, by BLAKE2b-128."""
    arrays = {
        "tokens": action.tokens,
        "logprobs": action.logprobs,
        "mask": action.mask,
        **{f"extras {name}": rows for name, rows in action.extras.items()},
        **{f"amended {name}": row for name, row in action.amended_extras.items()},
    }
    given = {name: array for name, array in arrays.items() if array is not None}
    told = (
        episode_id,
        [(name, array.dtype.str, array.shape) for name, array in given.items()],
        action.stop_reason,
        action.model_version,
        action.model_version_runs,
        action.messages,
        action.replace_from,
        action.message,
        action.prompt_fingerprint,
    )
    digest = hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    for array in given.values():
        digest.update(array.tobytes())
    return digest.digest()
