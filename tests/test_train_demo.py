"""The training demo's laws, in a few small steps: what is trained on is what was sampled, and rendering anew is not."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)
pytest.importorskip("transformers", reason="the server extra is not installed", exc_type=ImportError)

import grpo
import numpy as np
import torch
import train_demo
from grpo import Options, Step, exact_rows, train
from retokenised import mismatch, retokenised_rows
from server_process import server_of
from tiny_model import write_merging_tokenizer
from train_demo import TASK, large_model, model_for, summary

from chatenv_client import ChatAction, ChatEnv, PromptMismatchError, Sample, Trajectory, VectorChatEnv

FEW = Options(steps=2, groups=2, group_size=4, epochs=1)


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """A server in a process of its own, with the built-in tokenizer."""
    with server_of(TASK) as target:
        yield target


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose texts have more than one way to be written in tokens."""
    folder = tmp_path_factory.mktemp("merging")
    write_merging_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Beside other tests one thread is faster than two that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(target: str, options: Options = FEW) -> list[Step]:
    return list(train(model_for(target, options.seed), target, options))


def test_the_trainers_logprobs_are_the_samplers(target: str) -> None:
    steps = trained(target)
    assert all(0 < step.gap <= grpo.TOLERANCE for step in steps)


def test_a_logprob_that_is_off_stops_the_run(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="off the sampler's"):
        trained(target)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(target: str) -> None:
    def weights(seed: int) -> Any:
        model = model_for(target, seed=0)
        list(train(model, target, replace(FEW, seed=seed)))
        return torch.cat([weight.flatten() for weight in model.parameters()])

    one = weights(1)
    assert torch.equal(weights(1), one)
    assert not torch.equal(weights(2), one)


def test_every_prompts_fingerprint_is_that_of_the_ids_that_the_model_read(target: str) -> None:
    model = model_for(target, seed=0)
    with ChatEnv(target) as env:
        observation = env.reset(seed=1, task_args={"highest": 3}).observation
        (turn,) = grpo.sample(model, [observation.token_ids], [257], max_new_tokens=2)
        assert turn.prompt_fingerprint == observation.prompt_fingerprint
        (turn,) = grpo.sample(model, [observation.token_ids[:-1]], [257], max_new_tokens=2)
        with pytest.raises(PromptMismatchError):
            env.step(turn)


def test_prompts_of_different_lengths_are_sampled_side_by_side_as_alone(target: str) -> None:
    model = model_for(target, seed=0)
    prompts = [np.arange(length, dtype=np.int32) for length in (5, 40, 17)]
    for prompt, turn in zip(prompts, grpo.sample(model, prompts, [257], max_new_tokens=3), strict=True):
        row = torch.tensor([*prompt, *turn.tokens])[None]
        with torch.no_grad():
            alone = model(row).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = alone[torch.arange(len(turn.tokens)), torch.from_numpy(turn.tokens).long()]
        np.testing.assert_allclose(turn.logprobs, expected, atol=1e-5)


def test_a_model_in_a_folder_is_trained_with_the_tokenizer_beside_it(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    command = [sys.executable, "-m", "chatenv_server.commands.cli", "tokenizer", "export", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    model_for(target, seed=0).save_pretrained(folder)
    with server_of(TASK, str(folder)) as served:
        (step,) = train(large_model(str(folder)), served, replace(FEW, steps=1))
    assert 0 < step.gap <= grpo.TOLERANCE


def test_a_run_that_is_told_to_end_leaves_no_server_behind() -> None:
    command = [sys.executable, train_demo.__file__, "--steps", "1000", "--hidden-size", "32", "--layers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("step ")
        run.send_signal(signal.SIGTERM)
        # The server writes to the same pipe: it comes to an end when both are gone.
        run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM


def test_a_reward_counts_by_its_distance_from_its_groups_mean() -> None:
    advantages = grpo.advantages_of(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]))
    assert advantages.tolist() == pytest.approx([0.5 / 0.6, -0.5 / 0.6, 0.0, 0.0], abs=1e-3)


def test_what_a_run_comes_to_says_what_was_checked(target: str) -> None:
    steps = trained(target)
    text = summary(steps, seconds=1.0)
    assert f"{sum(step.prompts for step in steps)} prompts, the fingerprint of each one checked" in text
    assert "chatenv's share of the training steps' time: " in text
    assert all(set(step.seconds) == {"chatenv", "sampling", "rows", "learning"} for step in steps)
    assert all(0 < step.chatenv_share < 1 for step in steps)


# The usual bookkeeping.


@pytest.fixture(scope="module")
def merging_target(merging: Path) -> Iterator[str]:
    with server_of(TASK, str(merging)) as target:
        yield target


@pytest.fixture(scope="module")
def tokenizer(merging: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(merging)


def rows_of_turn(target: str, tokenizer: Any, tokens: Sequence[int]) -> tuple[Sample, Sample]:
    """The row of an episode in which this was sampled, and the same tokenized anew."""
    with ChatEnv(target) as env:
        env.reset(seed=1, task_args={"highest": 3})
        env.step(ChatAction(tokens=tokens, logprobs=[-1.0] * len(tokens)))
        trajectory = env.trajectory()
    (exact,), (anew,) = exact_rows([trajectory]), retokenised_rows([trajectory], tokenizer)
    return exact, anew


def test_a_turn_that_is_written_as_the_tokenizer_would_is_the_same_anew(merging_target: str, tokenizer: Any) -> None:
    exact, anew = rows_of_turn(merging_target, tokenizer, tokenizer.encode("Is it 3?<|im_end|>"))
    assert anew.tokens.tolist() == exact.tokens.tolist()
    assert anew.loss_mask.tolist() == exact.loss_mask.tolist()
    assert np.isnan(anew.logprobs).all()


def other_spelling(tokenizer: Any) -> list[int]:
    """A text in single letters, which the tokenizer would merge."""
    return [*(token for letter in "Is it 3?" for token in tokenizer.encode(letter)), tokenizer.eos_token_id]


@pytest.mark.parametrize(
    "what", ["a space in front", "bytes that are no text", "other splits", "a turn that is cut off"]
)
def test_what_a_model_samples_besides_is_another_row_anew(merging_target: str, tokenizer: Any, what: str) -> None:
    sampled = {
        "a space in front": tokenizer.encode(" 3<|im_end|>"),
        "bytes that are no text": [tokenizer.convert_tokens_to_ids("ÿ"), tokenizer.eos_token_id],
        "other splits": other_spelling(tokenizer),
        "a turn that is cut off": tokenizer.encode("3"),
    }[what]
    exact, anew = rows_of_turn(merging_target, tokenizer, sampled)
    assert exact.tokens[exact.loss_mask].tolist() == sampled
    assert anew.tokens[anew.loss_mask].tolist() != sampled


def test_a_model_that_knows_nothing_yet_is_trained_on_other_tokens_by_the_usual_bookkeeping(
    merging_target: str, tokenizer: Any
) -> None:
    model = model_for(merging_target, seed=0)
    seen = []

    def anew(trajectories: Sequence[Trajectory]) -> list[Sample]:
        rows = retokenised_rows(trajectories, tokenizer)
        seen.append(mismatch(exact_rows(trajectories), rows, model))
        return rows

    steps = list(train(model, merging_target, FEW, anew))
    assert all(math.isnan(step.gap) for step in steps)
    assert all(found.tokens > 0 and found.masks > 0 and found.logprobs > 0 for found in seen)


def test_nothing_is_off_where_the_rows_are_the_same(target: str) -> None:
    model = model_for(target, seed=0)
    with ChatEnv(target) as env:
        stop_ids = env.server_info().stop_ids
    with VectorChatEnv(target, FEW.groups * FEW.group_size) as env:
        rows = exact_rows(grpo.play(env, model, stop_ids, [1, 2], FEW, grpo.Clock()))
    found = mismatch(rows, rows, model)
    assert (found.tokens, found.masks) == (0.0, 0.0)
    assert found.logprobs < 1e-3


def test_the_same_figures_give_the_same_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the group `plot` is not installed")
    from train_plots import write_plot

    for name in ("one.svg", "other.svg"):
        write_plot(tmp_path / name, {"reward": {"exact": [[0.0, 0.5, 1.0], [0.1, 0.4]]}, "off": {"exact": [[1.0]]}})
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert b"</svg>" in (tmp_path / "one.svg").read_bytes()
