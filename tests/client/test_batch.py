"""How a round of many calls is divided into few."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.batch import EDGE_ITEMS, MIDDLE_ITEMS, Round
from chatenv_client.calls import Call
from chatenv_client.models import Limits

LARGEST = 4096


@given(
    asked=st.lists(st.tuples(st.sampled_from(["Reset", "Step", "CloseEpisode"]), st.integers(0, 1500)), max_size=80),
    max_items=st.integers(1, 40) | st.none(),
)
def test_parts_keep_the_limits_and_hold_every_call_once(asked: list[tuple[str, int]], max_items: int | None) -> None:
    round_: Round[Any] = Round(len(asked))
    for index, (method, size) in enumerate(asked):
        request = getattr(pb, f"{method}Request")(episode_id="a" * size)
        round_.ask(index, partial(Call, method, request, bool))
    parts = list(round_.parts(Limits(max_message_bytes=LARGEST, max_batch_items=max_items)))
    assert sorted(index for part in parts for index in part.items) == list(range(len(asked)))
    for part in parts:
        (method,) = {asked[index][0] for index in part.items}
        assert part.method == {"Reset": "BatchReset", "Step": "BatchStep"}.get(method, method)
        assert len(part.items) <= (min(MIDDLE_ITEMS, max_items or MIDDLE_ITEMS) if method != "CloseEpisode" else 1)
        assert len(part.items) == 1 or part.request.ByteSize() <= LARGEST


@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        (1, [1]),
        (EDGE_ITEMS, [EDGE_ITEMS]),
        (EDGE_ITEMS + 1, [EDGE_ITEMS // 2, EDGE_ITEMS // 2 + 1]),
        (3 * EDGE_ITEMS, [EDGE_ITEMS] * 3),
        (2 * EDGE_ITEMS + MIDDLE_ITEMS, [EDGE_ITEMS, MIDDLE_ITEMS, EDGE_ITEMS]),
        (2 * EDGE_ITEMS + MIDDLE_ITEMS + 2, [EDGE_ITEMS, MIDDLE_ITEMS // 2 + 1, MIDDLE_ITEMS // 2 + 1, EDGE_ITEMS]),
    ],
)
def test_the_first_part_and_the_last_are_small_and_the_others_few(items: int, sizes: list[int]) -> None:
    round_: Round[Any] = Round(items)
    round_.plan(range(items), lambda _, request: Call("Step", request, bool))
    assert [len(part.items) for part in round_.parts(Limits())] == sizes


def test_lanes_share_what_goes_first_and_last() -> None:
    items = 2 * (EDGE_ITEMS + MIDDLE_ITEMS)
    round_: Round[Any] = Round(items)
    round_.plan(range(items), lambda _, request: Call("Step", request, bool))
    parts = [(part.lane, len(part.items)) for part in round_.parts(Limits(), lanes=2)]
    edge = EDGE_ITEMS // 2
    assert parts == [(lane, size) for size in (edge, MIDDLE_ITEMS, edge) for lane in (0, 1)]
