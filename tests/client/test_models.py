"""What an observation says of its episode."""

from __future__ import annotations

import itertools

import pytest

from chatenv_client import ChatObservation


@pytest.mark.parametrize(("terminated", "truncated"), list(itertools.product([False, True], repeat=2)))
def test_an_episode_is_done_when_it_is_terminated_or_truncated(terminated: bool, truncated: bool) -> None:
    assert ChatObservation(terminated=terminated, truncated=truncated).done is (terminated or truncated)


@pytest.mark.parametrize(("truncated", "value"), list(itertools.product([False, True], repeat=2)))
def test_setting_done_says_that_the_task_itself_is_over_and_nothing_of_limits(truncated: bool, value: bool) -> None:
    observation = ChatObservation(truncated=truncated)
    observation.done = value
    assert (observation.terminated, observation.truncated) == (value, truncated)
