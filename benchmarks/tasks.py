"""What a task costs: a Step that it answers at once, and a round of episodes whose tasks all wait.

A task that has nothing to say is called for each turn, and its state is kept. Its cost is the difference to the same
Steps without a task. A thousand tasks that sleep stand beside a thousand that answer at once, the same number of Steps.
"""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from benchmarks import servers
from benchmarks.measure import Figure, interleave
from benchmarks.work import Subject
from chatenv_client import ChatAction, channel_options
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_server import Answer, ModelTurn, Task
from chatenv_server.environment.environment import ChatEnvironment

EPISODES = 1_000
"""Whose tasks wait at the same time."""
NAP_S = 0.1
ALLOWED_S = 0.2
"""What a round may take beside the work of its Steps."""
_STEPS = 2_000
_TURN = [*b"Yes, of course.", 257]
_ANSWER = Answer(messages=[{"role": "user", "content": "Go on."}], reward=1.0)


class Silent(Task):
    """Has nothing to say."""

    def __init__(self) -> None:
        self.turns = 0

    def answer(self, turn: ModelTurn) -> Answer | None:
        """Counts."""
        self.turns = turn.turn_count
        return None


class Quick(Task):
    """Answers at once."""

    async def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
        """One message and a reward."""
        return _ANSWER


class Napping(Task):
    """Waits, as for a judge."""

    async def answer(self, turn: ModelTurn) -> Answer:  # noqa: ARG002
        """The same, later."""
        await asyncio.sleep(NAP_S)
        return _ANSWER


@dataclass(frozen=True)
class Tasks:
    """What was measured."""

    added: list[float]
    """Microseconds that a task adds to a Step, in-process, by processor time."""
    quick: Figure
    napping: Figure
    """Seconds of a round of `EPISODES` Steps in one BatchStep."""
    threads: int
    """Of the server, at the end."""

    def ratios(self) -> list[float]:
        """What a round took by what it may take, round by round."""
        rounds = zip(self.napping.rounds, self.quick.rounds, strict=True)
        return [napping / (quick + ALLOWED_S) for napping, quick in rounds]


def measure(subject: Subject, rounds: int, run: Executor) -> Tasks:
    """Measure in the process that makes all load."""
    return run.submit(_measure, subject, rounds).result()


def _measure(subject: Subject, rounds: int) -> Tasks:
    gc.collect()
    gc.freeze()
    figures = interleave(
        {str(task): partial(_per_step, subject, task) for task in (None, Silent)}, 1 + max(rounds, 3), "us"
    )
    without, silent = (figures[str(task)].rounds[1:] for task in (None, Silent))
    added = [one - other for one, other in zip(silent, without, strict=True)]
    gc.unfreeze()
    named = [f"{task.__name__.lower()}=benchmarks.tasks:{task.__name__}" for task in (Quick, Napping)]
    arguments = ["--max-batch-items", str(EPISODES), *(word for name in named for word in ("--task", name))]
    with servers.chatenv("bytes", arguments=arguments) as server:
        waves = {task: _Wave(server.target, task) for task in ("quick", "napping")}
        batches = interleave({task: wave.step for task, wave in waves.items()}, 1 + rounds, "s")
        threads = _threads_of(server.pid)
    for figure in batches.values():
        del figure.rounds[0]
    return Tasks(added, batches["quick"], batches["napping"], threads)


def _per_step(subject: Subject, task: type[Task] | None) -> float:
    """Microseconds of a sampled Step."""
    environment = ChatEnvironment(subject.engine, task=task)
    environment.reset(messages=[{"role": "user", "content": "Will you?"}])
    began = time.process_time()
    for _ in range(_STEPS):
        environment.step(ChatAction(tokens=_TURN))
    return 1e6 * (time.process_time() - began) / _STEPS


class _Wave:
    """Episodes of one task, which all step at once."""

    def __init__(self, target: str, task: str) -> None:
        self._stub = ChatEnvServiceStub(grpc.insecure_channel(target, channel_options()))
        self._step = 0
        messages = [pb.Message(role="user", content="Will you?")]
        self._ids = [f"{task}-{number}" for number in range(EPISODES)]
        resets = [pb.ResetRequest(episode_id=one, task=task, messages=messages) for one in self._ids]
        _check(self._stub.BatchReset(pb.BatchResetRequest(resets=resets)).results)

    def step(self) -> float:
        """Seconds of a BatchStep."""
        held = 2**31
        steps = [
            pb.StepRequest(episode_id=one, tokens=_TURN, step_index=self._step, known_tokens=held, known_messages=held)
            for one in self._ids
        ]
        self._step += 1
        began = time.perf_counter()
        results = self._stub.BatchStep(pb.BatchStepRequest(steps=steps)).results
        took = time.perf_counter() - began
        _check(results)
        return took


def _check(results: object) -> None:
    for one in results:  # type: ignore[attr-defined]
        if one.HasField("error"):
            raise RuntimeError(one.error.message)


def _threads_of(pid: int) -> int:
    """Linux only; elsewhere 0."""
    folder = Path(f"/proc/{pid}/task")
    return len(list(folder.iterdir())) if folder.exists() else 0
