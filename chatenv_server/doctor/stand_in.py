"""A tokenizer for a chat template that comes without one.

The vocabulary is borrowed; the control tokens are read off the template. Written as in `<|name|>` or `[|name|]` they
are control tokens wherever they stand. A tag as in `<name>` or `[NAME]` is one where the template parts the turns of a
plain conversation with it, and an added token that is not special where it wraps a thought, a call or a tool's answer;
all other tags are text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import Message, ToolCall
from chatenv_server.doctor.scenarios import TOOLS
from chatenv_server.engine.forms import Forms
from chatenv_server.engine.spellings import any_of
from chatenv_server.engine.template import ChatTemplate, variables_of
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

_PIPED: Final = re.compile(
    r"<[|｜][^<>\s'\"{}]{1,48}?(?:[|｜])?>|<[\w/]{1,48}[|｜]>|\[[|｜][^\[\]\s'\"{}]{1,48}?[|｜]\]"
)
_TAG: Final = re.compile(r"</?\w[\w.:-]*>|\[/?[A-Z][A-Z_]*\]")
_TEXT: Final = "Zq7xK2vW"
_BEGIN, _END = "<s>", "</s>"


@dataclass(frozen=True)
class ControlStrings:
    """The strings that a template's own tokenizer must have as tokens."""

    special: tuple[str, ...]
    added: tuple[str, ...]
    """Added, but not special."""
    end_of_turn: str
    """What closes an assistant's turn; empty where nothing does."""


def stand_in(source: str, vocabulary: Any = None, also: Iterable[str] = ()) -> Any:
    """A transformers tokenizer with the chat template `source` on a borrowed vocabulary.

    Args:
        vocabulary: a fast tokenizer; the embedded byte tokenizer where none is given.
        also: special tokens of a shape that nothing in the template gives away.
    """
    from transformers import PreTrainedTokenizerFast

    controls = control_strings(source, also)
    begin = _BEGIN if "bos_token" in ChatTemplate(source).variables else None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=(vocabulary or ByteTokenizer()).backend_tokenizer,
        bos_token=begin,
        eos_token=controls.end_of_turn or _END,
    )
    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in controls.special])
    backend.add_tokens([AddedToken(text, normalized=False, special=False) for text in controls.added])
    tokenizer.chat_template = source
    return tokenizer


def control_strings(source: str, also: Iterable[str] = ()) -> ControlStrings:
    """Read the control tokens off a template: off its literal text, and off what it renders."""
    template = ChatTemplate(source)
    frames = [_render(template, conversation) or "" for conversation in _PLAIN]
    wraps = [_render(template, conversation, tools=True, prompt=True) or "" for conversation in _WRAPPED]
    listing = _render(template, _PLAIN[0], tools=True) or ""
    piped = {found[0] for text in (template.literal_text, *frames, *wraps) for found in _PIPED.finditer(text)}
    parting = {tag for text in frames for tag in _tags(text)}
    wrapping = {tag for text in wraps for tag in _tags(text)} - set(_tags(listing)) - parting
    squares = {tag for tag in _tags(template.literal_text) if tag.startswith("[")}
    special = piped | parting | (squares if parting & squares else set()) | set(also)
    return ControlStrings(tuple(sorted(special)), tuple(sorted(wrapping - special)), _end_of_turn(frames[-1], special))


_PLAIN: Final[tuple[list[Message], ...]] = (
    [{"role": "user", "content": _TEXT}],
    [{"role": "system", "content": _TEXT}, {"role": "user", "content": _TEXT}],
    [
        {"role": "user", "content": _TEXT},
        {"role": "assistant", "content": _TEXT},
        {"role": "user", "content": _TEXT},
    ],
    [{"role": "user", "content": _TEXT}, {"role": "assistant", "content": _TEXT}],
)
_CALL: Final[ToolCall] = {
    "id": "callZq7x1",
    "type": "function",
    "function": {"name": TOOLS[0]["function"]["name"], "arguments": {"city": _TEXT}},
}
_WRAPPED: Final[tuple[list[Message], ...]] = (
    _PLAIN[0],
    [*_PLAIN[0], {"role": "assistant", "content": _TEXT, "reasoning_content": _TEXT}],
    [
        *_PLAIN[0],
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": _TEXT, "tool_call_id": "callZq7x1", "name": "get_weather"},
    ],
)


def _render(
    template: ChatTemplate, messages: Iterable[Message], *, tools: bool = False, prompt: bool = False
) -> str | None:
    """The conversation in the first form of messages that the template takes."""
    variables = variables_of({"bos_token": _BEGIN, "eos_token": _END}, tools=list(TOOLS) if tools else None)
    roles = frozenset({"system", "user", "assistant", "tool"})
    for forms in (Forms(parts, as_text) for parts in (frozenset[str](), roles) for as_text in (False, True)):
        try:
            text = template.render([forms.apply(one) for one in messages], variables, add_generation_prompt=prompt)
        except TemplateRejectedError:
            continue
        if _TEXT in text and "'text'" not in text:
            return text
    return None


def _tags(text: str) -> list[str]:
    return [found[0] for found in _TAG.finditer(_PIPED.sub(" ", text))]


def _end_of_turn(frame: str, special: set[str]) -> str:
    """The last special token after the assistant's text at the end of a conversation, before one that opens turns."""
    if frame.count(_TEXT) < 2:
        return ""
    before, between, after = (any_of(special).findall(text) for text in frame.rsplit(_TEXT, 2))
    opening = {*[text for text in before if text != _BEGIN][:1], *before[-1:], *({*between[-1:]} - {*after[:1]})}
    ends = [*itertools.takewhile(lambda text: text not in opening, after)]
    return ends[-1] if ends else ""
