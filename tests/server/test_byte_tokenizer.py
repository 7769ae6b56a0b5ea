"""The embedded tokenizer: a token is a byte."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.tokenizer_files.byte_tokenizer import CONTROL_TOKENS, ByteTokenizer

TOKENIZER = ByteTokenizer()
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}


def test_a_byte_is_its_own_id() -> None:
    for byte in range(256):
        assert TOKENIZER.decode([byte]) == bytes([byte]).decode(errors="replace")


@given(st.text())
def test_text_is_encoded_as_its_utf8_bytes(text: str) -> None:
    literal = text.replace("<|", "< |")
    assert TOKENIZER.encode(literal) == list(literal.encode())


@given(st.binary())
def test_bytes_decode_as_utf8_and_broken_ones_as_replacement_characters(data: bytes) -> None:
    assert TOKENIZER.decode(list(data)) == data.decode(errors="replace")


def test_control_tokens_follow_the_bytes() -> None:
    assert [TOKENIZER.encode(text) for text in CONTROL_TOKENS] == [[256], [257], [258]]
    assert len(TOKENIZER) == 259
    assert TOKENIZER.decode([256, 104, 105, 257]) == "<|im_start|>hi<|im_end|>"
    assert TOKENIZER.eos_token_id == 257


def test_a_conversation_is_plain_chatml_without_a_system_prompt_of_its_own() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"


def test_rendering_as_ids_is_the_encoding_of_rendering_as_text() -> None:
    messages = [{"role": "user", "content": "hé"}]
    text = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert isinstance(text, str)
    assert text.endswith("<|im_start|>assistant\n")
    assert TOKENIZER.apply_chat_template(messages, add_generation_prompt=True) == TOKENIZER.encode(text)


def test_tools_calls_and_results_are_in_hermes_form() -> None:
    rendered = TOKENIZER.apply_chat_template(
        [
            {"role": "system", "content": "Be exact."},
            {"role": "user", "content": "1+é?"},
            {"role": "assistant", "reasoning_content": "hm", "content": "So:", "tool_calls": [CALL, CALL]},
            {"role": "tool", "content": "2"},
        ],
        tools=[{"type": "function", "function": {"name": "add"}}],
        tokenize=False,
    )
    assert isinstance(rendered, str)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
    assert rendered.startswith("<|im_start|>system\nBe exact.\n\n")
    assert '{"type": "function", "function": {"name": "add"}}\n</tools>' in rendered
    assert rendered.count("<|im_start|>system") == 1
    assert f"<|im_start|>assistant\n<think>\nhm\n</think>\n\nSo:\n{call}\n{call}<|im_end|>\n" in rendered
    assert rendered.endswith("<|im_start|>tool\n<tool_response>\n2\n</tool_response><|im_end|>\n")


def test_arguments_that_are_text_already_are_written_as_they_are() -> None:
    call = {"function": {"name": "add", "arguments": '{"a":1}'}}
    rendered = TOKENIZER.apply_chat_template([{"role": "assistant", "tool_calls": [call]}], tokenize=False)
    assert isinstance(rendered, str)
    assert '"arguments": {"a":1}}' in rendered


def test_a_template_that_fails_says_so() -> None:
    with pytest.raises(TemplateRejectedError, match="raise_no_such"):
        ByteTokenizer("{{ raise_no_such() }}").apply_chat_template([])


def test_it_needs_neither_transformers_nor_torch() -> None:
    program = (
        "import sys, chatenv_server.tokenizer_files.byte_tokenizer as b; b.ByteTokenizer().encode('x');"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
