"""What everything is compared with: full-history `apply_chat_template` of the tokenizer itself.

Independent of the engine: the form of messages, which apply_chat_template leaves to its caller, is found without it.
"""

from __future__ import annotations

import copy
import inspect
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from chatenv_server.doctor.given_form import GivenForm, find_form
from chatenv_server.doctor.scenarios import CONTROL_TEXT, TOOLS
from chatenv_server.engine import PLAIN_TEMPLATE
from chatenv_server.engine.controls import map_strings
from chatenv_server.engine.spellings import any_of


class NotTakenError(Exception):
    """The template rejects a conversation; the message is the template's own words."""


def _as_transformers(tokenizer: Any) -> Any:
    """A tokenizer of transformers, or one without a backend, as it is; else one of transformers around its backend."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or hasattr(tokenizer, "added_tokens_decoder"):
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map)


class Reference:
    """A transformers tokenizer, its template, and the form in which that wants its messages.

    Args:
        tokenizer: what the engine was loaded from.
        template: a chat template in place of the tokenizer's own.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self._tokenizer = _as_transformers(tokenizer)
        own = getattr(tokenizer, "chat_template", None)
        fast = getattr(tokenizer, "backend_tokenizer", None) is not None
        self._template = template or (PLAIN_TEMPLATE if fast and own is None else own if isinstance(own, str) else None)
        self._arguments: Mapping[str, Any] = {}
        self._tools: Sequence[Mapping[str, Any]] = TOOLS
        self._texts: dict[str, str] = {}

    def under(self, arguments: Mapping[str, Any]) -> Reference:
        """The same template, given these template arguments."""
        if arguments == self._arguments:
            return self
        other = copy.copy(self)
        other._arguments, other._texts = arguments, {}
        return other

    def offering(self, tools: Sequence[Mapping[str, Any]]) -> Reference:
        """The same template, which is given these tools where it is given any."""
        other = copy.copy(self)
        other._tools, other._texts = tools, {}
        return other

    @property
    def sanitizes(self) -> bool:
        """Whether this transformers can encode control tokens in message text as text (5.2x and later)."""
        return "sanitize_control_tokens" in inspect.signature(self._tokenizer.apply_chat_template).parameters

    @staticmethod
    def clock() -> float:
        """An episode clock under which the engine's `strftime_now` tells what transformers' own does.

        The engine tells the time in UTC, transformers in local time.
        """
        now = time.time()
        return now + (datetime.fromtimestamp(now).astimezone().utcoffset() or datetime.resolution).total_seconds()

    def text(self, messages: Sequence[Mapping[str, Any]], *, tools: bool, prompt: bool) -> str:
        """The whole conversation as text.

        Raises:
            NotTakenError: the template rejects it.
        """
        key = repr((messages, tools, prompt))
        if key not in self._texts:
            self._texts[key] = str(self._apply(messages, tools, prompt, tokenize=False))
        return self._texts[key]

    def tokens(
        self, messages: Sequence[Mapping[str, Any]], *, tools: bool, prompt: bool, escapes: bool = False
    ) -> list[int]:
        """The whole conversation as token ids; with `escapes`, control tokens in texts as text.

        Raises:
            NotTakenError: the template rejects it.
        """
        options = {"sanitize_control_tokens": True} if escapes else {}
        return list(self._apply(messages, tools, prompt, tokenize=True, return_dict=False, **options))

    def _apply(self, messages: Sequence[Mapping[str, Any]], tools: bool, prompt: bool, **options: Any) -> Any:
        return self._written([self._form.apply(message) for message in messages], tools, prompt, **options)

    def _written(self, messages: Sequence[Mapping[str, Any]], tools: bool, prompt: bool, **options: Any) -> Any:
        if self._template is not None:
            options["chat_template"] = self._template
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tools=list(self._tools) if tools else None,
                add_generation_prompt=prompt,
                **options,
                **self._arguments,
            )
        except Exception as error:  # a template may raise anything
            raise NotTakenError(str(error) or type(error).__name__) from error

    @cached_property
    def _form(self) -> GivenForm:
        def writer(tools: bool) -> Any:
            def write(messages: Sequence[Mapping[str, Any]]) -> str | None:
                try:
                    return str(self._written(messages, tools, False, tokenize=False))
                except NotTakenError:
                    return None

            return write

        return find_form([writer(False), writer(True)])

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text, nothing added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, control tokens shown. A space that the tokenizer puts after a control token is left out."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return self._padded.sub(r"\1", text) if self._pads else text

    @cached_property
    def _pads(self) -> bool:
        sample = f"{self.special_texts[0]}a" if self.special_texts else ""
        return bool(self._tokenizer.decode(self.encode(sample), skip_special_tokens=False) != sample)

    @cached_property
    def _padded(self) -> re.Pattern[str]:
        return re.compile(f"({self._special.pattern}) ")

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """The special tokens, as text."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {}).values()
        end = [self.end_of_turn] if self.end_of_turn else []
        return tuple(dict.fromkeys([*(str(token) for token in added if token.special), *end]))

    @cached_property
    def end_of_turn(self) -> str:
        """The token at which models stop by the tokenizer's own account; empty where it names none."""
        return self._named("eos_token")

    @property
    def begin_of_text(self) -> str:
        """The token that texts begin with by the tokenizer's own account; empty where it names none."""
        return self._named("bos_token")

    def _named(self, name: str) -> str:
        named = getattr(self._tokenizer, name, None)
        return named if isinstance(named, str) else ""

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return any_of(self.special_texts)

    def specials_in(self, text: str) -> list[re.Match[str]]:
        """Where special tokens stand in a text."""
        return list(self._special.finditer(text))

    def spelt(self, messages: Iterable[Mapping[str, Any]]) -> list[Any]:
        """The messages with special tokens in place of CONTROL_TEXT."""
        controls = " ".join(self.special_texts[:12])
        return [map_strings(message, lambda text: text.replace(CONTROL_TEXT, controls)) for message in messages]
