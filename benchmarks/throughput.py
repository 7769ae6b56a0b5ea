"""How many Steps a second: floor, ceiling, every way to call chatenv, and the peer, side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks import load, servers
from benchmarks.calls import Calls, batched, echoed, one_by_one, wrapped
from benchmarks.load import SERVICE, Load
from benchmarks.measure import Contestant, Figure, interleave
from benchmarks.turns import Conversation
from benchmarks.work import Subject, conversation, record


@dataclass(frozen=True)
class Scale:
    """How much is done in a round."""

    rounds: int
    turns: int
    """Of each episode."""
    lone_turns: int
    """Of the one episode of a sequential caller."""
    episodes: int = 64
    batches: tuple[int, ...] = (32, 256)


class Contest:
    """All contestants for one tokenizer and one length of the sampled turns."""

    def __init__(self, subject: Subject, sampled_tokens: int, scale: Scale, run: Executor, stack: ExitStack) -> None:
        self._subject = subject
        self._scale = scale
        self._run = run
        self._said = [conversation(subject, scale.turns, sampled_tokens, seed) for seed in range(max(scale.batches))]
        self._long = conversation(subject, scale.lone_turns, sampled_tokens, seed=-1)
        self._scripts = [record(subject, said) for said in self._said]
        self._server = stack.enter_context(servers.chatenv(subject.setting)).target
        self._echoes = {kind: stack.enter_context(servers.echo(kind)).target for kind in ("threads", "asyncio")}
        self._working = stack.enter_context(servers.echo("threads", subject.setting)).target
        no_peer = servers.why_no_peer()
        self._peer = None if no_peer else stack.enter_context(servers.peer(subject.setting)).target

    def contestants(self) -> dict[str, Contestant]:
        """Everything that takes part, by name."""
        many = self._said[: self._scale.episodes]
        entries: dict[str, Contestant] = {
            "ceiling of work": self._in_process(load.ceiling, many),
            "in-process": self._in_process(load.in_process, many),
            "unary, 1 episode": self._bare(load.unary, "Step", one_by_one([record(self._subject, self._long)])),
            "unary": self._bare(load.unary, "Step", one_by_one(self._scripts[: self._scale.episodes])),
            "stream": self._bare(load.stream, "StreamSteps", wrapped(self._scripts[: self._scale.episodes])),
            "ChatEnv, 1 episode": self._client(load.chat_env, [self._long]),
            "AsyncChatEnv": self._client(load.async_chat_env, many),
            "VectorChatEnv": self._client(load.vector_chat_env, many),
        }
        for size in self._scale.batches:
            entries[f"batch of {size}"] = self._bare(load.unary, "BatchStep", batched(self._scripts[:size]))
        if self._peer is not None:
            entries["peer"] = partial(self._ask, load.peer, self._peer, many)
        for name, generator, method in (("unary", load.unary, "Unary"), ("stream", load.stream, "Stream")):
            calls = one_by_one(self._scripts[: self._scale.episodes])
            entries[f"least work behind {name}"] = self._echo(generator, self._working, method, calls)
        return entries | self._floors()

    def _floors(self) -> dict[str, Contestant]:
        scripts = self._scripts[: self._scale.episodes]
        floors: dict[str, Contestant] = {}
        for kind, target in self._echoes.items():
            floors[f"floor unary, 1 episode, {kind}"] = self._echo(
                load.unary, target, "Unary", one_by_one([record(self._subject, self._long)])
            )
            floors[f"floor unary, {kind}"] = self._echo(load.unary, target, "Unary", one_by_one(scripts))
            floors[f"floor stream, {kind}"] = self._echo(load.stream, target, "Stream", wrapped(scripts))
            for size in self._scale.batches:
                calls = batched(self._scripts[:size])
                floors[f"floor batch of {size}, {kind}"] = self._echo(load.unary, target, "Unary", calls)
        return floors

    def _bare(self, generator: Callable[[Load], float], method: str, calls: Calls) -> Contestant:
        requests = [[exchange.request for exchange in episode] for episode in calls.episodes]
        return partial(self._ask, generator, Load(self._server, SERVICE + method, requests, calls.items, calls.resets))

    def _echo(self, generator: Callable[[Load], float], target: str, method: str, calls: Calls) -> Contestant:
        requests = [[echoed(exchange) for exchange in episode] for episode in calls.episodes]
        return partial(self._ask, generator, Load(target, "/echo/" + method, requests, calls.items, []))

    def _client(self, generator: Callable[[str, list[Conversation]], float], said: list[Conversation]) -> Contestant:
        return partial(self._ask, generator, self._server, said)

    def _in_process(
        self, generator: Callable[[Subject, list[Conversation]], float], said: list[Conversation]
    ) -> Contestant:
        return partial(self._ask, generator, self._subject, said)

    def _ask(self, generator: Callable[..., float], *arguments: object) -> float:
        return self._run.submit(generator, *arguments).result()


def measure(subject: Subject, sampled_tokens: int, scale: Scale, run: Executor) -> dict[str, Figure]:
    """Steps per second of all contestants; of the two kinds of floor only the better."""
    with ExitStack() as stack:
        contestants = Contest(subject, sampled_tokens, scale, run, stack).contestants()
        for warm_up in contestants.values():
            warm_up()
        return _best_floors(interleave(contestants, scale.rounds, "steps/s"))


def _best_floors(figures: dict[str, Figure]) -> dict[str, Figure]:
    best: dict[str, Figure] = {}
    for name, figure in figures.items():
        kept = name.rpartition(", ")[0] if name.startswith("floor") else name
        if kept not in best or figure.median > best[kept].median:
            best[kept] = Figure(kept, figure.unit, figure.rounds)
    return best
