"""The README's conversation by hand, word for word: what a person types who has nothing but a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"

BUF_AS_GRPCURL = """#!/bin/sh
# grpcurl -plaintext -d JSON ADDRESS METHOD
exec '{buf}' curl --http2-prior-knowledge --protocol grpc -d "$3" "http://$4/$5"
"""


def commands() -> str:
    """All lines of the README's shell blocks that call grpcurl, through the function that stands for it."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("call")]
    return "\n".join(["set -e", *lines])


def answers(text: str) -> list[Any]:
    """The JSON values that come one after the other in `text`."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while position < len(text.rstrip()):
        value, position = decoder.raw_decode(text, position)
        found.append(value)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


@pytest.fixture(params=["buf curl", "grpcurl"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH on which `grpcurl` is grpcurl itself, or buf under its name."""
    bin_and_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    tool = shutil.which(request.param.split()[0], path=bin_and_path)
    if tool is None:
        pytest.skip(f"{request.param} is not installed")
    if request.param == "grpcurl":
        return bin_and_path
    stand_in = tmp_path / "grpcurl"
    stand_in.write_text(BUF_AS_GRPCURL.format(buf=tool))
    stand_in.chmod(0o755)
    return os.pathsep.join([str(tmp_path), bin_and_path])


def test_a_person_holds_a_whole_conversation_with_text_alone(target: str, path: str) -> None:
    script = commands().replace("localhost:50051", target)
    finished = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    opened, *_, last, state, ended = answers(finished.stdout)
    assert opened["observation"]["messages"] == [{"role": "system", "content": "You are brief."}]
    assert last["observation"]["stepCount"] == state["stepCount"] == 4
    roles = [message["role"] for message in state["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    (segment,) = ended["trajectory"]["segments"]
    assert state["tokens"][-3:] == segment["tokens"][-3:] == [51, 53, 257]
    assert segment["lossMaskRuns"] == [len(state["tokens"]) - 3, 3]
    assert len(segment["logprobs"]) == 3
    assert ended["trajectory"]["messages"] == state["messages"]
