"""`chatenv-rl episodes`, `trajectories`, `export`, `import` and `fork`, as a person or a script uses them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatenv_client import (
    ChatAction,
    ChatEnv,
    EpisodeSnapshot,
    read_trajectories,
    rollout_details,
    write_trajectories,
)
from chatenv_client.wire import trajectory_to_proto
from chatenv_server.running.process import RunningServer
from tests.server.conftest import Serve, plain_environment
from tests.server.test_command import command

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

HELLO = {"role": "user", "content": "Grüße, \x1b[31m!"}


@pytest.fixture
def server(serve: Serve) -> RunningServer:
    return serve()


def environment_of(server: RunningServer) -> dict[str, str]:
    return plain_environment() | {"CHATENV_ADDRESS": server.addresses[0]}


@pytest.fixture
def chatenv(server: RunningServer) -> Run:
    """Runs the command against a server, by default the one of the test."""

    def run(*arguments: str, typed: bytes = b"", on: RunningServer = server) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command(*arguments), input=typed, capture_output=True, env=environment_of(on), timeout=30, check=False
        )

    return run


@pytest.fixture
def env(server: RunningServer, connect: Callable[..., ChatEnv]) -> ChatEnv:
    """An episode with everything that an export has to keep."""
    env = connect(server)
    env.reset(episode_id="whole", messages=[HELLO], metadata={"task": 1e15}, seed=-3)
    rows = np.array([[1.5, np.nan], [0.1, -0.0]], dtype=np.float32)
    env.step(ChatAction(tokens=[65, 257], logprobs=[-0.1, float("-inf")], extras={"routes": rows}))
    env.step({"role": "user", "content": "So?"})
    return env


def test_the_episodes_of_a_server_are_listed_one_a_line(chatenv: Run, env: ChatEnv, connect: Any, server: Any) -> None:
    other = connect(server)
    other.reset(episode_id="other", max_steps=1)
    other.step(HELLO)
    newest, oldest = chatenv("episodes").stdout.decode().splitlines()
    assert newest.startswith("other  1 steps, ")
    assert newest.endswith(" s ago, truncated")
    assert oldest.startswith(f"whole  2 steps, {len(env.observation.token_ids)} tokens, 3 messages, opened ")
    (line,) = chatenv("episodes", "--prefix", "wh", "--json").stdout.splitlines()
    shown = json.loads(line)
    assert (shown["episode_id"], shown["step_count"], shown["metadata"]) == ("whole", 2, {"task": 1e15})
    nothing = chatenv("episodes", "--prefix", "none", "--json")
    assert (nothing.returncode, nothing.stdout) == (0, b"")
    assert f"no episode whose id begins with none is live on {server.addresses[0]}" in nothing.stderr.decode()
    assert chatenv("episodes").stderr == b""


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_trajectories_of_live_episodes_are_written_and_the_episodes_stay_live(
    chatenv: Run, env: ChatEnv, connect: Any, server: Any, tmp_path: Path, kind: str
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    for name in ("run-1", "run-2"):
        connect(server).reset(episode_id=name, messages=[HELLO], group="g")
    file = tmp_path / f"a.{kind}"

    def written(*arguments: str) -> list[str]:
        done = chatenv("trajectories", *arguments, "--out", str(file))
        assert (done.returncode, done.stderr) == (0, b"")
        found = [each.episode_id for each in read_trajectories(file)]
        assert done.stdout.decode() == f"{len(found)} episode{'s' * (len(found) != 1)} written to {file}\n"
        return found

    assert sorted(written()) == ["run-1", "run-2", "whole"]
    assert sorted(written("--prefix", "run-")) == ["run-1", "run-2"]
    assert written("--prefix", "none") == []
    assert written("whole", "run-1") == ["whole", "run-1"]
    said = json.loads(chatenv("trajectories", "whole", "--assistants", "--json", "--out", str(file)).stdout)
    assert said == {"file": str(file), "episodes": 1}
    (whole,) = read_trajectories(file)
    assert trajectory_to_proto(whole) == trajectory_to_proto(env.trajectory(assistants=True))
    assert whole.given_assistants == ()
    assert {each.episode_id for each in env.episodes()} == {"whole", "run-1", "run-2"}


def test_stored_trajectories_are_written_in_another_form_without_a_server(
    chatenv: Run, env: ChatEnv, tmp_path: Path
) -> None:
    stored, traces = tmp_path / "archive" / "a.jsonl", tmp_path / "traces.jsonl"
    stored.parent.mkdir()
    write_trajectories(stored, [env.trajectory()])

    def written(*arguments: str) -> Any:
        return chatenv("trajectories", "--address", "127.0.0.1:1", "--out", str(traces), *arguments)

    assert written("--from", str(stored.parent), "--form", "rollout_details").returncode == 0
    assert [json.loads(line) for line in traces.read_bytes().splitlines()] == [rollout_details(env.trajectory())]
    assert written("--from", str(stored), "--prefix", "none").stdout.startswith(b"0 episodes")
    assert written("--from", str(stored), "whole").stdout.startswith(b"1 episode ")
    for arguments, told in (
        (("--from", str(tmp_path / "none.jsonl")), "none.jsonl"),
        (("--from", str(stored), "--assistants"), "leave it out with --from"),
    ):
        refused = written(*arguments)
        assert (refused.returncode, told in refused.stderr.decode()) == (2, True)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["bytes", "json"])
def test_what_is_exported_is_imported_on_another_server_bit_for_bit(
    chatenv: Run, env: ChatEnv, serve: Serve, connect: Any, tmp_path: Path, form: tuple[str, ...]
) -> None:
    exported = chatenv("export", "whole", *form)
    assert (exported.returncode, exported.stderr) == (0, b"")
    if form:
        assert json.loads(exported.stdout)["episode_id"] == "whole"
    else:
        assert EpisodeSnapshot.FromString(exported.stdout) == env.export()
    file = tmp_path / "episode"
    file.write_bytes(exported.stdout)
    elsewhere = serve()
    assert chatenv("import", str(file), on=elsewhere).stdout == b"whole\n"
    said = chatenv("import", "-", "--id", "copy", "--json", typed=exported.stdout, on=elsewhere)
    tokens = len(env.observation.token_ids)
    assert json.loads(said.stdout) == {"episode_id": "copy", "step_count": 2, "token_count": tokens}
    copy = connect(elsewhere)
    copy.resume("copy")
    expected, got = env.export(), copy.export()
    got.episode_id = "whole"
    assert got.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def test_forks_are_made_and_stay_live(chatenv: Run, env: ChatEnv, connect: Any, server: RunningServer) -> None:
    made = chatenv("fork", "whole", "--count", "3").stdout.decode().split()
    assert len(set(made)) == 3
    said = json.loads(chatenv("fork", "whole", "--at-step", "1", "--id", "a", "--id", "b", "--json").stdout)
    assert said == {"episode_id": "whole", "at_step": 1, "fork_ids": ["a", "b"]}
    reader = connect(server)
    assert {each.episode_id for each in reader.episodes()} == {"whole", "a", "b", *made}
    assert reader.resume("b").observation.step_count == 1
    assert reader.resume(made[0]).observation.fingerprint() == env.observation.fingerprint()


@pytest.mark.usefixtures("env")
def test_what_cannot_be_done_is_told_in_one_line_with_an_exit_code(chatenv: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b'{"format": 1, "nothing": 2}')
    cut = tmp_path / "cut"
    cut.write_bytes(chatenv("export", "whole").stdout[:-3])
    text, empty = tmp_path / "text", tmp_path / "empty"
    text.write_text("dear diary")
    empty.touch()
    for arguments, code, told in [
        (("export", "never-was"), 1, "EPISODE_UNKNOWN"),
        (("fork", "never-was"), 1, "EPISODE_UNKNOWN"),
        (("fork", "whole", "--at-step", "3"), 1, "BAD_AT_STEP"),
        (("fork", "whole", "--at-step", "-1"), 1, "BAD_AT_STEP"),
        (("fork", "whole", "--count", "0"), 2, "at least one"),
        (("fork", "whole", "--count", "100000"), 1, "BAD_COUNT"),
        (("fork", "whole", "--id", "whole"), 1, "EPISODE_EXISTS"),
        (("fork", "whole", "--id", "a", "--count", "2"), 2, "not allowed with"),
        *((("import", str(file)), 1, "BAD_SNAPSHOT") for file in (wrong, cut, text, empty)),
        *((("import", str(file)), 1, f"{file} is no exported") for file in (wrong, text, empty)),
        *((("import", str(file)), 1, "chatenv-rl export ID > FILE") for file in (wrong, text, empty)),
        (("import", str(tmp_path / "none")), 2, "No such file"),
        (("trajectories", "never-was", "--out", str(tmp_path / "a.jsonl")), 1, "EPISODE_UNKNOWN"),
        (("trajectories", "whole", "--out", str(tmp_path / "a.csv")), 2, ".jsonl nor .parquet"),
        (("trajectories", "whole", "--prefix", "w", "--out", str(tmp_path / "a.jsonl")), 2, "not both"),
        (("trajectories", "--out", str(tmp_path / "none" / "a.jsonl")), 2, "No such file"),
    ]:
        failed = chatenv(*arguments)
        assert (failed.returncode, failed.stdout) == (code, b""), arguments
        assert told in failed.stderr.decode()
        assert b"Traceback" not in failed.stderr


@pytest.mark.usefixtures("env")
def test_a_snapshots_bytes_are_not_written_to_a_terminal(server: RunningServer) -> None:
    leader, follower = pty.openpty()
    asked = subprocess.run(
        command("export", "whole"), stdout=follower, stderr=subprocess.PIPE, env=environment_of(server), check=False
    )
    os.close(follower)
    os.close(leader)
    assert asked.returncode == 2
    assert b"--json" in asked.stderr
