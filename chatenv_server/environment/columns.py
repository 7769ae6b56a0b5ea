"""Columns of sampled tokens, checked against the span that they come with and against what is on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatAction, ColumnRows, Rows
from chatenv_client.reasons import Reason
from chatenv_server.engine import EpisodeLog

MAX_BYTES_PER_TOKEN: Final = 4096
"""Of all columns together."""
_LONGEST_NAME: Final = 64


def checked_columns(action: ChatAction, log: EpisodeLog) -> tuple[ColumnRows, ...]:
    """What an action says of its span's tokens, and of the last one before, as rows of the segment.

    Raises:
        InvalidRequestError: rows and tokens do not fit, or a column is another one than before.
    """
    count, last = len(action.tokens), log.last_sampled
    if action.amended_extras and last is None:
        what = "there is no span before this one in its segment, or it has no tokens, so no row can be amended"
        raise _refusal(what, "amended_extras")
    for name, rows in action.extras.items():
        if len(rows) != count:
            raise _refusal(f"column {name!r} has {len(rows)} rows for {count} tokens; send one per token", "extras")
    amended = [ColumnRows(name, last or 0, row[None]) for name, row in action.amended_extras.items()]
    given = [ColumnRows(name, len(log), rows) for name, rows in action.extras.items() if count]
    for columns, field in ((given, "extras"), (amended, "amended_extras")):
        _check_size(columns, field)
    _check_alike(amended, given, log)
    return (*amended, *given)


def _check_size(columns: Sequence[ColumnRows], field: str) -> None:
    names: list[Any] = [one.name for one in columns]  # a caller may name them by anything
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
            raise _refusal(f"a column's name is 1 to {_LONGEST_NAME} printable characters", field)
    taken = sum(one.rows.nbytes // len(one.rows) for one in columns)
    if taken > MAX_BYTES_PER_TOKEN:
        raise _refusal(f"columns take {taken} bytes a token, and at most {MAX_BYTES_PER_TOKEN} are kept", field)


def _check_alike(amended: Sequence[ColumnRows], given: Sequence[ColumnRows], log: EpisodeLog) -> None:
    known: dict[str, tuple[str, tuple[int, ...]]] = {}
    for one, field in (*((one, "amended_extras") for one in amended), *((one, "extras") for one in given)):
        there = log.last_rows(one.name)
        dtype, shape = known.setdefault(one.name, _kind(one.rows if there is None else there))
        if (dtype, shape) != _kind(one.rows):
            raise _refusal(
                f"column {one.name!r} has rows of shape {shape} of {dtype} in this segment, "
                f"and this one is of shape {one.rows.shape[1:]} of {one.rows.dtype.name}",
                field,
            )


def _kind(rows: Rows) -> tuple[str, tuple[int, ...]]:
    return rows.dtype.name, rows.shape[1:]


def _refusal(what: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(what, reason=Reason.BAD_EXTRAS, field=field)
