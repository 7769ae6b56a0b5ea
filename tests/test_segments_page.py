"""The worked examples of docs/segments.md do what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_client import Trajectory
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.running.process import start
from chatenv_server.settings.settings import Settings
from chatenv_server.tokenizer_files.loading import load_tokenizer

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "segments.md").read_text(encoding="utf-8")
STRIPS, COMPACTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PRINTED,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


def test_the_rows_of_a_model_that_strips_its_thoughts_are_as_printed(conformance_dir: Path) -> None:
    template = conformance_dir / "templates" / "qwen3.jinja"
    vocabulary = load_tokenizer(str(conformance_dir / "tokenizers" / "gpt2"))
    names: dict[str, Any] = {"tokenizer": stand_in(template.read_text(encoding="utf-8"), vocabulary)}
    block = STRIPS.replace("from transformers import AutoTokenizer\n", "")
    block = block.replace('tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen3-8B")\n', "")
    with redirect_stdout(StringIO()) as printed:
        exec(compile(block, "segments.md", "exec"), names)
    assert printed.getvalue() == PRINTED
    observation = names["observation"]
    assert (observation.segment, observation.fidelity) == (1, ())
    assert 0 < observation.held_tokens < len(observation.token_ids)


@pytest.fixture
def address() -> Iterator[str]:
    server = start(Settings(listen=("127.0.0.1:0",)))
    yield server.addresses[0]
    server.stop(1.0)


def test_an_agent_that_compacts_stays_below_its_limit_and_loses_no_sampled_token(address: str) -> None:
    sampled: list[int] = []
    prompts: list[int] = []

    def generate(prompt: Any) -> tuple[list[int], list[float]]:
        prompts.append(len(prompt))
        ids = [*b"I look." * 40, 257]
        sampled.extend(ids)
        return ids, [-0.5] * len(ids)

    names: dict[str, Any] = {
        "task": "Find it.",
        "generate": generate,
        "act": lambda _messages: {"role": "tool", "content": "Nothing here. " * 20},
        "summarise": lambda messages: f"You have looked {len(messages) // 2 - 1} times.",
    }
    exec(compile(COMPACTS.replace("localhost:50051", address), "segments.md", "exec"), names)
    rows = names["rows"]
    assert len(rows) > 3
    assert max(prompts) <= 8000 + 400
    assert np.concatenate([row.tokens[row.loss_mask] for row in rows]).tolist() == sampled
    assert all(not np.isnan(row.logprobs[row.loss_mask]).any() for row in rows)


def test_what_the_page_says_of_a_trajectory_with_several_segments_is_so() -> None:
    trajectory = Trajectory("e", ())
    several = Trajectory("e", (None, None))  # type: ignore[arg-type]
    assert trajectory.samples() == []
    with pytest.raises(ValueError, match="segments"):
        _ = several.tokens
