"""Snapshots that a release wrote are read by all later ones.

Those in `tests/data/snapshots` are of the embedded tokenizer. Each is there as bytes and as JSON, beside the state and
the trajectory that it must give. Never write them anew; where the format gets another version, add some of that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.wire import state_to_proto, trajectory_to_proto
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from tests.environment.conftest import said

FOLDER = Path(__file__).parents[1] / "data" / "snapshots"
KEPT = sorted(FOLDER.glob("*.binpb"))


def shown_as_json(env: ChatEnvironment) -> dict[str, Any]:
    return {
        "state": json_format.MessageToDict(state_to_proto(env.state)),
        "trajectory": json_format.MessageToDict(trajectory_to_proto(env.trajectory())),
    }


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_snapshot_is_the_episode_that_it_was(path: Path, engine: TokenEngine) -> None:
    env = ChatEnvironment(engine)
    env.restore(path.read_bytes())
    assert shown_as_json(env) == json.loads(path.with_suffix(".shown.json").read_text("utf-8"))
    assert env.step({"role": "user", "content": "And on?"}).token_ids.tolist()[-11:] == [256, *b"assistant\n"]
    assert env.step(said("On.")).step_count == env.step_count


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_json_of_a_snapshot_is_the_snapshot(path: Path) -> None:
    read = json_format.Parse(path.with_suffix(".json").read_text("utf-8"), pb.EpisodeSnapshot())
    assert read == pb.EpisodeSnapshot.FromString(path.read_bytes())


def test_there_is_one_of_each_kind() -> None:
    assert [path.stem for path in KEPT] == ["format_1_eventful", "format_1_prefilled"]
