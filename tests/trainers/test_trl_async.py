"""TRL's rollout worker, for real: its loop, the process that it spawns, and a stand-in that speaks vLLM's protocol."""

from __future__ import annotations

import pickle
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason="TRL is not installed: make test-trainers")

import accelerate
from datasets import Dataset
from trl.experimental.async_grpo import AsyncGRPOConfig, async_rollout_worker

from chatenv_client.trainers.trl_async import EpisodeLoop, EpisodeWorker, rollout_worker
from chatenv_server import Settings, serve
from tests.engine.archetypes import ARCHETYPES
from tests.trainers.page import run_block
from tests.trainers.tasks import Echo
from tests.trainers.tiny_model import tiny_tokenizer
from tests.trainers.token_server import TokenServer, token_server

GROUP = 4
Samples = list[Any]


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL wants vLLM beside it although it calls it over HTTP."""
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda: True)


def worker_of(engine: TokenServer, address: str, folder: Path, **options: Any) -> EpisodeWorker:
    """A worker as a trainer gets it."""
    settings: dict[str, Any] = {"num_generations": GROUP, "max_inflight_tasks": 8, "max_completion_length": 16}
    return rollout_worker(
        address,
        model="tiny",
        args=AsyncGRPOConfig(
            output_dir=str(folder),
            vllm_server_base_url=engine.url,
            queue_maxsize=16,
            use_cpu=True,
            report_to=[],
            **settings,
        ),
        dataset=Dataset.from_list([{"prompt": {"max_turns": 9}}, {"prompt": {"max_turns": 8}}]),
        **{"processing_class": tiny_tokenizer(folder / "tokenizer"), **options},
    )


def whole_groups(count: int, take: Callable[[], Any]) -> Samples:
    """What is taken of so many groups; of the one after them not all may be there."""
    taken: Samples = []
    while len({sample.group_id for sample in taken}) <= count:
        taken.append(take())
    last = taken[-1].group_id
    return [sample for sample in taken if sample.group_id != last]


def loop_of(worker: EpisodeWorker, scored: queue.Queue[Any]) -> EpisodeLoop:
    """The loop of a worker, to run in this process."""
    accelerate.PartialState()  # the loop logs by it
    return EpisodeLoop(
        **worker._loop_kwargs,
        rollout_buffer=scored,
        model_version_value=SimpleNamespace(value=0),
        heartbeat_value=SimpleNamespace(value=0.0),
        failed_event=threading.Event(),
        exception_info_queue=queue.Queue(),
        metrics_queue=queue.Queue(),
    )


def rollouts(engine: TokenServer, address: str, folder: Path, groups: int, **options: Any) -> Samples:
    """What the loop scores, in a thread of this process."""
    scored: queue.Queue[Any] = queue.Queue(maxsize=16)
    loop = loop_of(worker_of(engine, address, folder, **options), scored)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        return whole_groups(groups, lambda: scored.get(timeout=60))
    finally:
        loop._loop.call_soon_threadsafe(loop._stop_event.set)
        thread.join()


def runs_of(mask: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """(start, stop) of each run of ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def check_that_each_run_was_said(samples: Samples, engine: TokenServer) -> None:
    """Each run of trained tokens is what the engine said to exactly the tokens before it, logprobs included."""
    for sample in samples:
        ids = sample.input_ids.tolist()
        for start, stop in runs_of(sample.completion_mask):
            said = engine.said[tuple(ids[:start])]
            logprobs = sample.old_log_probs[start:stop]
            assert any(
                turn == ids[start:stop] and np.array_equal(np.asarray(given, dtype=np.float32), logprobs)
                for turn, given in said
            )
        assert not sample.old_log_probs[sample.completion_mask == 0].any()
        assert sample.completion_mask[-1] == 1


def test_the_rows_of_a_spawned_worker_are_what_the_engine_said_bit_for_bit(address: str, tmp_path: Path) -> None:
    with token_server() as engine:
        worker = worker_of(engine, address, tmp_path, task_args={"turns": 3})
        worker.start()
        try:
            samples = whole_groups(3, lambda: worker.rollout_buffer.get(timeout=120))
            worker.check_health(60)
        finally:
            worker.stop()
    assert len(samples) == 3 * GROUP
    assert {len(list(runs_of(sample.completion_mask))) for sample in samples} == {3}
    check_that_each_run_was_said(samples, engine)
    for sample in samples:
        said = [bytes(sample.input_ids[start : stop - 1].tolist()) for start, stop in runs_of(sample.completion_mask)]
        assert sample.metrics["rewards/episode_reward"] == sample.metrics["reward"] == sum(map(len, said))


def test_the_episodes_of_a_group_have_one_seed(address: str, tmp_path: Path) -> None:
    with token_server() as engine:
        samples = rollouts(engine, address, tmp_path, 3, task_args={"turns": 1})
    seeds: dict[int, set[str]] = defaultdict(set)
    for sample in samples:
        seeds[sample.group_id].add(sample.completion[0]["content"])
    assert [len(each) for each in seeds.values()] == [1] * 3
    assert len(set.union(*seeds.values())) == 3


def test_with_another_tokenizer_the_loop_ends_before_it_samples(address: str, tmp_path: Path, turned: Any) -> None:
    with token_server() as engine:
        with pytest.raises(ValueError, match="start the server with the model's own tokenizer"):
            loop_of(worker_of(engine, address, tmp_path, processing_class=turned), queue.Queue()).run()
        assert not engine.said


class Breaking(Echo):
    """Breaks in some episodes, in the second turn."""

    def open(self, episode: Any) -> Any:
        self.breaks_at = 1 if int(episode.episode_id[-1], 36) % 3 == 0 else None
        return super().open(episode)


def test_a_failed_episode_is_left_out_and_no_part_of_the_mean(tmp_path: Path) -> None:
    with token_server() as engine, serve(Settings(listen=("127.0.0.1:0",)), task=Breaking) as server:
        samples = rollouts(engine, server.target, tmp_path, 6)
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.group_id].append(sample)
        assert len(list(runs_of(sample.completion_mask))) == 2
    assert min(map(len, groups.values())) < GROUP
    for group in groups.values():
        rewards = np.array([sample.metrics["reward"] for sample in group])
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
        assert np.allclose([sample.advantage for sample in group], expected, atol=1e-6)


def test_an_episode_of_several_segments_has_a_training_sequence_for_each(tmp_path: Path) -> None:
    template = tmp_path / "strips.jinja"
    template.write_text(ARCHETYPES["thoughts are stripped once a user has spoken"])
    settings = Settings(listen=("127.0.0.1:0",), chat_template=str(template))
    thinking = token_server(lambda draw: f"<think>{draw.choice('abc')}</think>d")
    with thinking as engine, serve(settings, task=Echo) as server:
        samples = rollouts(engine, server.target, tmp_path, 2, history_policy="segment")
    assert len(samples) == 2 * 2 * GROUP
    check_that_each_run_was_said(samples, engine)


def test_the_page_makes_a_worker_as_printed(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer(tmp_path / "model")
    worker = run_block(1, address, tmp_path / "model", until="trainer = ")["worker"]
    assert isinstance(worker, EpisodeWorker)
    pickle.dumps(worker._loop_kwargs)  # as TRL does, to send it to its process
