"""Processes of callers: made in any way, they work or say why they cannot, and none is left hanging."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

NO_SUPPORT, SUPPORT = {"GRPC_ENABLE_FORK_SUPPORT": "0"}, {"GRPC_ENABLE_FORK_SUPPORT": "1"}

HEAD = """
import multiprocessing, os, sys, threading
from chatenv_client import ChatEnv, connect

HELLO = {"role": "user", "content": "Hello!"}
TARGET = sys.argv[1]


def play(target=TARGET):
    with connect(target) as env:
        env.reset()
        return env.step(HELLO).observation.step_count


"""

STARTED = """
def child():
    print("child", play(), flush=True)

if __name__ == "__main__":
    with ChatEnv(TARGET) as env:
        env.reset()
        process = multiprocessing.get_context(METHOD).Process(target=child)
        process.start()
        process.join()
        print("parent", env.step(HELLO).observation.step_count, flush=True)
    sys.exit(process.exitcode)
"""

INHERITED = """
env = ChatEnv(TARGET)
env.reset()
with env:
    child = os.fork()
    if not child:
        try:
            env.step(HELLO)
        except RuntimeError as error:
            print(error, flush=True)
        sys.exit(7)  # leaves the block, which closes nothing here
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print("parent", env.step(HELLO).observation.step_count, flush=True)
"""

WHILE_OTHERS_CALL = """
def ask():
    with ChatEnv(TARGET) as env:
        while not over.is_set():
            env.server_info()

over = threading.Event()
others = [threading.Thread(target=ask) for _ in range(3)]
for other in others:
    other.start()
play()
for _ in range(10):
    child = os.fork()
    if not child:
        try:
            play()
        except RuntimeError:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
over.set()
for other in others:
    other.join()
print("parent", play())
"""

IN_PROCESS = """
from chatenv_server import Answer, Task

class Waits(Task):
    async def answer(self, turn):
        return Answer(messages=[HELLO])

def rollout():
    from chatenv_client import ChatAction
    with connect("local:", task=Waits) as env:
        env.reset(messages=[HELLO])
        return env.step(ChatAction(tokens=[257])).observation.step_count

play()
rollout()
child = os.fork()
if not child:
    print("child", rollout(), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", rollout())
"""

LOADED = """
import torch

class Episodes(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return play(WHERE)

if __name__ == "__main__":
    play()
    loader = torch.utils.data.DataLoader(Episodes(), num_workers=2, multiprocessing_context=METHOD)
    print(sum(int(batch) for batch in loader), "parent", play())
"""

ACTORS = """
import ray

@ray.remote
class Rollouts:
    def play(self, target):
        return play(target)

play()
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
actors = [Rollouts.remote() for _ in range(2)]
print(sum(ray.get([actor.play.remote(TARGET) for actor in actors])), "parent", play())
ray.shutdown()
"""


@pytest.fixture
def run(target: str, tmp_path: Path) -> Run:
    return Run(target, tmp_path)


class Run:
    """Runs a program whose argument is the address of a server."""

    def __init__(self, target: str, folder: Path) -> None:
        if target.startswith("unix:"):
            pytest.skip("gRPC makes no difference between kinds of targets here")
        self._target = target
        self._folder = folder

    def __call__(self, program: str, environment: dict[str, str], **names: str) -> subprocess.CompletedProcess[str]:
        file = self._folder / "program.py"
        file.write_text(HEAD + "".join(f"{name} = {value!r}\n" for name, value in names.items()) + program)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        arguments = [sys.executable, str(file), self._target]
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=90)


@pytest.mark.parametrize("environment", [NO_SUPPORT, SUPPORT])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_spawned_process_opens_a_client_of_its_own(run: Run, method: str, environment: dict[str, str]) -> None:
    finished = run(STARTED, environment, METHOD=method)
    assert (finished.returncode, finished.stdout.split()) == (0, ["child", "1", "parent", "1"]), finished.stderr


@pytest.mark.parametrize("environment", [NO_SUPPORT, SUPPORT])
def test_a_forked_process_is_refused_rather_than_left_hanging(run: Run, environment: dict[str, str]) -> None:
    finished = run(STARTED, environment, METHOD="fork")
    assert finished.returncode == 1
    assert "start processes with 'spawn' or 'forkserver'" in finished.stderr
    assert finished.stdout.split() == ["parent", "1"]


@pytest.mark.parametrize("environment", [NO_SUPPORT, SUPPORT])
def test_a_client_from_before_a_fork_is_refused_and_stays_its_parents(run: Run, environment: dict[str, str]) -> None:
    finished = run(INHERITED, environment)
    assert finished.returncode == 0, finished.stderr
    assert "one of its own in each process" in finished.stdout
    assert finished.stdout.split()[-2:] == ["parent", "1"]


@pytest.mark.parametrize("environment", [NO_SUPPORT, SUPPORT])
def test_no_child_hangs_that_is_forked_while_others_call(run: Run, environment: dict[str, str]) -> None:
    finished = run(WHILE_OTHERS_CALL, environment)
    assert (finished.returncode, finished.stdout.split()) == (0, ["parent", "1"]), finished.stderr


def test_what_is_played_in_process_is_played_in_a_forked_one_too(run: Run) -> None:
    finished = run(IN_PROCESS, NO_SUPPORT)
    assert (finished.returncode, finished.stdout.split()) == (0, ["child", "1", "parent", "1"]), finished.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize(("method", "where"), [("spawn", ""), ("forkserver", ""), ("fork", "local:")])
def test_workers_of_a_data_loader_play(run: Run, target: str, method: str, where: str) -> None:
    finished = run(LOADED, NO_SUPPORT, METHOD=method, WHERE=where or target)
    assert (finished.returncode, finished.stdout.split()) == (0, ["4", "parent", "1"]), finished.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_or_are_told_why_they_cannot(run: Run, target: str) -> None:
    finished = run(LOADED, NO_SUPPORT, METHOD="fork", WHERE=target)
    assert finished.returncode == 1
    assert "start processes with 'spawn' or 'forkserver'" in finished.stderr


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_actors_of_ray_play(run: Run) -> None:
    finished = run(ACTORS, {})
    assert (finished.returncode, finished.stdout.split()[-3:]) == (0, ["2", "parent", "1"]), finished.stderr
