"""Lists: of live episodes and of the rows of a server's data, a page at a time; and of what tokens stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import EpisodeSummary, Row, TokenText
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import dump_json, load_object
from chatenv_client.wire.requests import unix_seconds


class Page(NamedTuple):
    """A page of a list of episodes."""

    episodes: list[EpisodeSummary]
    next_token: str
    """Where the next page begins; empty: this is the last."""


class RowPage(NamedTuple):
    """A page of the rows of a split."""

    rows: list[Row]
    next_token: str
    """As in `Page`."""
    total: int = 0
    """Rows of the split."""


def page_to_proto(prefix: str, page_size: int, token: str) -> pb.ListEpisodesRequest:
    """Asks for a page of a list.

    Raises:
        InvalidRequestError: the page size is no number of episodes.
    """
    request = pb.ListEpisodesRequest(id_prefix=prefix, page_token=token)
    _write_page_size(request, page_size)
    return request


def rows_to_proto(task: str, split: str, page_size: int, token: str) -> pb.ListRowsRequest:
    """Asks for a page of rows.

    Raises:
        InvalidRequestError: the page size is no number of rows.
    """
    request = pb.ListRowsRequest(task=task, split=split, page_token=token)
    _write_page_size(request, page_size)
    return request


def _write_page_size(request: pb.ListEpisodesRequest | pb.ListRowsRequest, page_size: int) -> None:
    try:
        request.page_size = page_size
    except ValueError as error:
        what = f"page_size is {page_size}; give 1 to 1000, or 0 for the server's own"
        raise InvalidRequestError(what, reason=Reason.BAD_PAGE, field="page_size") from error


def page_from_proto(encoded: pb.ListEpisodesResponse) -> Page:
    """A page of a list.

    Raises:
        InvalidRequestError: metadata is no JSON object.
    """
    return Page([_summary(each) for each in encoded.episodes], encoded.next_page_token)


def _summary(encoded: pb.EpisodeSummary) -> EpisodeSummary:
    return EpisodeSummary(
        episode_id=encoded.episode_id,
        step_count=encoded.step_count,
        token_count=encoded.token_count,
        message_count=encoded.message_count,
        created_unix_seconds=unix_seconds(encoded.created),
        last_used_unix_seconds=unix_seconds(encoded.last_used),
        terminated=encoded.terminated,
        truncated=encoded.truncated,
        failed=encoded.failed,
        metadata=load_object(encoded.metadata_json, "metadata", Reason.BAD_METADATA),
    )


def row_page_to_proto(page: RowPage) -> pb.ListRowsResponse:
    """A page of rows.

    Raises:
        InvalidRequestError: what is public of a row is no JSON object.
    """
    rows = map(_row_to_proto, page.rows)
    return pb.ListRowsResponse(rows=rows, next_page_token=page.next_token, count=page.total)


def _row_to_proto(row: Row) -> pb.Row:
    public = dump_json(row.public, "public", Reason.BAD_ROW) if row.public else ""
    return pb.Row(index=row.index, id=row.id, public_json=public)


def row_page_from_proto(encoded: pb.ListRowsResponse) -> RowPage:
    """A page of rows.

    Raises:
        InvalidRequestError: what is public of a row is no JSON object.
    """
    return RowPage(_rows(encoded.rows), encoded.next_page_token, encoded.count)


def _rows(encoded: Iterable[pb.Row]) -> list[Row]:
    return [Row(one.index, one.id, load_object(one.public_json, "public", Reason.BAD_ROW)) for one in encoded]


def token_texts_to_proto(texts: Iterable[TokenText]) -> pb.DescribeTokensResponse:
    """What tokens stand for."""
    kind = pb.DescribeTokensResponse.TokenText
    return pb.DescribeTokensResponse(tokens=[kind(text=one.text, is_control=one.is_control) for one in texts])


def token_texts_from_proto(encoded: pb.DescribeTokensResponse) -> Sequence[TokenText]:
    """What tokens stand for."""
    return [TokenText(one.text, one.is_control) for one in encoded.tokens]
