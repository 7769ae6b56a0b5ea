"""One client of the soak: plays episodes, and keeps a journal of what it is about to do and of what was answered.

It may be killed at any moment. Its successor takes up the episode where the journal ends. What a stream has to be is
worked out from the journal alone: the embedded tokenizer's ids are bytes, and its template is ChatML.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc

from chatenv_client import ChatAction, ChatEnv, ChatObservation, DeadlineError, UnavailableError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from chatenv_client.errors import StepIndexMismatchError
from chatenv_client.wire import error_from_item

Operation = dict[str, Any]
"""`{"say": text}` as the user, or `{"sample": token ids}`."""

LONGEST_EPISODE: Final = 60
"""Steps after which a client compares its episode, closes it and opens another."""
LONGEST_BURST: Final = 8
"""Steps that are pipelined over one stream."""
PATIENCE_S: Final = 45.0
"""That servers have to come back."""

_START, _STOP, _NEWLINE = 256, 257, 10
_PROMPT: Final = [_START, *b"assistant\n"]
_WORDS: Final = ["hello", "naïve", "東京", "🙂", "\n", "<|im_end|>", "{}", "  ", "42"]


def expected_stream(operations: list[Operation]) -> list[int]:
    """The stream that these operations must give."""
    stream: list[int] = []
    after_sample = False
    for operation in operations:
        if "say" in operation:
            if after_sample:
                stream += [_NEWLINE] if stream[-1] == _STOP else [_STOP, _NEWLINE]
            stream += [_START, *b"user\n", *operation["say"].encode(), _STOP, _NEWLINE]
        else:
            stream += operation["sample"] if after_sample else [*_PROMPT, *operation["sample"]]
        after_sample = "sample" in operation
    return stream if after_sample or not operations else [*stream, *_PROMPT]


def step_request(episode_id: str, step_index: int, operation: Operation) -> pb.StepRequest:
    """The operation for a bare stub; the answer is the whole stream, and no messages."""
    request = pb.StepRequest(episode_id=episode_id, step_index=step_index, known_messages=2**31)
    if "say" in operation:
        request.messages.add(role="user", content=operation["say"])
    else:
        request.tokens.extend(operation["sample"])
    return request


@dataclass
class Episode:
    """What a journal knows of one episode."""

    episode_id: str
    opened: bool = False
    """Whether its Reset was answered."""
    done: list[Operation] = field(default_factory=list)
    """Answered."""
    pending: list[Operation] = field(default_factory=list)
    """Begun and not answered: the first few of them may have been applied."""
    closing: bool = False
    closed: bool = False

    def take(self, entry: dict[str, Any]) -> None:
        """Take in an entry."""
        what = entry["what"]
        if what == "do":
            self.pending = list(entry["operations"])
        elif what == "done":
            self.done.append(self.pending.pop(0))
        elif what in ("opened", "closing", "closed"):
            setattr(self, what, True)

    def applied(self, seen: ChatObservation) -> int:
        """How many of the pending operations were applied.

        Raises:
            AssertionError: the episode is not what any number of them would have made of it.
        """
        stream = seen.token_ids.tolist()
        for count in range(len(self.pending) + 1):
            if stream == expected_stream([*self.done, *self.pending[:count]]):
                assert seen.step_count == len(self.done) + count, f"{self.episode_id} miscounts its steps"
                return count
        raise AssertionError(f"{self.episode_id} is not as it was left: {stream}")


class Journal:
    """An append-only file of one JSON object a line, which outlives its writer. It has one writer at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        # A last line that a kill cut short was never acted upon.
        os.truncate(self._file, path.read_bytes().rfind(b"\n") + 1)

    def write(self, what: str, **fields: Any) -> dict[str, Any]:
        """Append an entry; the entry."""
        entry = {"what": what, **fields}
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        return entry

    def entries(self) -> Iterator[dict[str, Any]]:
        """All of it."""
        return map(json.loads, self._path.read_bytes().splitlines())

    def episodes(self) -> list[Episode]:
        """Every episode that was begun, in order."""
        episodes: list[Episode] = []
        for entry in self.entries():
            if entry["what"] == "open":
                episodes.append(Episode(entry["episode_id"]))
            elif episodes:
                episodes[-1].take(entry)
        return episodes


def play(path: Path, address: str, until: float) -> None:
    """Be a client until a time. What goes wrong is in the journal."""
    journal = Journal(path)
    try:
        Client(address, journal).play(until)
    except Exception:  # noqa: BLE001 - whatever it is, the soak has to tell
        journal.write("failed", why=traceback.format_exc())
        sys.exit(1)


class Client:
    """Plays episodes until its time is over, and leaves the last one live."""

    def __init__(self, address: str, journal: Journal) -> None:
        channel = open_channel(address)
        self._env = ChatEnv(channel)
        self._stub = ChatEnvServiceStub(channel)
        self._journal = journal
        self._random = random.Random()
        left_behind = journal.episodes()
        self._episode = left_behind[-1] if left_behind and not left_behind[-1].closed else None

    def play(self, until: float) -> None:
        """Take up what the one before left, and go on."""
        if self._episode is not None:
            self._take_up(self._episode)
        while time.time() < until:
            if self._episode is None:
                self._patiently(self._open)
            elif len(self._episode.done) < LONGEST_EPISODE:
                self._play_on(self._episode)
            else:
                self._patiently(partial(self._close, self._episode))

    def _patiently(self, do: Callable[[], object]) -> None:
        """Do something that may be done twice, again for as long as no server is there."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                do()
            except (UnavailableError, grpc.RpcError) as error:  # noqa: PERF203 - that is what it is for
                if not _is_gone(error) or time.monotonic() > until:
                    raise
                self._journal.write("unavailable")
                time.sleep(0.1)
            else:
                return

    def _open(self) -> None:
        episode = Episode(f"soak-{self._random.getrandbits(64):x}")
        self._journal.write("open", episode_id=episode.episode_id)
        self._env.reset(episode_id=episode.episode_id)
        self._note(episode, "opened")
        self._episode = episode

    def _take_up(self, episode: Episode) -> None:
        if episode.closing:
            self._patiently(partial(self._end, episode))
        elif not episode.opened:
            # Its Reset may still be on its way, and would undo what was done before it comes.
            self._episode = None
        else:
            self._patiently(partial(self._settle, episode))

    def _settle(self, episode: Episode) -> None:
        """Do what the one before had begun. Its requests may still be on their way, and nothing may be done twice."""
        while True:
            applied = episode.applied(self._env.resume(episode.episode_id).observation)
            self._journal.write("resumed", pending=len(episode.pending), applied=applied)
            for _ in range(applied):
                self._note(episode, "done")
            try:
                self._do(episode, list(episode.pending))
            except StepIndexMismatchError:
                self._journal.write("overtaken")
            else:
                return

    def _play_on(self, episode: Episode) -> None:
        count = self._random.randint(2, LONGEST_BURST) if self._random.random() < 0.1 else 1
        operations: list[Operation] = []
        for _ in range(count):
            operations.append(self._next([*episode.done[-1:], *operations]))
        self._note(episode, "do", operations=operations)
        try:
            self._do(episode, operations)
        except (UnavailableError, grpc.RpcError) as error:
            if not _is_gone(error):
                raise
            self._journal.write("unavailable")
            self._patiently(partial(self._settle, episode))

    def _next(self, before: list[Operation]) -> Operation:
        draw = self._random
        if before and "say" in before[-1] and draw.random() < 0.9:
            ids = [draw.randrange(256) for _ in range(draw.randrange(1, 40))]
            return {"sample": [*ids, _STOP] if draw.random() < 0.8 else ids}
        return {"say": " ".join(draw.choices(_WORDS, k=draw.randrange(12)))}

    def _do(self, episode: Episode, operations: list[Operation]) -> None:
        if len(operations) == 1:
            self._step(operations[0])
            self._note(episode, "done")
        elif operations:
            self._stream(episode, operations)

    def _step(self, operation: Operation) -> None:
        said = {"role": "user", "content": operation.get("say")}
        action: Any = ChatAction(tokens=operation["sample"]) if "sample" in operation else said
        if self._random.random() < 0.2:
            with suppress(DeadlineError):
                self._env.step(action, timeout_s=self._random.uniform(0.0001, 0.02))
                return
            self._journal.write("cut off")
        self._env.step(action)

    def _stream(self, episode: Episode, operations: list[Operation]) -> None:
        first = len(episode.done)
        requests = [
            pb.StreamStepsRequest(request_id=index, step=step_request(episode.episode_id, index, operation))
            for index, operation in enumerate(operations, first)
        ]
        for index, answer in enumerate(self._stub.StreamSteps(iter(requests)), first):
            if answer.HasField("error"):
                raise error_from_item(answer.error)
            self._note(episode, "done")
            assert answer.request_id == index
            assert list(answer.response.observation.tokens) == expected_stream(episode.done)
        assert not episode.pending, "the stream ended before all was answered"
        self._env.resume(episode.episode_id)

    def _close(self, episode: Episode) -> None:
        state = self._env.state()
        assert state.token_ids.tolist() == expected_stream(episode.done), f"{episode.episode_id} differs"
        assert state.step_count == len(episode.done), f"{episode.episode_id} miscounts its steps"
        self._note(episode, "closing")
        self._end(episode)

    def _end(self, episode: Episode) -> None:
        """Finish the episode; where it is finished already, the answer of then has to come again."""
        request = pb.FinishEpisodeRequest(episode_id=episode.episode_id)
        if self._random.random() < 0.3:
            with suppress(grpc.RpcError):
                self._stub.FinishEpisode(request, timeout=self._random.uniform(0.0001, 0.02))
                self._journal.write("cut off")
        (segment,) = self._stub.FinishEpisode(request).trajectory.segments
        assert list(segment.tokens) == expected_stream(episode.done), f"{episode.episode_id} ended as another"
        self._note(episode, "closed")
        self._episode = None

    def _note(self, episode: Episode, what: str, **fields: Any) -> None:
        episode.take(self._journal.write(what, **fields))


def _is_gone(error: Exception) -> bool:
    """Whether no server was there, or went away in the middle of a call."""
    return isinstance(error, UnavailableError) or getattr(error, "code", str)() is grpc.StatusCode.UNAVAILABLE
