"""The work that everybody is measured at: conversations of sampled turns and user messages, the same for all.

A turn is two Steps: the tokens that a model sampled, then the user's next message. Every episode has texts of its own.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.turns import PLAIN, THINKING, Conversation, Speaker
from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import ChatAction
from chatenv_client.session import Session
from chatenv_server.doctor.reference import Reference
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.template import ChatTemplate
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

CONFORMANCE = Path(
    os.environ.get("CHATENV_CONFORMANCE", Path(__file__).resolve().parents[2] / "shared" / "conformance")
)


@dataclass(frozen=True)
class Subject:
    """A tokenizer to measure with."""

    name: str
    setting: str
    """What `chatenv-server --tokenizer` takes."""
    thinks: bool = False
    """Whether the model's turns hold thoughts."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer itself."""
        return _load(self.setting)

    @property
    def engine(self) -> TokenEngine:
        """The token engine of it."""
        return _engine(self.setting)


def subjects() -> tuple[list[Subject], list[str]]:
    """The tokenizers at hand, and why others are not: a thinking model's, another's, and the embedded one."""
    folder = CONFORMANCE / "tokenizers"
    recorded = [
        Subject("qwen3.6", str(folder / "standin_qwen3_6"), thinks=True),
        Subject("qwen2.5", str(folder / "qwen2_5")),
    ]
    found = [subject for subject in recorded if Path(subject.setting).is_dir()]
    missing = [
        f"{subject.name}: no tokenizer at {subject.setting} (CHATENV_CONFORMANCE names another folder)"
        for subject in recorded
        if subject not in found
    ]
    return [*found, Subject("bytes", "bytes")], missing


@lru_cache
def _load(setting: str) -> Any:
    if setting == "bytes":
        return ByteTokenizer()
    from chatenv_server.tokenizer_files.loading import load_tokenizer

    return load_tokenizer(setting)


@lru_cache
def _engine(setting: str) -> TokenEngine:
    return TokenEngine.load(_load(setting))


@lru_cache
def _speaker(subject: Subject) -> Speaker:
    return Speaker(Reference(subject.tokenizer), THINKING if subject.thinks else PLAIN)


def conversation(subject: Subject, turns: int, sampled_tokens: int, seed: int) -> Conversation:
    """A conversation of `turns` turns, `sampled_tokens` tokens each."""
    return _speaker(subject).conversation(random.Random(seed), turns, sampled_tokens)


class LeastWork:
    """The least that a turn costs: decode what was sampled, render and encode the one new message.

    The message is rendered alone and only its own text is encoded; that this gives other tokens than the whole
    conversation would is not counted against it.
    """

    def __init__(self, subject: Subject) -> None:
        self._backend = subject.tokenizer.backend_tokenizer
        self._template = ChatTemplate(subject.tokenizer.chat_template)
        self._variables = {**subject.tokenizer.special_tokens_map, "tools": None}
        alone = self._render({"role": "user", "content": "?"})
        self._behind = alone.rindex("<|im_start|>", 0, alone.index("?"))
        """Where the message begins, behind what the template writes at the beginning of every conversation."""

    def read(self, sampled: list[int]) -> str:
        """Decode a sampled turn."""
        return str(self._backend.decode(sampled, skip_special_tokens=False))

    def write(self, message: Mapping[str, Any]) -> list[int]:
        """Render and encode a message."""
        text = self._render(message)[self._behind :]
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _render(self, message: Mapping[str, Any]) -> str:
        return self._template.render([message], self._variables, add_generation_prompt=True)


@dataclass(frozen=True)
class Exchange:
    """One request as the client makes it, and how long its answer is."""

    request: bytes
    answer_bytes: int


@dataclass(frozen=True)
class Script:
    """A conversation as it goes over the wire, every request the same as our client's, recorded in-process."""

    episode_id: str
    reset: bytes
    steps: list[Exchange]


def record(subject: Subject, said: Conversation) -> Script:
    """Play a conversation in-process and write down what client and server send."""
    environment, session = ChatEnvironment(subject.engine), Session()
    episode_id = uuid.uuid4().hex
    call = session.reset({"messages": [said.opening], "episode_id": episode_id})
    observation = environment.reset(**wire.reset_from_proto(call.request))
    opened = pb.ResetResponse()
    wire.write_observation(opened.observation, observation)
    call.receive(opened)
    reset = call.request.SerializeToString()
    steps = []
    for sampled, reply in zip(said.sampled, said.replies, strict=True):
        for action in (ChatAction(tokens=sampled), reply):
            step = session.step(action)
            request = step.request
            observation = environment.step(wire.action_from_proto(request))
            response = pb.StepResponse()
            known = {"known_tokens": request.known_tokens, "known_messages": request.known_messages}
            wire.write_observation(response.observation, observation, **known)
            step.receive(response)
            steps.append(Exchange(request.SerializeToString(), response.ByteSize()))
    return Script(episode_id, reset, steps)
