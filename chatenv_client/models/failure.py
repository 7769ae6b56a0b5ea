"""Why an episode ended that something broke in: data of the episode, so that nobody takes it for a reward of 0."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason

MAX_REASON_CHARACTERS: Final = 4096
"""Of what a failure says for a person."""


class FailureKind(str, enum.Enum):
    """What broke. `make docs` writes the table in docs/errors.md from this file."""

    TASK = "task"
    """The task could not go on: its sandbox, its data or its own code failed."""
    TOOL = "tool"
    """A tool that the episode depends on could not be reached."""
    JUDGE = "judge"
    """Nobody could score the episode."""
    SAMPLER = "sampler"
    """The engine that samples failed, or gave up."""
    CANCELLED = "cancelled"
    """The trainer threw the rollout away, such as one that is too old for its weights."""
    OTHER = "other"
    """Something else; the reason says what."""

    __str__ = str.__str__


class Failure(NamedTuple):
    """Why an episode ended that something broke in. Its turns are no examples, whatever rewards they have."""

    kind: FailureKind
    reason: str = ""
    """One sentence for a person, at most 4,096 characters."""

    @classmethod
    def of(cls, kind: FailureKind | str, reason: str = "") -> Failure:
        """A failure of a kind, or of its word.

        Raises:
            TypeError: the reason is no text.
            InvalidRequestError: reason BAD_FAILURE: there is no such kind, or the reason is too long, or holds half of
                a surrogate pair.
        """
        check_reason(reason, "reason")
        return cls(as_kind(kind, "kind"), reason)

    def as_json(self) -> dict[str, str]:
        """The failure in files and on pages."""
        return {"kind": self.kind.value, "reason": self.reason}


def check_reason(reason: str, field: str) -> None:
    """Refuse what is no reason of a failure; see `Failure.of`."""
    if not isinstance(reason, str):
        raise TypeError(f"the reason of a failure is a text, not {reason!r:.99}")
    if len(reason) > MAX_REASON_CHARACTERS:
        what = f"the reason has {len(reason)} characters; give a sentence, of {MAX_REASON_CHARACTERS} at most"
        raise bad_failure(what, field)
    if any("\ud800" <= one <= "\udfff" for one in reason):
        raise bad_failure("the reason holds half of a surrogate pair, which is no Unicode text", field)


def as_kind(kind: FailureKind | str, field: str) -> FailureKind:
    """A kind, or the one of a word; see `Failure.of`."""
    try:
        return FailureKind(kind)
    except ValueError:
        known = ", ".join(repr(each.value) for each in FailureKind)
        raise bad_failure(f"{kind!r:.99} is no kind of failure; there are {known}", field) from None


def bad_failure(what: str, field: str) -> InvalidRequestError:
    """What a failure is refused with."""
    return InvalidRequestError(what, reason=Reason.BAD_FAILURE, field=field)
