"""The embedded tokenizer: a token is a byte, so that a person can read the stream.

Ids 0 to 255 are the bytes themselves; the ChatML control tokens follow. It needs no network and no
transformers, and has the part of a Hugging Face fast tokenizer's interface that the token engine reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from chatenv_server.engine.template import ChatTemplate
from chatenv_server.engine.token_bytes import byte_level_alphabet

TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
END_OF_TEXT: Final = "<|endoftext|>"
CONTROL_TOKENS: Final = (TURN_START, TURN_END, END_OF_TEXT)
"""Ids 256, 257, 258."""
FIRST_CONTROL_ID: Final = 256

CHAT_TEMPLATE: Final = r"""{%- macro text(content) %}
    {%- if content is string %}
        {{- content }}
    {%- elif content %}
        {%- for part in content %}{{ part.text }}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- set opening = messages[0] if messages and messages[0].role == 'system' else none %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if opening %}{{ text(opening.content) + '\n\n' }}{% endif %}
    {{- 'You may call these functions, given as JSON schemas, one a line:\n<tools>\n' }}
    {%- for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}
    {{- '</tools>\n' }}
    {{- 'To call one, write\n<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and opening and loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' }}
        {%- if message.role == 'tool' %}
            {{- '<tool_response>\n' + text(message.content) + '\n</tool_response>' }}
        {%- else %}
            {%- if message.reasoning_content %}
                {{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
            {%- endif %}
            {{- text(message.content) }}
            {%- for call in message.tool_calls or [] %}
                {%- set function = call.function or call %}
                {%- if message.content or not loop.first %}{{ '\n' }}{% endif %}
                {{- '<tool_call>\n{"name": ' + function.name | tojson + ', "arguments": ' }}
                {{- function.arguments if function.arguments is string else function.arguments | tojson }}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
"""ChatML with tools in Hermes form. It writes no default system prompt and never rewrites history."""


class ByteTokenizer:
    """A byte-level tokenizer with ChatML control tokens. Safe to share between threads."""

    def __init__(self, chat_template: str = CHAT_TEMPLATE) -> None:
        self.backend_tokenizer = _build_backend()
        self.chat_template = chat_template
        self.name_or_path = "bytes"
        self.special_tokens_map = {
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "additional_special_tokens": [TURN_START],
        }
        self.eos_token_id = FIRST_CONTROL_ID + CONTROL_TOKENS.index(TURN_END)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        **kwargs: Any,
    ) -> str | list[int]:
        """Render a conversation: as token ids, or as text with `tokenize=False`. `kwargs` go to the template.

        Raises:
            TemplateRejectedError: the template cannot render these messages.
        """
        text = ChatTemplate(self.chat_template).render(
            messages, {"tools": tools, **kwargs}, add_generation_prompt=add_generation_prompt
        )
        return self.encode(text) if tokenize else text

    def encode(self, text: str) -> list[int]:
        """Encode text to ids; control-token strings become control tokens."""
        return self.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text, control tokens included. Broken UTF-8 becomes U+FFFD."""
        return self.backend_tokenizer.decode(ids, skip_special_tokens=False)


def _build_backend() -> Tokenizer:
    vocabulary = {character: byte for byte, character in enumerate(byte_level_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], cache_capacity=0))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS])
    return tokenizer
