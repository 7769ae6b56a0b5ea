"""Calls that need no episode: what the server is and has, which episodes are live, what tokens stand for.

Like those of a session they are built and read here, without any input or output. What takes several calls is an
iterator of them: each is to be made before the next is asked for, and its result is a part of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call
from chatenv_client.errors import ProtocolError
from chatenv_client.models import EpisodeSummary, Row, ServerInfo, TokenText
from chatenv_client.tokens import as_token_ids, pack_tokens

ItemT = TypeVar("ItemT")
_Page = tuple[Sequence[ItemT], str]
"""Items, and the token of the page after them; empty: there is none."""

MOST_TOKENS: Final = 16_384
"""Of one `DescribeTokens`."""


def server_info() -> Call[ServerInfo]:
    """Ask what the server is."""
    return Call("GetServerInfo", pb.GetServerInfoRequest(), wire.info_from_proto)


def tokens(ids: Iterable[int]) -> Iterator[Call[Sequence[TokenText]]]:
    """Ask what tokens stand for, one for each id.

    Raises:
        InvalidRequestError: an id has more than 32 bits.
    """
    asked = [*ids]
    for start in range(0, len(asked), MOST_TOKENS):
        yield _some_tokens(asked[start : start + MOST_TOKENS])


def _some_tokens(ids: Sequence[int]) -> Call[Sequence[TokenText]]:
    def receive(response: pb.DescribeTokensResponse) -> Sequence[TokenText]:
        if len(response.tokens) != len(ids):
            raise ProtocolError(f"the answer describes {len(response.tokens)} tokens, not {len(ids)}")
        return wire.token_texts_from_proto(response)

    request = pb.DescribeTokensRequest()
    pack_tokens(request, as_token_ids(ids))
    return Call("DescribeTokens", request, receive)


def episodes(prefix: str, page_size: int) -> Iterator[Call[Sequence[EpisodeSummary]]]:
    """Ask for the live episodes whose id begins with a prefix, page by page.

    Raises:
        InvalidRequestError: there is no page of that size.
    """

    def receive(response: pb.ListEpisodesResponse) -> _Page[EpisodeSummary]:
        page = wire.page_from_proto(response)
        if any(not each.episode_id.startswith(prefix) for each in page.episodes):
            raise ProtocolError(f"the list has episodes whose id does not begin with {prefix!r}")
        return page.episodes, page.next_token

    def ask(token: str) -> Call[_Page[EpisodeSummary]]:
        return Call("ListEpisodes", wire.page_to_proto(prefix, page_size, token), receive)

    return _pages(ask)


def rows(task: str | None, split: str | None, page_size: int) -> Iterator[Call[Sequence[Row]]]:
    """Ask for the rows of a split, page by page.

    Raises:
        InvalidRequestError: there is no page of that size.
    """

    def receive(response: pb.ListRowsResponse) -> _Page[Row]:
        page = wire.row_page_from_proto(response)
        return page.rows, page.next_token

    def ask(token: str) -> Call[_Page[Row]]:
        return Call("ListRows", wire.rows_to_proto(task or "", split or "", page_size, token), receive)

    return _pages(ask)


def _pages(ask: Callable[[str], Call[_Page[ItemT]]]) -> Iterator[Call[Sequence[ItemT]]]:
    """The calls for all pages of a list, where `ask` makes the one for the page that a token names."""
    token = ""

    def turn(page: _Page[ItemT]) -> Sequence[ItemT]:
        nonlocal token
        items, following = page
        if following and following == token:
            raise ProtocolError("the list has no end: a page names itself as the next one")
        token = following
        return items

    yield ask(token).then(turn)
    while token:
        yield ask(token).then(turn)
