"""What is left of the Steps a second where a transform or a task of a user's is called for each: beside none.

Both do nothing, so what is measured is the way to them and back. EpisodePool stands beside VectorChatEnv: the same
episodes, each at its own pace.
"""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial

from benchmarks import load, servers
from benchmarks.measure import Contestant, Figure, interleave
from benchmarks.turns import Conversation
from benchmarks.work import Subject, conversation
from chatenv_client import ChatObservation

EPISODES = 64
SAMPLED_TOKENS = 128
NONE, TRANSFORM, TASK, POOL = "VectorChatEnv", "with a transform", "with a task", "EpisodePool"


def unchanged(observation: ChatObservation) -> ChatObservation:
    """A transform that does nothing."""
    return observation


_ARGUMENTS = {
    NONE: (),
    TRANSFORM: ("--transform", "benchmarks.user_code:unchanged"),
    TASK: ("--task", "benchmarks.tasks:Silent"),
}


def measure(subject: Subject, turns: int, rounds: int, run: Executor) -> dict[str, Figure]:
    """Steps per second of each."""
    said = [conversation(subject, turns, SAMPLED_TOKENS, seed) for seed in range(EPISODES)]
    with ExitStack() as stack:
        targets = {
            name: stack.enter_context(servers.chatenv(subject.setting, arguments=arguments)).target
            for name, arguments in _ARGUMENTS.items()
        }
        contestants: dict[str, Contestant] = {
            name: partial(_ask, run, load.vector_steps, target, said) for name, target in targets.items()
        }
        contestants[POOL] = partial(_ask, run, load.pool_steps, targets[NONE], said)
        for warm_up in contestants.values():
            warm_up()
        return interleave(contestants, rounds, "steps/s")


def _ask(run: Executor, generator: load.Client, target: str, said: list[Conversation]) -> float:
    return run.submit(generator, target, said).result()
