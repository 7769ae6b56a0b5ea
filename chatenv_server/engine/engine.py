"""The token engine: one tokenizer with its chat template, probed once and shared by all episodes and threads."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from chatenv_client.models import TokenText
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.codec import Codec
from chatenv_server.engine.conversation import RenderOptions
from chatenv_server.engine.exact_path import ExactPath
from chatenv_server.engine.log import EpisodeLog
from chatenv_server.engine.plain_path import PlainPath
from chatenv_server.engine.renderer import RenderPath
from chatenv_server.engine.template import ChatTemplate
from chatenv_server.engine.template_check import check_writes_turns
from chatenv_server.engine.tokenizer_facts import (
    end_of_text_ids,
    special_tokens_of,
    stop_ids_of,
    template_of,
    vocabulary_size_of,
)

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)
"""Used for a tokenizer that has no chat template, such as gpt2's."""


class TokenEngine:
    """One tokenizer and its chat template. Safe to share between threads and episodes.

    What it does never changes. What it keeps to be faster (renderers, parsers, recordings) does, within bounds.

    Fast tokenizers (those with `backend_tokenizer`) take the exact path. Any other object with `apply_chat_template`
    and `decode` takes the plain path: the same laws where they can hold (`docs/tokens.md`).
    """

    def __init__(
        self,
        path: RenderPath,
        tools_path: RenderPath,
        *,
        vocabulary_size: int,
        token_id_limit: int | None,
        tokenizer_name: str,
        lacks_template: bool = False,
    ) -> None:
        self._path = path
        self._tools_path = tools_path
        self.vocabulary_size = vocabulary_size
        """Tokens that the tokenizer knows."""
        self.token_id_limit = token_id_limit or vocabulary_size
        """Ids from here on are refused."""
        self.tokenizer_name = tokenizer_name
        self.lacks_template = lacks_template
        """Whether there is no chat template, so that `PLAIN_TEMPLATE` is used."""

    @classmethod
    def load(
        cls, tokenizer: Any, *, chat_template: str | None = None, token_id_limit: int | None = None
    ) -> TokenEngine:
        """Probe a tokenizer. Takes 5 to 150 ms, once; half a second where it has thousands of added tokens.

        Args:
            tokenizer: a Hugging Face fast tokenizer, or any object with `apply_chat_template` and `decode`.
            chat_template: a Jinja template to use in place of the tokenizer's own.
            token_id_limit: ids from here on are refused; by default the tokenizer's length.

        Raises:
            TypeError: the object is no tokenizer.
            NoChatTemplateError: a ValueError; the template writes no turns, such as any text that is no template.
            ValueError: the template is not valid Jinja, or a template was given to a tokenizer on the plain path.
        """
        name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if isinstance(backend, Tokenizer):
            codec = Codec(backend)
            own = template_of(tokenizer) if chat_template is None else chat_template
            source = _missing_template(name) if own is None else own
            for_tools = (template_of(tokenizer, tools=True) if chat_template is None else None) or source
            path: RenderPath = _exact_path(tokenizer, codec, source)
            tools_path = path if for_tools == source else _exact_path(tokenizer, codec, for_tools)
            size = codec.vocabulary_size
        elif chat_template is None:
            own = ""
            path = tools_path = PlainPath(tokenizer, stop_ids_of(tokenizer))
            size = vocabulary_size_of(tokenizer)
        else:
            raise ValueError("chat_template needs a fast tokenizer; set the template on the tokenizer itself")
        return cls(
            path,
            tools_path,
            vocabulary_size=size,
            token_id_limit=token_id_limit,
            tokenizer_name=name,
            lacks_template=own is None,
        )

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
            str(getattr(tokenizer, "chat_control_tokens", None)),
            token_id_limit,
            vocabulary_size_of(tokenizer),
        )
        if key not in engines:
            engines[key] = cls.load(tokenizer, chat_template=chat_template, token_id_limit=token_id_limit)
        return engines[key]

    @property
    def exact(self) -> bool:
        """Whether streams are exact or reported; False on the plain path."""
        return self._path.exact

    @property
    def chat_format(self) -> ChatFormat | None:
        """What is known of template and tokenizer; None on the plain path, where nothing is."""
        return self._path.chat_format if isinstance(self._path, ExactPath) else None

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a sampled turn."""
        return self._path.stop_ids

    @property
    def features(self) -> tuple[str, ...]:
        """What the template does, a word each: see docs/wire.md."""
        return (*self._path.features, *(["plain_template"] if self.lacks_template else []))

    @property
    def turn_parser(self) -> str:
        """Name of the parser for sampled turns."""
        return self._path.turn_parser

    @property
    def control_tokens(self) -> tuple[tuple[int, str, bool], ...]:
        """(id, text, whether it ends a sampled turn) of every control token, by id."""
        return self._path.control_tokens

    def describe_tokens(self, ids: Iterable[int]) -> Sequence[TokenText]:
        """What each token stands for; an empty text where there is none of its id, or nothing is known of it."""
        return [self._path.token_text(token_id) for token_id in ids]

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 of all that decides how text is encoded; of the name alone on the plain path."""
        return self._path.tokenizer_fingerprint

    @property
    def template_fingerprint(self) -> str:
        """SHA-256 of the chat template's text; empty on the plain path."""
        return self._path.template_fingerprint

    def template_fingerprint_for(self, *, with_tools: bool) -> str:
        """As `template_fingerprint`, of the template that episodes with tools, or without, are written with."""
        return (self._tools_path if with_tools else self._path).template_fingerprint

    def open(self, options: RenderOptions, *, keeps_texts: bool = True) -> EpisodeLog:
        """A new episode's log; see `EpisodeLog`."""
        path = self._path if options.tools is None else self._tools_path
        return EpisodeLog(path.renderer(options), options, keeps_texts=keeps_texts)


_ENGINES: WeakKeyDictionary[Any, dict[tuple[Any, ...], TokenEngine]] = WeakKeyDictionary()


def _exact_path(tokenizer: Any, codec: Codec, source: str) -> ExactPath:
    has_response_template = getattr(tokenizer, "response_template", None) is not None
    chat_format = ChatFormat(
        ChatTemplate(source),
        codec,
        special_tokens_of(tokenizer),
        sorted(stop_ids_of(tokenizer) | end_of_text_ids(codec.added)),
        tokenizer.parse_response if has_response_template else None,
        getattr(tokenizer, "chat_control_tokens", None),
    )
    check_writes_turns(chat_format)
    return ExactPath(chat_format)


def _missing_template(name: str) -> str:
    warnings.warn(
        f"tokenizer {name!r} has no chat template; using a plain one ('role:', text, empty line). "
        "Give chat_template= or --chat-template to choose another",
        stacklevel=4,
    )
    return PLAIN_TEMPLATE
