"""The demo, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)


def play(*arguments: str) -> list[str]:
    """Run the demo to its end; its lines."""
    finished = run("-W", "error", "-W", "ignore:tokenizer", str(DEMO), *arguments)  # gpt2 has no chat template
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout.splitlines()


def test_the_demo_shows_who_wrote_each_token_what_it_was_worth_and_that_the_stream_is_exact() -> None:
    lines = play()
    margins = [line.split("|")[0].split() for line in lines if "|" in line]
    assert [margin[0] for margin in margins if margin] == ["template", "sampled"] * 3
    assert "             | = [73, 115, 32, 105, 116, 32, 51, 63, 257], reward 1" in lines
    assert "reward    1 in all; terminated: the number is found" in lines
    assert "fidelity  exact: nothing to report" in lines
    assert "loss mask 27 of 142 tokens are sampled and trained on, 115 are the template's" in lines
    assert lines[-1] == "server    stopped"


@pytest.mark.parametrize("tokenizer", ["gpt2", "mistral_7b_v0_3", "phi3_5", "qwen2_5"])
def test_the_demo_plays_the_same_tokens_as_apply_chat_template(conformance_dir: Path, tokenizer: str) -> None:
    lines = play("--tokenizer", str(conformance_dir / "tokenizers" / tokenizer))
    assert "compared  apply_chat_template of the same messages: the same tokens at 3 of 3 prompts" in lines


def test_a_tokenizer_that_is_not_there_is_named() -> None:
    finished = run(str(DEMO), "--tokenizer", "./nowhere")
    assert finished.returncode == 2
    assert "'./nowhere' does not exist" in finished.stderr
