"""VectorChatEnv: many episodes driven side by side are the same episodes as one by one."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from chatenv_client import (
    BatchError,
    ChatAction,
    ChatEnv,
    EpisodeDoneError,
    EpisodeLimitError,
    EpisodeUnknownError,
    InvalidRequestError,
    MessageTooLargeError,
    StepResult,
    UnavailableError,
    VectorChatEnv,
)
from chatenv_client.batch import EDGE_ITEMS, MIDDLE_ITEMS, Part
from chatenv_client.rounds import RoundMaker
from tests.contract.conftest import Sampler, Serving

HELLO = {"role": "user", "content": "Hello!"}
AGAIN = {"role": "user", "content": "And again?"}
CLOCK = 1_700_000_000.0
BAD = ChatAction(tokens=[-1])


@pytest.fixture
def vector(channel: grpc.Channel) -> Iterator[Callable[..., VectorChatEnv]]:
    """Opens vector clients, closed at the end."""
    opened: list[VectorChatEnv] = []

    def vector(n: int, **options: Any) -> VectorChatEnv:
        opened.append(VectorChatEnv(channel, n, **options))
        return opened[-1]

    yield vector
    for env in opened:
        env.close()


def shown(result: StepResult) -> tuple[Any, ...]:
    observation = result.observation
    return (observation.fingerprint(), observation.messages, observation.step_count, result.reward, result.done)


@pytest.mark.parametrize("n", [1, 5, 70])
def test_uneven_episodes_side_by_side_are_the_same_as_one_by_one(
    channel: grpc.Channel, vector: Callable[..., VectorChatEnv], sample: Sampler, n: int
) -> None:
    rng = random.Random(n)
    scripts: list[list[Any]] = [
        [sample(), AGAIN, [HELLO, AGAIN], sample(3, stop=False)][: rng.randrange(5)] for _ in range(n)
    ]
    options: list[Any] = [{"max_steps": len(script) or 9, "messages": [HELLO]} for script in scripts]
    env = vector(n)
    together = [[shown(result)] for result in env.reset(options, clock=CLOCK, seed=7)]
    for turn in range(4):
        actions = [script[turn] if turn < len(script) else None for script in scripts]
        for index, result in enumerate(env.step(actions)):
            if actions[index] is not None:
                together[index].append(shown(result))
    trajectories = env.trajectories()
    for index, script in enumerate(scripts):
        with ChatEnv(channel) as alone:
            one_by_one = [alone.reset(**options[index], clock=CLOCK, seed=7), *map(alone.step, script)]
            assert [shown(result) for result in one_by_one] == together[index]
            assert alone.trajectory().tokens.tolist() == trajectories[index].tokens.tolist()
            assert alone.trajectory().turns == trajectories[index].turns


def test_an_episode_without_an_action_shows_what_it_showed_last_without_a_reward(
    serving: Serving,
) -> None:
    def rewarding(observation: Any) -> Any:
        observation.reward = 1.0
        return observation

    with serving(open_transform=lambda: rewarding) as target, VectorChatEnv(target, 2) as env:
        env.reset()
        before = env.step([HELLO, HELLO])
        after = env.step([None, AGAIN])
        assert [result.reward for result in before] == [1.0, 1.0]
        assert [result.reward for result in after] == [None, 1.0]
        assert after[0].observation is before[0].observation
        assert env.step([None, None])[1].observation is after[1].observation


def test_one_bad_item_spoils_no_other_and_the_error_tells_of_all(
    vector: Callable[..., VectorChatEnv], sample: Sampler
) -> None:
    env = vector(40)
    env.reset(messages=[HELLO])
    with pytest.raises(BatchError, match="2 of 40 items failed; the first, number 3") as caught:
        env.step([BAD if index in (3, 39) else sample() for index in range(40)])
    error = caught.value
    assert error.code == "INVALID_ARGUMENT"
    assert sorted(error.errors) == [3, 39]
    assert all(isinstance(item, InvalidRequestError) for item in error.errors.values())
    assert [index for index, result in enumerate(error.results) if result is None] == [3, 39]
    assert type(pickle.loads(pickle.dumps(error)).errors[3]) is InvalidRequestError
    mended = env.step([AGAIN if index in (3, 39) else None for index in range(40)])
    assert {result.observation.step_count for result in mended} == {1}


def test_what_cannot_even_be_sent_is_that_items_error_and_what_is_no_action_sends_nothing(
    vector: Callable[..., VectorChatEnv],
) -> None:
    env = vector(2)
    env.reset()
    with pytest.raises(BatchError) as caught:
        env.step([HELLO, {"role": "user", "content": {1, 2}}])
    assert list(caught.value.errors) == [1]
    with pytest.raises(TypeError, match="step takes"):
        env.step([AGAIN, "text"])  # type: ignore[list-item]
    assert [result.observation.step_count for result in env.step([AGAIN, HELLO])] == [2, 1]


@pytest.mark.parametrize("index", [0, 33, 69])
def test_an_action_of_wrong_parts_is_that_items_error_whatever_is_in_flight_already(
    vector: Callable[..., VectorChatEnv], sample: Sampler, index: int
) -> None:
    env = vector(70)
    env.reset(messages=[HELLO])
    actions = [sample() for _ in range(70)]
    actions[index] = ChatAction(tokens=[1], prompt_fingerprint=5)  # type: ignore[arg-type]
    with pytest.raises(BatchError) as caught:
        env.step(actions)
    assert list(caught.value.errors) == [index]
    mended = env.step([sample() if each == index else None for each in range(70)])
    assert {result.observation.step_count for result in mended} == {1}


def test_what_was_sent_is_taken_in_although_a_later_part_cannot_be_built(
    vector: Callable[..., VectorChatEnv], sample: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = EDGE_ITEMS + 1
    in_first_part = n // 2
    env = vector(n)
    env.reset(messages=[HELLO])
    last = env._session.sessions[-1]
    monkeypatch.setattr(last, "step", lambda _action, _request: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        env.step([sample()] * n)
    monkeypatch.undo()
    after = env.step([*([AGAIN] * in_first_part), *([sample()] * (n - in_first_part))])
    assert [result.observation.step_count for result in after] == [*([2] * in_first_part), *([1] * (n - in_first_part))]


def test_the_server_has_its_next_batch_before_the_answer_to_the_last_one_is_read(
    vector: Callable[..., VectorChatEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noting(what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            seen.append(what)
            return method(*arguments)

        return noted

    env = vector(2 * EDGE_ITEMS + MIDDLE_ITEMS + 1)
    env.reset()
    monkeypatch.setattr(RoundMaker, "_begin", noting("sent", RoundMaker._begin))
    monkeypatch.setattr(Part, "receive", noting("read", Part.receive))
    env.step([HELLO] * len(env))
    assert seen == ["sent", "sent", "sent", "read", "sent", "read", "read", "read"]


def test_an_episode_that_is_over_is_refused_until_it_is_reset(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(2)
    env.reset([{"max_steps": 1}, {}])
    assert [result.done for result in env.step([HELLO, HELLO])] == [True, False]
    with pytest.raises(BatchError) as caught:
        env.step([AGAIN, AGAIN])
    assert isinstance(caught.value.errors[0], EpisodeDoneError)
    assert [result.done for result in env.reset()] == [False, False]


def test_autoreset_starts_an_episode_anew_in_place_of_the_action_behind_its_end(
    channel: grpc.Channel, vector: Callable[..., VectorChatEnv]
) -> None:
    env = vector(2, autoreset=True)
    opening = env.reset([{"max_steps": 1}, {}], messages=[HELLO])
    first_id = env.episode_ids[0]
    assert env.step([AGAIN, AGAIN])[0].done
    result = env.step([HELLO, AGAIN])[0]
    assert (result.done, result.observation.step_count) == (False, 0)
    assert result.observation.token_ids.tolist() == opening[0].observation.token_ids.tolist()
    assert env.episode_ids[0] != first_id
    with pytest.raises(Exception, match="closed"):
        ChatEnv(channel).resume(str(first_id))
    assert [result.observation.step_count for result in env.step([AGAIN, AGAIN])] == [1, 3]


def test_without_an_action_an_episode_that_is_over_stays_over(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(2, autoreset=True)
    env.reset([{"max_steps": 1}, {}], messages=[HELLO])
    over = env.step([AGAIN, AGAIN])[0]
    for count in (2, 3):
        results = env.step([None, AGAIN])
        assert results[0].done
        assert results[0].observation is over.observation
        assert results[1].observation.step_count == count
    assert env.step([AGAIN, None])[0].observation.step_count == 0


def test_what_was_applied_beside_a_bad_item_is_what_the_next_step_shows(serving: Serving, sample: Sampler) -> None:
    def rewarding(observation: Any) -> Any:
        observation.reward = float(observation.step_count)
        return observation

    with serving(open_transform=lambda: rewarding) as target, VectorChatEnv(target, 3) as env:
        env.reset(messages=[HELLO])
        with pytest.raises(BatchError) as caught:
            env.step([sample(), BAD, None])
        first = caught.value.results[0]
        again = env.step([None, sample(), None])
        assert [result.reward for result in again] == [1.0, 1.0, None]
        assert again[0] == first
        assert [result.reward for result in env.step([None, None, None])] == [None] * 3


def test_a_reward_that_was_told_is_told_by_no_failure_and_no_fork_again(serving: Serving, sample: Sampler) -> None:
    def rewarding(observation: Any) -> Any:
        observation.reward = 1.0
        return observation

    with serving(open_transform=lambda: rewarding) as target, VectorChatEnv(target, 2) as env:
        env.reset(messages=[HELLO])
        assert [result.reward for result in env.step([sample(), sample()])] == [1.0, 1.0]
        with env.fork_groups(2) as groups:
            assert [result.reward for result in groups.step([None] * 4)] == [None] * 4
        env.fail([None, "it broke"])
        results = env.step([None, None])
        assert [(result.reward, result.done) for result in results] == [(None, False), (None, True)]


def test_what_was_applied_before_somebody_pressed_ctrl_c_is_what_the_next_step_shows(
    vector: Callable[..., VectorChatEnv], sample: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = vector(EDGE_ITEMS + 1)
    env.reset(messages=[HELLO])
    take, taken = RoundMaker._take, []

    def take_one(self: RoundMaker, *arguments: Any) -> None:
        take(self, *arguments)
        taken.append(arguments[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(RoundMaker, "_take", take_one)
    with pytest.raises(KeyboardInterrupt):
        env.step([sample() for _ in range(len(env))])
    monkeypatch.undo()
    shown = env.step([None] * len(env))
    applied = [index for index, result in enumerate(shown) if result.observation.step_count]
    assert applied == list(taken[0].items)


# Some places anew.


def test_episodes_at_some_places_start_anew_and_the_others_go_on(
    channel: grpc.Channel, vector: Callable[..., VectorChatEnv]
) -> None:
    env = vector(4)
    env.reset(messages=[HELLO], max_steps=5)
    ids = env.episode_ids
    live = ChatEnv(channel).server_info().live_episodes
    before = env.step([AGAIN] * 4)
    results = env.reset_at([3, 1], [{"seed": 30}, {"seed": 10}], messages=[AGAIN])
    assert [result.observation.step_count for result in results] == [1, 0, 1, 0]
    assert [result.observation.seed for result in results] == [None, 10, None, 30]
    assert results[0].observation is before[0].observation
    assert [now == then for now, then in zip(env.episode_ids, ids, strict=True)] == [True, False, True, False]
    assert ChatEnv(channel).server_info().live_episodes == live
    assert [result.observation.step_count for result in env.step([AGAIN] * 4)] == [2, 1, 2, 1]


def test_what_is_started_at_a_place_is_what_autoreset_starts_there(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(2, autoreset=True)
    env.reset(messages=[HELLO])
    env.reset_at([1], messages=[AGAIN], max_steps=1)
    env.step([AGAIN, AGAIN])
    results = env.step([AGAIN, AGAIN])
    assert [result.observation.step_count for result in results] == [2, 0]
    assert results[1].observation.messages == [AGAIN]


def test_what_could_not_be_started_at_a_place_is_not_what_autoreset_starts_there(
    vector: Callable[..., VectorChatEnv],
) -> None:
    env = vector(1, autoreset=True)
    env.reset(messages=[HELLO], max_steps=1)
    with pytest.raises(BatchError):
        env.reset_at([0], max_steps=0)
    env.step([AGAIN])
    assert env.step([AGAIN])[0].observation.messages == [HELLO]


def test_what_could_not_be_started_is_started_at_its_place(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(3)
    bad: Any = {"messages": [{"role": 1}]}
    with pytest.raises(BatchError):
        env.reset([{}, bad, bad])
    with pytest.raises(RuntimeError, match="other episode was started"):
        env.reset_at([1])
    with pytest.raises(BatchError) as caught:
        env.reset_at([1, 2], [{}, bad])
    assert list(caught.value.errors) == [2]
    assert [result.observation.step_count for result in env.reset_at([2])] == [0, 0, 0]


def test_no_place_at_all_shows_what_there_is(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(2)
    shown = env.reset(messages=[HELLO])
    assert [one.observation for one in env.reset_at([])] == [one.observation for one in shown]


@pytest.mark.parametrize(
    ("indices", "options", "what"),
    [
        ([2], {}, "no episode at 2"),
        ([-1], {}, "no episode at -1"),
        ([1, 1], {}, "twice"),
        ([0], {"episodes": [{}, {}]}, "2 mappings of options for 1 episodes"),
        ([0, 1], {"episode_id": "same"}, "one id"),
        ([0], {"episode_id": "taken"}, "one id"),
    ],
)
def test_places_and_their_options_are_checked_before_anything_is_sent(
    vector: Callable[..., VectorChatEnv], indices: list[int], options: Any, what: str
) -> None:
    env = vector(2)
    env.reset([{}, {"episode_id": "taken"}])
    with pytest.raises(ValueError, match=what):
        env.reset_at(indices, **options)
    assert [result.observation.step_count for result in env.step([HELLO, HELLO])] == [1, 1]


def test_places_are_numbers_and_no_mask(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(2)
    env.reset()
    assert env.reset_at(np.array([1]))[1].observation.step_count == 0
    for wrong in ([True, False], ["1"], [0.5]):
        with pytest.raises(TypeError):
            env.reset_at(wrong)  # type: ignore[arg-type]


def test_a_mask_of_torch_is_none_either(vector: Callable[..., VectorChatEnv]) -> None:
    torch = pytest.importorskip("torch")
    env = vector(2)
    env.reset()
    assert env.reset_at(torch.tensor([1]))[1].observation.step_count == 0
    with pytest.raises(TypeError, match="not a mask"):
        env.reset_at(torch.tensor([True, False]))


def test_reset_closes_the_episodes_before_and_close_the_last(
    channel: grpc.Channel, vector: Callable[..., VectorChatEnv]
) -> None:
    live = ChatEnv(channel).server_info().live_episodes
    env = vector(50)
    env.reset()
    before = env.episode_ids
    env.reset()
    assert not set(before) & set(env.episode_ids)
    assert ChatEnv(channel).server_info().live_episodes == live + 50
    env.close()
    assert ChatEnv(channel).server_info().live_episodes == live


def test_a_refused_reset_leaves_the_episode_before_as_it_was(
    channel: grpc.Channel, vector: Callable[..., VectorChatEnv]
) -> None:
    live = ChatEnv(channel).server_info().live_episodes
    env = vector(3)
    env.reset(messages=[HELLO])
    before = env.step([AGAIN, AGAIN, AGAIN])
    ids = env.episode_ids
    with pytest.raises(BatchError) as caught:
        env.reset([{}, {"messages": [{"role": 1}]}, {}], messages=[HELLO])
    assert list(caught.value.errors) == [1]
    assert [now == then for now, then in zip(env.episode_ids, ids, strict=True)] == [False, True, False]
    assert ChatEnv(channel).server_info().live_episodes == live + 3
    after = env.step([None, HELLO, None])
    assert [result.observation.step_count for result in after] == [0, 2, 0]
    assert after[1].observation.messages[:2] == before[1].observation.messages[:2]


def test_a_lost_reset_leaves_the_episodes_before_as_they_were(serving: Serving) -> None:
    with serving({}) as target:
        env = VectorChatEnv(target, 2, timeout_s=2)
        shown = env.reset()
    ids = env.episode_ids
    with pytest.raises(UnavailableError):
        env.reset()
    assert env.episode_ids == ids
    assert env.observations == [result.observation for result in shown]
    with pytest.raises(UnavailableError):
        env.close()


def test_where_there_is_no_room_for_both_the_episodes_before_are_closed_first(serving: Serving) -> None:
    with serving({"max_episodes": 3}) as target, VectorChatEnv(target, 3, autoreset=True) as env:
        for _ in range(2):
            env.reset([{"max_steps": 1}, {}, {}])
            assert [result.done for result in env.step([HELLO] * 3)] == [True, False, False]
            assert [result.observation.step_count for result in env.step([HELLO] * 3)] == [0, 2, 2]


def test_episodes_keep_the_ids_that_they_are_given(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(2)
    for _ in range(2):
        env.reset([{"episode_id": "a"}, {"episode_id": "b"}])
        assert env.episode_ids == ["a", "b"]
    with pytest.raises(ValueError, match="one id"):
        env.reset(episode_id="a")


def test_the_servers_limits_on_batches_are_kept(serving: Serving) -> None:
    limits = {"max_batch_items": 3, "max_message_bytes": 4096}
    with serving(limits) as target, VectorChatEnv(target, 10, max_message_bytes=4096) as env:
        env.reset()
        results = env.step([{"role": "user", "content": "a" * size} for size in range(0, 1000, 100)])
        assert [len(result.observation.messages[0]["content"] or "") for result in results] == [*range(0, 1000, 100)]


def test_an_item_that_is_too_large_by_itself_is_that_items_error(serving: Serving) -> None:
    with serving({"max_message_bytes": 4096}) as target, VectorChatEnv(target, 3) as env:
        env.reset()
        with pytest.raises(BatchError) as caught:
            env.step([HELLO, {"role": "user", "content": "a" * 5000}, HELLO])
        assert list(caught.value.errors) == [1]
        assert isinstance(caught.value.errors[1], MessageTooLargeError)
        assert env.step([None, HELLO, None])[1].observation.step_count == 1


def test_answers_that_do_not_fit_together_come_apart_and_the_steps_apply_once(serving: Serving) -> None:
    # A token takes four bytes on the way back and one character on the way there.
    with serving({"max_message_bytes": 8192}) as target, VectorChatEnv(target, 8, max_message_bytes=8192) as env:
        env.reset()
        results = env.step([{"role": "user", "content": "a" * 500}] * 8)
        assert [result.observation.step_count for result in results] == [1] * 8


def test_all_else_goes_on_where_some_episodes_cannot_be_started(serving: Serving) -> None:
    with serving({"max_episodes": 3}) as target, VectorChatEnv(target, 4) as env:
        with pytest.raises(BatchError) as caught:
            env.reset()
        assert [type(error) for error in caught.value.errors.values()] == [EpisodeLimitError]
        with pytest.raises(RuntimeError, match="not every episode was started"):
            env.step([HELLO] * 4)


def test_where_no_answer_comes_the_reason_is_raised_as_it_is() -> None:
    with VectorChatEnv("127.0.0.1:1", 40, timeout_s=2) as env, pytest.raises(UnavailableError):
        env.reset()


def test_an_episode_that_the_server_has_lost_is_that_items_error(
    channel: grpc.Channel, vector: Callable[..., VectorChatEnv]
) -> None:
    env = vector(3)
    env.reset()
    with ChatEnv(channel) as other:
        other.reset(episode_id=str(env.episode_ids[1]))
    with pytest.raises(BatchError) as caught:
        env.step([HELLO] * 3)
    assert [(index, error.reason) for index, error in caught.value.errors.items()] == [(1, "EPISODE_CLOSED")]
    assert not isinstance(caught.value.errors[1], EpisodeUnknownError)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda env: env.step([HELLO]), "1 actions for 2 episodes"),
        (lambda env: env.reset([{}]), "1 mappings of options for 2 episodes"),
    ],
)
def test_as_many_actions_and_options_are_wanted_as_there_are_episodes(
    vector: Callable[..., VectorChatEnv], call: Callable[[VectorChatEnv], Any], what: str
) -> None:
    env = vector(2)
    env.reset()
    with pytest.raises(ValueError, match=what):
        call(env)


def test_it_takes_at_least_one_episode(channel: grpc.Channel) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        VectorChatEnv(channel, 0)


def test_nothing_works_before_reset_and_after_close(vector: Callable[..., VectorChatEnv]) -> None:
    env = vector(2)
    with pytest.raises(RuntimeError, match="reset"):
        env.step([HELLO, HELLO])
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()
