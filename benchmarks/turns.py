"""What a model samples: prose in the notation that the chat template itself gives a turn.

The template writes each kind of turn once, with marks for its texts. Every turn that is measured has prose of its own
in the place of the marks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatenv_client.models import Message
from chatenv_client.tokens import Int32Array
from chatenv_server.doctor.reference import NotTakenError, Reference
from chatenv_server.doctor.sampling import sampled_text
from chatenv_server.doctor.scenarios import TOOLS

_WORDS_TEXT = (
    "the of and to in is was for that on as with by at from his it an were are which this be or had first has its not "
    "their he but one have all also been who her they two more time no when into only other some new there many "
    "between after about over where while through during before years world city most later made under since however "
    "three known state part people used such became well being number against called several system because small "
    "large within early water music house light river north point group could would another general public number "
    "answer question reason value result function returns string list error python model learning reward policy "
    "environment conversation token"
)
_WORDS = _WORDS_TEXT.split()
_CONTENT, _THOUGHT, _REPLY = "Zq7xC5nD", "Zq7xT5nD", "Zq7xR5nD"
"""Marks for the texts of a turn, and for the text that is appended after it."""

USER_WORDS = 30


def prose(rng: random.Random, words: int) -> str:
    """Sentences of common words, with a number now and then."""
    said = [rng.choice(_WORDS) if rng.random() < 0.95 else str(rng.randrange(10_000)) for _ in range(words)]
    return " ".join(said) + "."


@dataclass(frozen=True)
class Kind:
    """A kind of exchange: a sampled turn, and the message that answers it."""

    name: str
    sampled: Message
    """With marks for its texts."""
    reply: Message
    """With a mark for its text."""
    tools: bool = False
    """Whether the template is given the tools."""
    takes: frozenset[str] = frozenset()
    """Features that a template must have for it, as `TokenEngine.features` names them."""


_USER: Message = {"role": "user", "content": _REPLY}
_CALL: Any = {
    "id": "call00001",
    "type": "function",
    "function": {"name": TOOLS[0]["function"]["name"], "arguments": {"city": _CONTENT}},
}
PLAIN = Kind("plain chat", {"role": "assistant", "content": _CONTENT}, _USER)
WITH_TOOLS = Kind("chat with tools", PLAIN.sampled, _USER, tools=True)
TOOL_ROUNDS = Kind(
    "tool rounds",
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": _REPLY, "tool_call_id": _CALL["id"], "name": _CALL["function"]["name"]},
    tools=True,
    takes=frozenset({"tools", "tool_calls", "tool"}),
)
THINKING = Kind("thinking", {**PLAIN.sampled, "reasoning_content": _THOUGHT}, _USER, takes=frozenset({"reasoning"}))
KINDS = (PLAIN, WITH_TOOLS, TOOL_ROUNDS, THINKING)


@dataclass(frozen=True)
class Turn:
    """One exchange: what the model samples, and what is appended after it."""

    ids: Int32Array
    """(n,) int32, the stop token included."""
    has_stop: bool
    """Whether the last id is a stop token; where a template closes no turn, none is sampled."""
    meant: Message
    """The sampled message, as a parser would read it."""
    reply: Message


@dataclass(frozen=True)
class Conversation:
    """What is said in one episode."""

    opening: Message
    turns: list[Turn]

    @property
    def sampled(self) -> list[Int32Array]:
        """The model's turns."""
        return [turn.ids for turn in self.turns]

    @property
    def replies(self) -> list[Message]:
        """The messages appended, one after each turn."""
        return [turn.reply for turn in self.turns]


class Speaker:
    """Makes conversations of one kind for one tokenizer and template.

    Raises:
        NotTakenError: the template rejects conversations of this kind, or leaves out what is sampled.
    """

    def __init__(self, reference: Reference, kind: Kind) -> None:
        opening = [_filled(_USER, {_REPLY: "Hello"})]
        replied = [*opening, kind.sampled, kind.reply]
        self._kind = kind
        # After a tool's result some templates let the model begin in another way.
        self._notations = [_Notation(reference, kind, opening), _Notation(reference, kind, replied)]

    def conversation(self, rng: random.Random, turns: int, tokens: int) -> Conversation:
        """A conversation of `turns` turns of `tokens` sampled tokens each, less a word where none is short enough."""
        first, later = self._notations
        said = [(first if number == 0 else later).turn(rng, tokens) for number in range(turns)]
        return Conversation(_filled(_USER, {_REPLY: prose(rng, USER_WORDS)}), said)


class _Notation:
    """How the template writes a turn of one kind after one history."""

    def __init__(self, reference: Reference, kind: Kind, history: Sequence[Message]) -> None:
        self._reference, self._kind = reference, kind
        said = sampled_text(reference, history, kind.sampled, [kind.reply], tools=kind.tools, prompt=True)
        if _CONTENT not in said.text:
            raise NotTakenError("the template leaves out what is sampled")
        self._text, self._has_stop = said.text, bool(said.stop)
        prompt = reference.text(history, tools=kind.tools, prompt=True)
        specials = reference.specials_in(prompt)
        self._before = prompt[specials[-1].start() :] if specials else prompt

    def turn(self, rng: random.Random, tokens: int) -> Turn:
        reply, words = prose(rng, USER_WORDS), prose(rng, tokens).split()
        fits, too_many, count = 1, tokens + 1, tokens
        while fits + 1 < too_many:
            length = len(self._encode(_filled(self._text, self._texts(words[:count]))))
            fits, too_many = (count, too_many) if length <= tokens else (fits, count)
            if tokens - 2 <= length <= tokens:
                break
            count = max(fits + 1, min(too_many - 1, count * tokens // length))
        texts = {**self._texts(words[:fits]), _REPLY: reply}
        ids = np.array(self._encode(_filled(self._text, texts)), dtype=np.int32)
        return Turn(ids, self._has_stop, _filled(self._kind.sampled, texts), _filled(self._kind.reply, texts))

    def _texts(self, words: list[str]) -> dict[str, str]:
        """Half of the words for the thought, where there is one, and the rest for the content."""
        half = len(words) // 2 if _THOUGHT in self._text else 0
        return {_THOUGHT: " ".join(words[:half]), _CONTENT: " ".join(words[half:])}

    def _encode(self, text: str) -> list[int]:
        """The ids that are sampled after the end of the prompt."""
        before, whole = self._reference.encode(self._before), self._reference.encode(self._before + text)
        return whole[len(before) :] if whole[: len(before)] == before else self._reference.encode(text)


def _filled(marked: Any, texts: dict[str, str]) -> Any:
    """A message or a text with prose in the place of marks; prose needs no escapes in JSON."""
    written = json.dumps(marked)
    for mark, text in texts.items():
        written = written.replace(mark, text)
    return json.loads(written)
