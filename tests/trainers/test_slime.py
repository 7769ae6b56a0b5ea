"""The generate function, with an engine server of SGLang's protocol. slime itself is on no index: its part is stood in
for by `seams/slime`, where it is not installed."""

from __future__ import annotations

import asyncio
import copy
import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatenv_client import ChatEnv
from chatenv_server import Settings, serve
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.trainers.engines import THOUGHT
from tests.trainers.inference import InferenceServer
from tests.trainers.pages import block_of
from tests.trainers.tasks import Echo

if importlib.util.find_spec("slime") is None:
    sys.path.append(str(Path(__file__).parent / "seams"))
pytest.importorskip("slime.utils.types", reason="another package has the name of slime")

from slime.utils.types import Sample

from chatenv_client.trainers.slime import generate_with, without_failures

FILTER = "chatenv_client.trainers.slime.without_failures"


@pytest.fixture
def engine() -> Iterator[InferenceServer]:
    with InferenceServer().running() as server:
        yield server


def arguments(engine: InferenceServer, **own: Any) -> Any:
    """What slime was started with."""
    given = {
        "sglang_router_ip": engine.host,
        "sglang_router_port": engine.port,
        "dynamic_sampling_filter_path": FILTER,
        "reward_key": None,
        "partial_rollout": False,
        "mask_offpolicy_in_partial_rollout": False,
        "use_rollout_routing_replay": False,
    }
    return SimpleNamespace(**{**given, **own})


def sample_of(**options: Any) -> Any:
    prompt = [{"role": "user", "content": "Go."}]
    return Sample(prompt=prompt, index=5, group_index=2, session_id="s1", label="4", metadata={"chatenv": options})


def generated(generate: Any, args: Any, sample: Any, max_new_tokens: int = 256, **own: Any) -> Any:
    return asyncio.run(generate(args, sample, {"max_new_tokens": max_new_tokens, "temperature": 1.0}, **own))


def response(sample: Any) -> tuple[list[int], list[int]]:
    start = len(sample.tokens) - sample.response_length
    return sample.tokens[:start], sample.tokens[start:]


def test_ids_mask_and_logprobs_of_the_sample_are_the_engines(engine: InferenceServer, address: str) -> None:
    made = generated(generate_with(address), arguments(engine), sample_of(seed=3, task_args={"turns": 3}))
    ((ids, mask, logprobs),) = engine.tiny.rows()
    assert made.tokens == ids.tolist()
    start = len(made.tokens) - made.response_length
    assert made.loss_mask == mask[start:].tolist()
    assert made.rollout_log_probs == pytest.approx(logprobs[start:].tolist())
    assert made.status is Sample.Status.COMPLETED
    assert made.weight_versions == ["7"] * 3
    assert made.reward > 0


def test_the_engine_is_asked_with_ids_and_the_servers_stop_ids(engine: InferenceServer, address: str) -> None:
    generated(generate_with(address), arguments(engine), sample_of())
    assert all("text" not in asked and 257 in asked["sampling_params"]["stop_token_ids"] for asked in engine.asked)
    assert {
        headers["X-Smg-Routing-Key" if "X-Smg-Routing-Key" in headers else "X-SMG-Routing-Key"]
        for headers in engine.headers
    } == {"s1"}


def test_the_file_of_the_page_plays_an_episode(engine: InferenceServer, address: str) -> None:
    names: dict[str, Any] = {}
    exec(block_of("slime", "python", address), names)
    assert generated(names["generate"], arguments(engine), sample_of()).reward > 0


def test_a_reward_has_the_key_that_slime_looks_for(engine: InferenceServer, address: str) -> None:
    made = generated(generate_with(address), arguments(engine, reward_key="score"), sample_of())
    assert made.reward["score"] == made.reward["length"]


def test_where_nobody_rewards_slime_asks_its_own_model(engine: InferenceServer, bare_address: str) -> None:
    made = generated(generate_with(bare_address), arguments(engine), sample_of())
    assert made.reward is None
    assert made.status is Sample.Status.COMPLETED


def test_a_response_has_no_more_tokens_than_slime_allows(engine: InferenceServer, address: str) -> None:
    made = generated(generate_with(address), arguments(engine), sample_of(task_args={"turns": 99}), 60)
    assert made.response_length <= 60
    assert made.status is Sample.Status.TRUNCATED
    assert made.loss_mask[-1] == 1


def test_several_rows_are_several_samples_of_one_rollout(forgetful: str) -> None:
    with InferenceServer(THOUGHT).running() as engine:
        asked = sample_of(history_policy="segment", task_args={"turns": 3})
        made = generated(generate_with(forgetful), arguments(engine), asked)
        rows = engine.tiny.rows()
    assert [each.tokens for each in made] == [ids.tolist() for ids, _, _ in rows]
    assert [each.loss_mask for each in made] == [mask[int(mask.argmax()) :].tolist() for _, mask, _ in rows]
    assert {each.rollout_id for each in made} == {5}
    assert len({each.reward for each in made}) == 1
    said = [ByteTokenizer().decode(each.tokens[:-1]) for each in engine.tiny.generated]
    assert sum(each.reward for each in made) == pytest.approx(sum(map(len, said)))
    whole = generated_reward(forgetful, made[0].metadata["chatenv_episode"])
    assert whole is None, "the episode is ended"


def generated_reward(address: str, episode_id: str) -> float | None:
    from chatenv_client import EpisodeNotFoundError

    with ChatEnv(address) as env:
        try:
            env.resume(episode_id)
        except EpisodeNotFoundError:
            return None
        return env.trajectory().reward


def test_a_broken_episode_is_played_again(engine: InferenceServer, flaky: str) -> None:
    made = generated(generate_with(flaky), arguments(engine), sample_of())
    assert made.status is Sample.Status.COMPLETED
    assert sum(made.loss_mask) == sum(len(each.tokens) for each in engine.tiny.generated[2:])


def test_one_that_cannot_be_played_is_failed_and_its_group_is_left_out(engine: InferenceServer, address: str) -> None:
    generate = generate_with(address, attempts=2)
    broken = generated(generate, arguments(engine), sample_of(task_args={"breaks_at": 0}))
    sound = generated(generate, arguments(engine), sample_of())
    assert (broken.status, broken.remove_sample) == (Sample.Status.FAILED, True)
    assert math.isnan(broken.reward)
    assert not without_failures(arguments(engine), [sound, [broken]]).keep
    assert without_failures(arguments(engine), [sound, [sound]]).keep


def test_without_the_filter_slime_is_stopped_at_once(engine: InferenceServer, address: str) -> None:
    args = arguments(engine, dynamic_sampling_filter_path=None)
    with pytest.raises(ValueError, match="--dynamic-sampling-filter-path chatenv_client"):
        generated(generate_with(address), args, sample_of())
    assert generated(generate_with(address), args, sample_of(), evaluation=True).reward > 0


# Partial rollouts.


@pytest.mark.parametrize("is_masked", [False, True])
def test_an_aborted_sample_is_gone_on_with(address: str, is_masked: bool) -> None:
    generate = generate_with(address)
    with InferenceServer(aborts_at=(1,)).running() as engine:
        args = arguments(engine, partial_rollout=True, mask_offpolicy_in_partial_rollout=is_masked)
        paused = generated(generate, args, sample_of(task_args={"turns": 3}))
        assert paused.status is Sample.Status.ABORTED
        assert paused.reward is None
        if is_masked:
            paused.loss_mask = [0] * paused.response_length  # as slime does
        engine.weight_version = "8"
        made = generated(generate, args, copy.deepcopy(paused))
        ((ids, mask, _),) = engine.tiny.rows()
    old = paused.response_length
    assert made.tokens == ids.tolist()
    assert made.loss_mask[old:] == mask[len(paused.tokens) :].tolist()
    assert sum(made.loss_mask[:old]) == (0 if is_masked else sum(mask[: len(paused.tokens)]))
    assert made.weight_versions == ["7", "7", "8", "8"]
    assert made.status is Sample.Status.COMPLETED
    assert generated_reward(address, made.metadata["chatenv_episode"]) is None, "the episode is ended"


def test_an_aborted_sample_whose_episode_is_gone_begins_anew(address: str) -> None:
    generate = generate_with(address)
    with InferenceServer(aborts_at=(1,)).running() as engine:
        args = arguments(engine, partial_rollout=True)
        paused = generated(generate, args, sample_of())
        with ChatEnv(address) as env:
            env.resume(paused.metadata["chatenv_episode"])
            env.finish()
        made = generated(generate, args, paused)
        assert made.status is Sample.Status.COMPLETED
        assert sum(made.loss_mask) == sum(len(each.tokens) for each in engine.tiny.generated[2:])


def test_an_aborted_sample_whose_server_is_gone_is_failed(engine: InferenceServer) -> None:
    with (
        InferenceServer(aborts_at=(1,)).running() as aborting,
        serve(Settings(listen=("127.0.0.1:0",)), task=Echo) as server,
    ):
        generate = generate_with(server.target, attempts=2)
        paused = generated(generate, arguments(aborting, partial_rollout=True), sample_of())
    made = generated(generate, arguments(engine, partial_rollout=True), paused)
    assert made.status is Sample.Status.FAILED
    assert math.isnan(made.reward)


def test_an_aborted_sample_with_several_rows_begins_anew(forgetful: str) -> None:
    generate = generate_with(forgetful)
    with InferenceServer(THOUGHT, aborts_at=(2,)).running() as engine:
        args = arguments(engine, partial_rollout=True)
        paused = generated(generate, args, sample_of(history_policy="segment", task_args={"turns": 3}))
        assert (paused.status, paused.tokens) == (Sample.Status.ABORTED, [])
        made = generated(generate, args, paused)
        assert len(made) == 3
