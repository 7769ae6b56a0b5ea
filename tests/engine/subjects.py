"""The tokenizers at hand: the embedded one and our own always, the recorded ones where the conformance data is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import transformers

from chatenv_server.engine import PLAIN_TEMPLATE, TokenEngine
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.conformance import CONFORMANCE, do_without, why_missing
from tests.engine.generated_templates import Traits, loaded, source_of
from tests.engine.own_tokenizers import OWN

EMBEDDED = "bytes"
RECORDED = (
    "tiny_bytes",
    "gpt2",
    "qwen2_5",
    "mistral_7b_v0_3",
    "phi3_5",
    "standin_qwen3_6",
    "standin_glm4_5",
    "standin_kimi_k2",
)
NAMES = (EMBEDDED, *OWN, *RECORDED)
GENERATED = "generated"
"""Stands for any template of `generated_templates`, on the embedded vocabulary."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A tokenizer and the engine on it."""

    name: str
    tokenizer: Any
    engine: TokenEngine

    def __repr__(self) -> str:
        return self.name

    @property
    def chat_format(self) -> ChatFormat:
        assert isinstance(self.engine.chat_format, ChatFormat)
        return self.engine.chat_format

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def text_of(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False))

    def formed(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages in the form in which this template writes them without damage."""
        return [self.chat_format.profile.forms.apply(message) for message in messages]

    def full_text(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, tools: Any = None) -> str:
        """The template's own rendering of a whole conversation."""
        options = {"add_generation_prompt": prompt, "tools": tools}
        return str(self.tokenizer.apply_chat_template(self.formed(messages), tokenize=False, **options))

    def full(
        self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, tools: Any = None, sanitized: bool = True
    ) -> list[int]:
        """The tokenizer's own tokens of a whole conversation, control-token strings in the texts being text."""
        options: dict[str, Any] = {"add_generation_prompt": prompt, "tools": tools, "return_dict": False}
        if self.sanitizes and sanitized:
            options["sanitize_control_tokens"] = True
        return list(self.tokenizer.apply_chat_template(self.formed(messages), tokenize=True, **options))

    @functools.cached_property
    def sanitizes(self) -> bool:
        """Whether the tokenizer itself can keep control-token strings from becoming control tokens."""
        return "sanitize_control_tokens" in inspect.signature(self.tokenizer.apply_chat_template).parameters

    def spells_controls(self, ids: Sequence[int]) -> bool:
        """Whether tokens that are no control tokens spell some."""
        controls = self.control_ids
        text = self.text_of([token for token in ids if token not in controls])
        whole = self.text_of(ids)
        own = sum(token in controls for token in ids)
        return any(found in text for found in self.control_texts) or (
            sum(whole.count(found) for found in self.control_texts) > own
        )

    @functools.cached_property
    def control_texts(self) -> list[str]:
        """Every string that a message must not be able to smuggle in."""
        return [
            text
            for _, text in sorted(self.chat_format.codec.added.texts.items())
            if self.chat_format.controls.occur_in(text)
        ]

    @functools.cached_property
    def control_ids(self) -> frozenset[int]:
        texts = set(self.control_texts)
        return frozenset(i for i, text in self.chat_format.codec.added.texts.items() if text in texts)


def recorded_tokenizer(name: str) -> Any:
    """A recorded tokenizer as transformers loads it; skips where there is none."""
    folder = CONFORMANCE / "tokenizers" / name
    if reason := why_missing(folder):
        do_without(reason)
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except ValueError as error:  # transformers 4 cannot read every folder
        if transformers.__version__ >= "5":
            raise
        pytest.skip(str(error))


def _embedded() -> Any:
    """The embedded tokenizer under transformers' own face: a reference that shares no code with ours."""
    embedded = ByteTokenizer()
    names = {key: text for key, text in embedded.special_tokens_map.items() if isinstance(text, str)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=embedded.backend_tokenizer, chat_template=embedded.chat_template, **names
    )


@functools.cache
def subject(name: str) -> Subject:
    """The tokenizer of that name, probed once."""
    if name == EMBEDDED:
        return Subject(name, _embedded(), TokenEngine.load(ByteTokenizer()))
    tokenizer = OWN[name]() if name in OWN else recorded_tokenizer(name)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return Subject(name, tokenizer, TokenEngine.load(tokenizer))


def generated_subject(template: Traits) -> Subject:
    """A generated template, and the engine on it."""
    engine, tokenizer = loaded(source_of(template))
    return Subject(repr(template), tokenizer, engine)
