"""Two servers on one store, many callers at once: what they see of an episode could have come from one server alone."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.tokens import fingerprint_of
from chatenv_client.wire import trajectory_from_proto
from chatenv_server import Settings, serve
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.stores.histories import HELLO, Seen, contradictions

CALLERS = 6
CALLS = 60
IDS = ("a", "b", "c")
END = 257


@pytest.fixture(scope="module")
def engine() -> TokenEngine:
    return TokenEngine.load(ByteTokenizer())


@pytest.fixture
def stubs(store_url: str, engine: TokenEngine) -> Iterator[list[ChatEnvServiceStub]]:
    """Of two servers on one store."""
    with ExitStack() as opened:
        settings = Settings(listen=("127.0.0.1:0",), store=store_url)
        servers = [opened.enter_context(serve(settings, engine=engine)) for _ in range(2)]
        channels = [opened.enter_context(grpc.insecure_channel(server.target)) for server in servers]
        yield [ChatEnvServiceStub(channel) for channel in channels]


class Caller:
    """Makes random calls on a few episodes, through either server, and writes down what it saw."""

    def __init__(self, stubs: list[ChatEnvServiceStub], seed: int) -> None:
        self.stubs = stubs
        self.random = random.Random(seed)
        self.seen: dict[str, list[Seen]] = {episode_id: [] for episode_id in IDS}
        self.refused: dict[str, int] = {}
        self.unexpected: list[grpc.RpcError] = []

    def run(self) -> None:
        """Make all calls."""
        for _ in range(CALLS):
            episode_id = self.random.choice(IDS)
            calls = (self.reset, self.step, self.batch, self.fork, self.finish, self.close)
            call = self.random.choices(calls, (1, 20, 8, 3, 2, 1))[0]
            try:
                call(self.random.choice(self.stubs), episode_id)
            except grpc.RpcError as error:
                code = error.code().name
                self.refused[code] = self.refused.get(code, 0) + 1
                if code == "NOT_FOUND":
                    self.reset(self.random.choice(self.stubs), episode_id)
                elif code != "ABORTED":
                    self.unexpected.append(error)

    def reset(self, stub: ChatEnvServiceStub, episode_id: str) -> None:
        request = pb.ResetRequest(episode_id=episode_id, metadata_json=f'{{"run":"{uuid.uuid4().hex}"}}')
        request.messages.add(**HELLO)
        request.clock.GetCurrentTime()
        request.clock.seconds = request.clock.nanos = 0
        self.note(episode_id, (), time.monotonic(), stub.Reset(request).observation)

    def step(self, stub: ChatEnvServiceStub, episode_id: str) -> None:
        """A Step on what the episode is now, often sent twice, as after a lost answer."""
        called = time.monotonic()
        state = stub.GetState(pb.GetStateRequest(episode_id=episode_id))
        self.note(episode_id, None, called, state)
        tokens = [self.random.randrange(97, 123) for _ in range(6)] + [END]
        request = pb.StepRequest(episode_id=episode_id, tokens=tokens, step_index=state.step_count)
        called = time.monotonic()
        self.note(episode_id, tuple(tokens), called, stub.Step(request).observation)
        if self.random.random() < 0.5:
            again = self.random.choice(self.stubs)
            self.note(episode_id, tuple(tokens), time.monotonic(), again.Step(request).observation)

    def batch(self, stub: ChatEnvServiceStub, episode_id: str) -> None:
        """Two Steps of one episode in one write, the second on the first."""
        index = stub.GetState(pb.GetStateRequest(episode_id=episode_id)).step_count
        spans = [[self.random.randrange(97, 123) for _ in range(6)] + [END] for _ in range(2)]
        steps = [
            pb.StepRequest(episode_id=episode_id, tokens=tokens, step_index=index + number)
            for number, tokens in enumerate(spans)
        ]
        called = time.monotonic()
        answer = stub.BatchStep(pb.BatchStepRequest(steps=steps))
        for tokens, result in zip(spans, answer.results, strict=True):
            if result.HasField("response"):
                self.note(episode_id, tuple(tokens), called, result.response.observation)
            else:
                assert result.error.code in {5, 10}, result.error  # NOT_FOUND, ABORTED

    def fork(self, stub: ChatEnvServiceStub, episode_id: str) -> None:
        """A fork shows what its origin was at one moment, and goes its own way."""
        called = time.monotonic()
        answer = stub.ForkEpisode(pb.ForkEpisodeRequest(episode_id=episode_id))
        self.note(episode_id, None, called, answer.observation)
        fork = pb.StepRequest(episode_id=answer.fork_ids[0], tokens=[97, END], step_index=answer.observation.step_count)
        shown = self.random.choice(self.stubs).Step(fork).observation
        assert shown.step_count == answer.observation.step_count + 1

    def close(self, stub: ChatEnvServiceStub, episode_id: str) -> None:
        stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=episode_id))

    def finish(self, stub: ChatEnvServiceStub, episode_id: str) -> None:
        """A trajectory has every step that was answered before; who asks the other server gets the same."""
        for one in (stub, self.random.choice(self.stubs)):
            called = time.monotonic()
            told = one.FinishEpisode(pb.FinishEpisodeRequest(episode_id=episode_id)).trajectory
            (segment,) = trajectory_from_proto(told).segments
            fingerprint = fingerprint_of(segment.tokens)
            seen = Seen(told.metadata_json, segment.turns[-1].step, fingerprint, None, called, time.monotonic())
            self.seen[episode_id].append(seen)

    def note(
        self,
        episode_id: str,
        tokens: tuple[int, ...] | None,
        called: float,
        shown: pb.Observation | pb.GetStateResponse,
    ) -> None:
        """Write an answer down."""
        self.seen[episode_id].append(
            Seen(shown.metadata_json, shown.step_count, shown.prompt_fingerprint, tokens, called, time.monotonic())
        )


@pytest.mark.parametrize("seed", range(2))
def test_one_order_of_calls_explains_what_all_callers_saw(
    stubs: list[ChatEnvServiceStub], engine: TokenEngine, seed: int
) -> None:
    callers = [Caller(stubs, 100 * seed + number) for number in range(CALLERS)]
    threads = [threading.Thread(target=caller.run) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for caller in callers for error in caller.unexpected] == []
    assert sum(len(seen) for caller in callers for seen in caller.seen.values()) > CALLERS * CALLS / 4
    for episode_id in IDS:
        assert contradictions(engine, [one for caller in callers for one in caller.seen[episode_id]]) == []


def test_a_history_that_no_order_explains_is_found(engine: TokenEngine) -> None:
    def step(position: int, tokens: tuple[int, ...], called: float, answered: float) -> Seen:
        return Seen("r", position, "f", tokens, called, answered)

    twice = [step(1, (97, END), 0, 1), step(1, (98, END), 0, 1)]
    assert any("taken by 2" in one for one in contradictions(engine, twice))
    backwards = [step(2, (97, END), 0, 1), step(1, (98, END), 2, 3)]
    assert any("was called after" in one for one in contradictions(engine, backwards))
    runs = [Seen("old", 1, "f", (97,), 0, 1), Seen("new", 0, "f", (), 2, 3), Seen("old", 2, "f", (98,), 4, 5)]
    assert any("was seen again" in one for one in contradictions(engine, runs))
