"""Trajectories that went into a file come out of it bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import (
    ChatAction,
    ChatEnvError,
    Failure,
    FailureKind,
    Trajectory,
    read_trajectories,
    write_trajectories,
)
from chatenv_client.wire import trajectory_to_proto
from chatenv_client.wire.json_fields import MAX_JSON_CHARACTERS, MAX_JSON_DEPTH
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from tests.engine.episodes import Plan, start
from tests.engine.subjects import EMBEDDED, subject
from tests.engine.test_segments import edited, take
from tests.environment.conftest import said

KINDS = [".jsonl", ".parquet"]
HELLO = {"role": "user", "content": "Hello!"}

metadata = st.dictionaries(
    st.text(max_size=3), st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists)
)
columns = st.sampled_from(["int8", "uint16", "float16", "float64", "bool"]).map(
    lambda dtype: np.arange(6).reshape(3, 2, 1).astype(dtype)
)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """Of random episodes, with all that an episode may have."""
    plan: Plan = draw(edited)
    named = {"group": draw(st.text(max_size=3)), "metadata": draw(metadata), "seed": draw(st.integers(-(2**63), 5))}
    env = start(subject(EMBEDDED), plan, **named)
    if env is None:
        env = ChatEnvironment(subject(EMBEDDED).engine)
        env.reset()
    else:
        for step in plan.steps:
            with contextlib.suppress(ChatEnvError):
                take(env, subject(EMBEDDED), step)
    if env.step_count:
        env.set_reward(draw(st.dictionaries(st.text("ab☃", min_size=1), st.floats(-9, 9), min_size=1)), step=1)
    if draw(st.booleans()) and not env.done:
        extras = {"experts": draw(columns)}
        runs = (("v1", 1), ("v2", 2))
        with contextlib.suppress(ChatEnvError):  # the policy may be `strict`
            env.step(ChatAction(tokens=[65, 66, 257], mask=[0, 1, 1], extras=extras, model_version_runs=runs))
    if draw(st.booleans()):
        env.fail(draw(st.text(max_size=3)), draw(st.sampled_from(list(FailureKind))))
    return env.trajectory(assistants=draw(st.booleans()))


def bits(trajectory: Trajectory) -> Any:
    """All of it, as it travels, and what does not."""
    logprobs = [segment.logprobs.tobytes() for segment in trajectory.segments]
    return trajectory_to_proto(trajectory).SerializeToString(deterministic=True), trajectory.given_assistants, logprobs


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_is_imported_bit_for_bit(kind: str) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")

    @given(st.lists(trajectories(), max_size=3))
    def holds(exported: list[Trajectory]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"episodes{kind}")
            assert write_trajectories(path, exported) == len(exported)
            imported = list(read_trajectories(path))
            assert [path.name for path in Path(folder).iterdir()] == [f"episodes{kind}"]
        assert list(map(bits, imported)) == list(map(bits, exported))
        for one, other in zip(imported, exported, strict=True):
            assert one.messages == other.messages
            assert one.metadata == other.metadata
            assert [row.extras.keys() for row in one.samples()] == [row.extras.keys() for row in other.samples()]

    holds()


def logprob_bits(*patterns: int) -> Any:
    return np.array(patterns, dtype=np.uint32).view(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_that_no_text_can_say_come_back_too(kind: str, tmp_path: Path, engine: TokenEngine) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    env = ChatEnvironment(engine)
    env.reset()
    strange = logprob_bits(0x7FC00001, 0xFF800000, 0x80000000, 0x00000001, 0xBF800000, 0xFFC12345)
    env.step(ChatAction(tokens=[65] * 6, logprobs=strange))
    write_trajectories(tmp_path / f"a{kind}", [env.trajectory()] * 600)
    read = list(read_trajectories(tmp_path / f"a{kind}"))
    assert len(read) == 600
    assert {one.logprobs.tobytes() for one in read} == {strange.tobytes()}


def played(engine: TokenEngine) -> Trajectory:
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "2 + 2?"}], metadata={"row": 7}, group="g", seed=3)
    env.step(said("4", logprobs=[-0.5, -0.25]))
    env.set_reward({"right": 1.0}, step=1)
    return env.trajectory()


def test_a_line_can_be_read_without_us(tmp_path: Path, engine: TokenEngine) -> None:
    write_trajectories(tmp_path / "a.jsonl", [played(engine)])
    (line,) = tmp_path.joinpath("a.jsonl").read_text("utf-8").splitlines()
    record = json.loads(line)
    assert record["messages"] == [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    assert (record["reward"], record["rewards"], record["group"]) == (1.0, [{"name": "right", "value": 1.0}], "g")
    assert record["segments"][0]["logprobs"][-2:] == [-0.5, -0.25]
    assert record["segments"][0]["logprobs"][0] is None


def test_a_failure_and_no_reward_are_in_the_file_as_such(tmp_path: Path, engine: TokenEngine) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    whole = played(engine)
    broken = dataclasses.replace(whole, failure=Failure(FailureKind.JUDGE, "nobody"), episode_id="broken")
    env = ChatEnvironment(engine)
    env.reset()
    write_trajectories(tmp_path / "a.parquet", [whole, broken, env.trajectory()])
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["reward"] for row in rows] == [1.0, None, None]
    assert [row["failure"] for row in rows] == [None, {"kind": "judge", "reason": "nobody"}, None]


@pytest.mark.parametrize("kind", KINDS)
def test_long_messages_and_deep_arguments_come_back_too(kind: str, tmp_path: Path, engine: TokenEngine) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    deep = '{"a":' * (MAX_JSON_DEPTH - 2) + "1.50" + "}" * (MAX_JSON_DEPTH - 2)
    call = f'<tool_call>\n{{"name": "f", "arguments": {deep}}}\n</tool_call>'
    env = ChatEnvironment(engine)
    env.reset(messages=[HELLO])
    assert env.step(ChatAction(tokens=[*call.encode(), 257])).messages[-1]["tool_calls"]
    env.step(HELLO)
    env.step(ChatAction(tokens=[*b"x" * (MAX_JSON_CHARACTERS + 1), 257]))
    path = tmp_path / f"long{kind}"
    write_trajectories(path, [env.trajectory()])
    (read,) = read_trajectories(path)
    assert bits(read) == bits(env.trajectory())
    assert read.messages == env.trajectory().messages


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_there_whole_or_as_it_was(kind: str, tmp_path: Path, engine: TokenEngine) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"a{kind}"
    write_trajectories(path, [played(engine)])
    before = path.read_bytes()

    def breaks() -> Any:
        yield played(engine)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_trajectories(path, breaks())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_says_what_a_file_is(tmp_path: Path) -> None:
    for call in (lambda path: write_trajectories(path, []), read_trajectories):
        with pytest.raises(ValueError, match=r"\.jsonl nor \.parquet"):
            call(tmp_path / "a.csv")


def test_what_is_no_trajectory_is_refused_with_its_line(tmp_path: Path, engine: TokenEngine) -> None:
    path = tmp_path / "a.jsonl"
    write_trajectories(path, [played(engine)])
    record = json.loads(path.read_text("utf-8"))
    altered = json.loads(path.read_text("utf-8"))
    altered["segments"][0]["loss_mask"][0] = True
    shorter = json.loads(path.read_text("utf-8"))
    shorter["segments"][0]["tokens"].pop()
    lacking = {name: value for name, value in record.items() if name != "group"}
    for wrong, told in [
        (altered, "another loss mask"),
        (shorter, "other numbers of tokens"),
        (lacking, "'group'"),
        ({**record, "format": 2}, "format 2"),
        ({**record, "failure": {"kind": "bored", "reason": ""}}, "no kind of failure"),
        ([1], "no JSON object"),
    ]:
        path.write_text(json.dumps(record) + "\n" + json.dumps(wrong) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"line 2 cannot be read: .*{told}"):
            list(read_trajectories(path))


def test_a_last_line_that_is_cut_off_anywhere_is_left_out_and_told(tmp_path: Path, engine: TokenEngine) -> None:
    path = tmp_path / "a.jsonl"
    write_trajectories(path, [played(engine)])
    line = path.read_bytes()
    for cut in {1, 2, len(line) // 2, len(line) - 2}:
        path.write_bytes(line + line[:cut])
        with pytest.warns(UserWarning, match="line 2 is cut off"):
            assert len(list(read_trajectories(path))) == 1
    path.write_bytes(line + line[:-1])
    assert len(list(read_trajectories(path))) == 2
    path.write_bytes(line[:-9] + b"\n" + line)
    with pytest.raises(ValueError, match="line 1 cannot be read"):
        list(read_trajectories(path))


def test_a_folder_is_read_file_after_file(tmp_path: Path, engine: TokenEngine) -> None:
    pytest.importorskip("pyarrow")
    for name in ("b.jsonl", "a.parquet", "c.jsonl"):
        write_trajectories(tmp_path / name, [dataclasses.replace(played(engine), episode_id=name)])
    tmp_path.joinpath("notes.txt").write_text("none", encoding="utf-8")
    assert [one.episode_id for one in read_trajectories(tmp_path)] == ["a.parquet", "b.jsonl", "c.jsonl"]


def test_parquet_of_something_else_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"format": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column"):
        list(read_trajectories(tmp_path / "a.parquet"))


@pytest.mark.parametrize(("kind", "builder"), [(".parquet", "parquet"), (".jsonl", "json")])
def test_a_file_loads_as_a_dataset_without_code(
    kind: str, builder: str, tmp_path: Path, engine: TokenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    exported = [played(engine) for _ in range(3)]
    path = tmp_path / f"a{kind}"
    write_trajectories(path, exported)
    loaded = datasets.load_dataset(builder, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 3
    (segment,) = loaded[0]["segments"]
    assert segment["tokens"] == exported[0].tokens.tolist()
    assert segment["loss_mask"] == exported[0].loss_mask.tolist()
    assert loaded[0]["messages"] == [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    assert (loaded[0]["reward"], loaded[0]["group"], loaded[0]["seed"]) == (1.0, "g", 3)
