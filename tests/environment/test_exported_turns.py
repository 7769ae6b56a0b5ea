"""Trajectories as the calls that sampled them: OpenEnv's TrainingTrace and Harbor's RolloutDetail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatAction, Trajectory, rollout_details, training_trace, write_trajectories
from chatenv_server import ChatEnvironment
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

QUESTION = {"role": "user", "content": "2 + 2?"}


def said(text: str, **fields: Any) -> ChatAction:
    ids = [*text.encode(), 257]
    return ChatAction(tokens=ids, **{"logprobs": [-(place + 1) / 8 for place in range(len(ids))], **fields})


def opened(**options: Any) -> ChatEnvironment:
    env = ChatEnvironment(ByteTokenizer(), **options)
    env.reset(episode_id="e", messages=[QUESTION], group="g")
    return env


def played() -> ChatEnvironment:
    env = opened()
    env.step(said("5", model_version="v1"))
    env.step({"role": "user", "content": "No."})
    env.step(said("4", mask=[0, 1], stop_reason="length"))
    env.set_reward({"right": 1.0}, step=3)
    return env


def test_a_turn_is_a_call_with_the_stream_before_it_as_its_prompt() -> None:
    trajectory = played().trajectory()
    stream = trajectory.tokens.tolist()
    first, second = training_trace(trajectory)["turns"]
    assert (first["node_id"], second["node_id"]) == ("e/1", "e/3")
    assert first["completion_token_ids"] == [*b"5", 257]
    assert second["completion_token_ids"] == [*b"4", 257]
    for turn in (first, second):
        whole = turn["prompt_token_ids"] + turn["completion_token_ids"]
        assert whole == stream[: len(whole)]
        assert len(turn["loss_mask"]) == len(whole)
    assert first["loss_mask"] == [0] * len(first["prompt_token_ids"]) + [1, 1]
    assert second["loss_mask"] == [0] * len(second["prompt_token_ids"]) + [0, 1]
    assert first["per_token_logps"] == [-0.125, -0.25]
    told = {"group": "g", "episode_reward": 1.0, "reward": 1.0, "rewards": {"right": 1.0}, "stop_reason": "length"}
    assert {name: second["metadata"][name] for name in told} == told
    assert first["metadata"]["model_version"] == "v1"
    assert (first["metadata"]["reward"], first["metadata"]["failure"]) == (None, None)


def test_a_detail_has_the_turns_of_a_segment_side_by_side() -> None:
    trajectory = played().trajectory()
    (detail,) = rollout_details(trajectory)
    assert detail["completion_token_ids"] == [[*b"5", 257], [*b"4", 257]]
    assert [len(prompt) for prompt in detail["prompt_token_ids"]] == [
        turn.start for turn in trajectory.turns if turn.origin.value == "sampled"
    ]
    assert detail["logprobs"] == [[-0.125, -0.25], [-0.125, -0.25]]
    assert detail["extra"]["loss_mask"] == [[1, 1], [0, 1]]
    assert detail["extra"]["reward"] == [None, 1.0]
    assert {len(values) for values in detail["extra"].values()} == {2}


def test_each_segment_is_told_as_it_was_sampled() -> None:
    env = opened(history_policy="segment")
    env.step(said("5"))
    env.step({"role": "user", "content": "3 + 3?"}, replace_from=0)
    env.step(said("6"))
    trajectory = env.trajectory()
    turns = training_trace(trajectory)["turns"]
    assert [turn["metadata"]["segment"] for turn in turns] == [0, 1]
    for turn, segment in zip(turns, trajectory.segments, strict=True):
        whole = turn["prompt_token_ids"] + turn["completion_token_ids"]
        assert whole == segment.tokens[: len(whole)].tolist()
    first, second = rollout_details(trajectory)
    assert first["completion_token_ids"] + second["completion_token_ids"] == [[*b"5", 257], [*b"6", 257]]


def test_of_an_episode_that_failed_nothing_is_trained_on() -> None:
    env = played()
    env.fail("the judge is gone", "judge")
    trajectory = env.trajectory()
    turns = training_trace(trajectory)["turns"]
    assert not any(any(turn["loss_mask"]) for turn in turns)
    assert {turn["metadata"]["failure"]["reason"] for turn in turns} == {"the judge is gone"}
    assert {turn["metadata"]["episode_reward"] for turn in turns} == {None}
    assert rollout_details(trajectory)[0]["extra"]["loss_mask"] == [[0, 0], [0, 0]]


def test_without_logprobs_there_is_no_trace_and_a_detail_leaves_them_out() -> None:
    env = opened()
    env.step(said("5", logprobs=None))
    with pytest.raises(ValueError, match="step 1 of episode 'e' was sampled without logprobs"):
        training_trace(env.trajectory())
    (detail,) = rollout_details(env.trajectory())
    assert "logprobs" not in detail


def test_where_nothing_was_sampled_there_is_no_turn() -> None:
    trajectory = opened().trajectory()
    assert (training_trace(trajectory), rollout_details(trajectory)) == ({"turns": []}, [])


def lines_of(path: Path, trajectory: Trajectory, **form: Any) -> list[Any]:
    assert write_trajectories(path, [trajectory, trajectory], **form) == 2
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_of_a_file_is_what_the_function_gives(tmp_path: Path) -> None:
    trajectory = played().trajectory()
    file = tmp_path / "a.jsonl"
    assert lines_of(file, trajectory, form="training_trace") == [training_trace(trajectory)] * 2
    assert lines_of(file, trajectory, form="rollout_details") == [rollout_details(trajectory)] * 2
    with pytest.raises(ValueError, match=r"JSON Lines alone: give a name that ends in \.jsonl"):
        write_trajectories(tmp_path / "a.parquet", [trajectory], form="training_trace")
    with pytest.raises(ValueError, match="no form 'trace'; there are trajectory, training_trace, rollout_details"):
        write_trajectories(file, [trajectory], form="trace")  # type: ignore[arg-type]
    assert len(file.read_text("utf-8").splitlines()) == 2
