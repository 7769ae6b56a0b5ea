"""What an observation says of its episode."""

from __future__ import annotations

import itertools

import pytest

from chatenv_client import ChatObservation


@pytest.mark.parametrize(("terminated", "truncated"), list(itertools.product([False, True], repeat=2)))
def test_an_episode_is_done_when_it_is_terminated_or_truncated(terminated: bool, truncated: bool) -> None:
    assert ChatObservation(terminated=terminated, truncated=truncated).done is (terminated or truncated)


def test_done_cannot_be_set_for_it_does_not_say_which_of_the_two_is_meant() -> None:
    with pytest.raises(AttributeError, match="done"):
        setattr(ChatObservation(), "done", True)  # noqa: B010 - mypy knows that this is refused
