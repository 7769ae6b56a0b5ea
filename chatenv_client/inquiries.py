"""Calls that need no episode: what the server is and has, which episodes are live, what tokens stand for.

Like those of a session they are built and read here, without any input or output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call
from chatenv_client.errors import ProtocolError
from chatenv_client.models import ServerInfo, TokenText
from chatenv_client.tokens import as_token_ids, pack_tokens

MOST_TOKENS: Final = 16_384
"""Of one `DescribeTokens`."""


def server_info() -> Call[ServerInfo]:
    """Ask what the server is."""
    return Call("GetServerInfo", pb.GetServerInfoRequest(), wire.info_from_proto)


def tokens(ids: Sequence[int]) -> Call[Sequence[TokenText]]:
    """Ask what at most MOST_TOKENS tokens stand for.

    Raises:
        InvalidRequestError: an id has more than 32 bits.
    """

    def receive(response: pb.DescribeTokensResponse) -> Sequence[TokenText]:
        if len(response.tokens) != len(ids):
            raise ProtocolError(f"the answer describes {len(response.tokens)} tokens, not {len(ids)}")
        return wire.token_texts_from_proto(response)

    request = pb.DescribeTokensRequest()
    pack_tokens(request, as_token_ids(ids))
    return Call("DescribeTokens", request, receive)


def episodes(prefix: str, page_size: int, token: str) -> Call[wire.Page]:
    """Ask for a page of the live episodes.

    Raises:
        InvalidRequestError: there is no page of that size.
    """

    def receive(response: pb.ListEpisodesResponse) -> wire.Page:
        page = wire.page_from_proto(response)
        if any(not each.episode_id.startswith(prefix) for each in page.episodes):
            raise ProtocolError(f"the list has episodes whose id does not begin with {prefix!r}")
        _check_end(page.next_token, token)
        return page

    return Call("ListEpisodes", wire.page_to_proto(prefix, page_size, token), receive)


def rows(task: str | None, split: str | None, page_size: int, token: str) -> Call[wire.RowPage]:
    """Ask for a page of the rows of a split.

    Raises:
        InvalidRequestError: there is no page of that size.
    """

    def receive(response: pb.ListRowsResponse) -> wire.RowPage:
        page = wire.row_page_from_proto(response)
        _check_end(page.next_token, token)
        return page

    return Call("ListRows", wire.rows_to_proto(task or "", split or "", page_size, token), receive)


def _check_end(next_token: str, token: str) -> None:
    if next_token and next_token == token:
        raise ProtocolError("the list has no end: a page names itself as the next one")
