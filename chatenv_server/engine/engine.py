"""The token engine: one tokenizer with its chat template, probed once and shared by all episodes and threads."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.codec import Codec
from chatenv_server.engine.conversation import Renderer, RenderOptions
from chatenv_server.engine.log import EpisodeLog
from chatenv_server.engine.plain import PlainFormat
from chatenv_server.engine.template import ChatTemplate

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)
"""Used for a tokenizer that has no chat template, such as gpt2's."""

_END_OF_TEXT = re.compile(
    r"</s>|\W*(end[_▁ ]?of[_▁ ]?(text|sentence|sequence|turn|message|utterance)|eo[sdmt])(_id|_token)?\W*",
    re.IGNORECASE,
)


class Format(Protocol):
    """How one tokenizer turns conversations into tokens."""

    exact: bool

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a sampled turn."""

    def renderer(self, options: RenderOptions) -> Renderer:
        """The chat format under one episode's options."""

    def encoding_ahead(self, said: Iterable[tuple[str, str]]) -> AbstractContextManager[None]:
        """While it lasts, texts that are about to be appended, as (role, text), are at hand encoded."""


class TokenEngine:
    """One tokenizer and its chat template. Immutable, safe to share between threads and episodes.

    Fast tokenizers (those with `backend_tokenizer`) take the exact path. Any other object with `apply_chat_template`
    and `decode` takes the plain path: the same laws where they can hold (`docs/tokens.md`).
    """

    def __init__(
        self,
        chat_format: Format,
        tools_format: Format,
        *,
        vocabulary_size: int,
        token_id_limit: int | None,
        tokenizer_name: str,
    ) -> None:
        self._format = chat_format
        self._tools_format = tools_format
        self.vocabulary_size = vocabulary_size
        """Tokens that the tokenizer knows."""
        self.token_id_limit = token_id_limit or vocabulary_size
        """Ids from here on are refused."""
        self.tokenizer_name = tokenizer_name

    @classmethod
    def load(
        cls, tokenizer: Any, *, chat_template: str | None = None, token_id_limit: int | None = None
    ) -> TokenEngine:
        """Probe a tokenizer. Takes 5 to 150 ms, once.

        Args:
            tokenizer: a Hugging Face fast tokenizer, or any object with `apply_chat_template` and `decode`.
            chat_template: a Jinja template to use in place of the tokenizer's own.
            token_id_limit: ids from here on are refused; by default the tokenizer's length.

        Raises:
            TypeError: the object is no tokenizer.
            ValueError: the template is not valid Jinja, or a template was given to a tokenizer on the plain path.
        """
        name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if isinstance(backend, Tokenizer):
            codec = Codec(backend)
            source = chat_template or template_of(tokenizer) or _missing_template(name)
            for_tools = chat_template or template_of(tokenizer, tools=True) or source
            chat_format: Format = _chat_format(tokenizer, codec, source)
            tools_format = chat_format if for_tools == source else _chat_format(tokenizer, codec, for_tools)
            size = codec.vocabulary_size
        elif chat_template is None:
            chat_format = tools_format = PlainFormat(tokenizer, stop_ids_of(tokenizer))
            size = vocabulary_size_of(tokenizer)
        else:
            raise ValueError("chat_template needs a fast tokenizer; set the template on the tokenizer itself")
        return cls(chat_format, tools_format, vocabulary_size=size, token_id_limit=token_id_limit, tokenizer_name=name)

    @classmethod
    def shared(
        cls, tokenizer: Any, *, chat_template: str | None = None, token_id_limit: int | None = None
    ) -> TokenEngine:
        """As `load`, but the same engine again for the same tokenizer, as long as its template and tokens stay."""
        try:
            engines = _ENGINES.setdefault(tokenizer, {})
        except TypeError:  # an object that cannot be hashed or referred to weakly is probed each time
            return cls.load(tokenizer, chat_template=chat_template, token_id_limit=token_id_limit)
        key = (
            chat_template,
            str(getattr(tokenizer, "chat_template", None)),
            token_id_limit,
            vocabulary_size_of(tokenizer),
        )
        if key not in engines:
            engines[key] = cls.load(tokenizer, chat_template=chat_template, token_id_limit=token_id_limit)
        return engines[key]

    @property
    def exact(self) -> bool:
        """Whether streams are exact or reported; False on the plain path."""
        return self._format.exact

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a sampled turn."""
        return self._format.stop_ids

    @property
    def chat_format(self) -> Format:
        """The part that renders and encodes."""
        return self._format

    @property
    def features(self) -> tuple[str, ...]:
        """What the template does, a word each: see docs/wire.md."""
        if not isinstance(self._format, ChatFormat):
            return ("plain_path",)
        profile = self._format.profile
        words = {
            "needs_system": profile.needs_system,
            "needs_tools": profile.needs_tools,
            "needs_skeleton": profile.needs_skeleton,
            "forgets": profile.forgets,
        }
        return ("exact", *sorted(profile.takes), *(word for word, holds in words.items() if holds))

    @property
    def turn_parser(self) -> str:
        """Name of the parser for sampled turns."""
        return self._format.parser_for({}).name if isinstance(self._format, ChatFormat) else "verbatim"

    @property
    def control_tokens(self) -> tuple[tuple[int, str, bool], ...]:
        """(id, text, whether it ends a sampled turn) of every control token, by id."""
        if not isinstance(self._format, ChatFormat):
            return tuple((token_id, "", True) for token_id in sorted(self.stop_ids))
        texts = self._format.codec.added_tokens
        control = self._format.codec.special_ids | (self.stop_ids & texts.keys())
        return tuple((token_id, texts[token_id], token_id in self.stop_ids) for token_id in sorted(control))

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 of all that decides how text is encoded; of the name alone on the plain path."""
        if isinstance(self._format, ChatFormat):
            return self._format.codec.fingerprint
        return hashlib.sha256(self.tokenizer_name.encode()).hexdigest()

    @property
    def template_fingerprint(self) -> str:
        """SHA-256 of the chat template's text; empty on the plain path."""
        return self._format.template.fingerprint if isinstance(self._format, ChatFormat) else ""

    def encoding_ahead(self, said: Iterable[tuple[str, str]]) -> AbstractContextManager[None]:
        """Encode texts together that are about to be appended to different episodes, each as its only message.

        The tokenizer does so with threads of its own, one a core. What is encoded is the same, here or later.

        Args:
            said: (role, text) of each.
        """
        return self._format.encoding_ahead(said)

    def open(self, options: RenderOptions, *, keeps_texts: bool = True) -> EpisodeLog:
        """A new episode's log; see there."""
        chat_format = self._format if options.tools is None else self._tools_format
        return EpisodeLog(chat_format.renderer(options), options, keeps_texts=keeps_texts)


_ENGINES: WeakKeyDictionary[Any, dict[tuple[Any, ...], TokenEngine]] = WeakKeyDictionary()


def _chat_format(tokenizer: Any, codec: Codec, source: str) -> ChatFormat:
    has_response_template = getattr(tokenizer, "response_template", None) is not None
    return ChatFormat(
        ChatTemplate(source),
        codec,
        special_tokens_of(tokenizer),
        sorted(stop_ids_of(tokenizer) | _end_of_text_ids(codec)),
        tokenizer.parse_response if has_response_template else None,
    )


def template_of(tokenizer: Any, *, tools: bool = False) -> str | None:
    """A tokenizer's own chat template; the one for tool use, or the default, where it has several by name."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        return template.get("tool_use" if tools and "tool_use" in template else "default")
    return template


def _missing_template(name: str) -> str:
    warnings.warn(
        f"tokenizer {name!r} has no chat template; using a plain one ('role:', text, empty line). "
        "Give chat_template= or --chat-template to choose another",
        stacklevel=4,
    )
    return PLAIN_TEMPLATE


def special_tokens_of(tokenizer: Any) -> dict[str, str]:
    """The special tokens that templates read by name, such as bos_token."""
    return {
        name: str(text)
        for name, text in getattr(tokenizer, "special_tokens_map", {}).items()
        if not isinstance(text, list)
    }


def stop_ids_of(tokenizer: Any) -> frozenset[int]:
    """Ids that end a generation by the tokenizer's own account."""
    ids = getattr(tokenizer, "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset(int(token_id) for token_id in (ids if isinstance(ids, Iterable) else [ids]))


def _end_of_text_ids(codec: Codec) -> frozenset[int]:
    """Ids of special tokens that end a text by their name.

    A model may stop at one that its chat template never writes, such as `<|endoftext|>` under ChatML, and the
    tokenizer alone does not say so.
    """
    return frozenset(i for i in codec.special_ids if _END_OF_TEXT.fullmatch(codec.added_tokens[i]))


def vocabulary_size_of(tokenizer: Any) -> int:
    """How many tokens an object on the plain path knows; 2**31 - 1 where it does not tell."""
    try:
        return len(tokenizer)
    except TypeError:
        return int(getattr(tokenizer, "vocab_size", 2**31 - 1))
