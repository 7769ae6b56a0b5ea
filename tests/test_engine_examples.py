"""The examples of engines: `generate` for real, vLLM and SGLang against a server of their protocols."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from engine_sglang import SgLang
from engine_vllm import Vllm

from chatenv_client import ChatEnv, StopReason
from chatenv_client.trainers.playing import play
from chatenv_server import Settings, serve
from tests.trainers.inference import InferenceServer
from tests.trainers.tasks import Echo

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STOP_IDS = [257, 258]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(Settings(listen=("127.0.0.1:0",)), task=Echo) as server:
        yield server.target


def engine_of(kind: str, inference: InferenceServer, **own: Any) -> Any:
    return (
        Vllm(inference.url, "m", STOP_IDS, version=7, **own)
        if kind == "vllm"
        else SgLang(inference.url, STOP_IDS, **own)
    )


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_trajectory_has_the_ids_mask_and_logprobs_of_the_engine(address: str, kind: str) -> None:
    with InferenceServer().running() as inference, ChatEnv(address) as env:
        trajectory = play(env, engine_of(kind, inference).sample, task_args={"turns": 3})
        ((ids, mask, logprobs),) = inference.tiny.rows()
    (row,) = trajectory.samples()
    assert row.tokens.tolist() == ids.tolist()
    assert row.loss_mask.astype(int).tolist() == mask.tolist()
    assert np.where(row.loss_mask, row.logprobs, np.float32(0)).tobytes() == logprobs.tobytes()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_the_stop_token_is_sent_and_the_version_of_the_weights_is_kept(address: str, kind: str) -> None:
    with InferenceServer().running() as inference, ChatEnv(address) as env:
        trajectory = play(env, engine_of(kind, inference).sample)
        assert inference.asked
    sampled = [turn for turn in trajectory.turns if turn.stop_reason is not None]
    assert [turn.model_version for turn in sampled] == ["7", "7"]
    assert {int(trajectory.tokens[turn.stop - 1]) for turn in sampled} <= set(STOP_IDS)
    assert not any("CLOSED" in report.kind.name for report in trajectory.fidelity)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_an_aborted_turn_goes_on_under_the_new_weights(address: str, kind: str) -> None:
    with InferenceServer(aborts_at=(0,)).running() as inference, ChatEnv(address) as env:
        engine = engine_of(kind, inference)

        def renewing(prompt: Any) -> Any:
            action = engine.sample(prompt)
            engine.version, inference.weight_version = "8", "8"
            return action

        trajectory = play(env, renewing, task_args={"turns": 1})
        first, second = inference.tiny.generated
    assert second.prompt.tolist() == [*first.prompt.tolist(), *first.tokens]
    spans = [turn for turn in trajectory.turns if turn.stop_reason is not None]
    assert [(turn.model_version, turn.stop_reason) for turn in spans] == [
        ("7", StopReason.ABORT),
        ("8", StopReason.STOP),
    ]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_turn_that_is_too_long_is_cut_off(address: str, kind: str) -> None:
    with InferenceServer().running() as inference, ChatEnv(address) as env:
        trajectory = play(env, engine_of(kind, inference, max_tokens=2).sample)
    reasons = {turn.stop_reason for turn in trajectory.turns} - {None, StopReason.STOP}
    assert reasons == {StopReason.LENGTH}


@pytest.mark.parametrize(("kind", "more"), [("vllm", ["--model", "m"]), ("sglang", [])])
def test_the_commands_play_an_episode(address: str, kind: str, more: list[str]) -> None:
    with InferenceServer().running() as inference:
        lines = lines_of(f"engine_{kind}", "--url", inference.url, "--server", address, *more)
    assert re.fullmatch(r"reward \d+\.0; \d+ of \d+ tokens are sampled", lines[0])


def test_generate_plays_an_episode_and_its_logprobs_are_the_trainers() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    lines = lines_of("engine_generate")
    assert re.fullmatch(r"reward 0\.0; \d+ of \d+ tokens are sampled", lines[0])
    difference = float(lines[1].split(" differ by ")[1].split()[0])
    assert difference < 1e-4


def lines_of(example: str, *arguments: str) -> list[str]:
    """Run an example to its end; its lines."""
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()
