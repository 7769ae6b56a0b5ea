"""The server's data: rows that tasks get, by task, split and place or id.

A row is a JSON object. Callers see of it no more than its place, its id and its key `public`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import Row, RowCount
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import load_object
from chatenv_server.tasks.row_values import text_of_row

DEFAULT_SPLIT: Final = "train"
MAX_PAGE: Final = 1000
"""Rows of one page."""
ANY_TASK: Final = ""
"""Rows of this task are for all that have none of their own."""


class ChosenRow(NamedTuple):
    """A row, and how it is found again."""

    split: str
    row_id: str
    row: Mapping[str, Any]


class Split:
    """The rows of one split, each kept as its JSON text until somebody asks for it.

    Args:
        texts: the rows, as JSON objects.
        lines: of each the line of the file that it stands in, from 1; None: there are no lines. Errors name it.

    Raises:
        ValueError: one is no JSON object, or two have one id.
    """

    def __init__(self, texts: Sequence[str], lines: Sequence[int] | None = None) -> None:
        self._texts = list(texts)
        self._places: dict[str, int] = {}
        for place, text in enumerate(self._texts):
            row = _row(text, _named(place, lines))
            row_id = id_of(row, place)
            if (other := self._places.setdefault(row_id, place)) != place:
                raise ValueError(f"{_named(place, lines)} has the id {row_id!r}, as {_named(other, lines)} has")

    def __len__(self) -> int:
        return len(self._texts)

    def place(self, row_id: str) -> int | None:
        """The place of an id; None: there is no such row."""
        return self._places.get(row_id)

    def shown(self, place: int) -> Row:
        """What callers see of the row of a place."""
        row = self.row(place)
        public = row.get("public")
        return Row(place, id_of(row, place), public if isinstance(public, dict) else {})

    def row(self, place: int) -> dict[str, Any]:
        """The row of a place, as the caller's own."""
        return _row(self._texts[place], _named(place, None))


def _named(place: int, lines: Sequence[int] | None) -> str:
    return f"row {place}" if lines is None else f"row {place} (line {lines[place]})"


def _row(text: str, named: str) -> dict[str, Any]:
    try:
        return load_object(text, "row", Reason.BAD_ROW)
    except InvalidRequestError as error:
        raise ValueError(f"{named} cannot be read ({error.message})") from error


def id_of(row: Mapping[str, Any], place: int) -> str:
    """The id of a row: its key `id`, a text or a whole number; or its place. An empty text is no id."""
    given = row.get("id")
    is_one = isinstance(given, str | int) and not isinstance(given, bool)
    return (str(given) if is_one else "") or str(place)


class Rows:
    """All rows of a server.

    Args:
        splits: by task and name; of the task "" those that are for any.
    """

    def __init__(self, splits: Mapping[tuple[str, str], Split] | None = None) -> None:
        self._splits = dict(splits or {})

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Rows:
        """The rows of one split, `train`.

        Raises:
            ValueError: one cannot be JSON, or two have one id.
        """
        return cls({(ANY_TASK, DEFAULT_SPLIT): Split(list(map(text_of_row, rows, count())))})

    @property
    def counts(self) -> tuple[RowCount, ...]:
        """How many there are, by task and split."""
        return tuple(RowCount(task, name, len(split)) for (task, name), split in sorted(self._splits.items()))

    @property
    def tasks(self) -> frozenset[str]:
        """The tasks that have rows of their own."""
        return frozenset(task for task, _ in self._splits) - {ANY_TASK}

    def chosen(self, task: str, split: str, place: int | None, row_id: str) -> ChosenRow | None:
        """The row that a reset asks for; None: it asks for none.

        Raises:
            InvalidRequestError: there is no such row, or two were asked for.
        """
        if place is None and not row_id:
            if split:
                raise _no_row("split says of which data a row is, and there is no row; give row or row_id", "split")
            return None
        if place is not None and row_id:
            raise _no_row("row and row_id both choose a row; give one of them", "row_id")
        name, rows = self.split(task, split)
        if row_id:
            place = rows.place(row_id)
        if place is None or not 0 <= place < len(rows):
            asked, field = (repr(row_id), "row_id") if row_id else (str(place), "row")
            raise _no_row(f"there is no row {asked} among the {len(rows)} of split {name!r}", field)
        row = rows.row(place)
        return ChosenRow(name, id_of(row, place), row)

    def split(self, task: str, name: str) -> tuple[str, Split]:
        """The split of this name for a task, or its only one, or `train`.

        Raises:
            InvalidRequestError: there is none.
        """
        own = {split: rows for (of, split), rows in self._splits.items() if of == task}
        own = own or {split: rows for (of, split), rows in self._splits.items() if of == ANY_TASK}
        if not own:
            raise _no_row("this server has no rows of data; give it --rows, or leave row, row_id and split out", "row")
        asked = name or (next(iter(own)) if len(own) == 1 else DEFAULT_SPLIT)
        if asked not in own:
            raise _no_row(f"there is no split {asked!r}; there are {', '.join(sorted(own))}", "split")
        return asked, own[asked]

    def listed(self, task: str, split: str, after: str, limit: int) -> tuple[list[Row], str, int]:
        """A page of the rows of a split as callers see them, where the next one begins, and how many there are.

        Raises:
            InvalidRequestError: there is no such split or page.
        """
        _, rows = self.split(task, split)
        if limit > MAX_PAGE or not _is_place(after, len(rows)):
            what, field = "page_token is none that this server gave", "page_token"
            if limit > MAX_PAGE:
                what, field = f"a page has at most {MAX_PAGE} rows, not {limit}", "page_size"
            raise InvalidRequestError(what, reason=Reason.BAD_PAGE, field=field)
        first = int(after or 0)
        stop = min(first + limit, len(rows))
        return [rows.shown(place) for place in range(first, stop)], str(stop) if stop < len(rows) else "", len(rows)


def _is_place(token: str, count: int) -> bool:
    """Whether a token of a page names a place among so many rows; empty: the first."""
    is_number = token.isascii() and token.isdecimal() and len(token) <= len(str(count))
    return not token or (is_number and int(token) <= count)


def _no_row(what: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(what, reason=Reason.BAD_ROW, field=field)


NO_ROWS: Final = Rows()
