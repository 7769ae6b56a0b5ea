"""The built-in tokenizer as a folder: a trainer that loads it has the same ids as a server without a TOKENIZER."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from chatenv_server.tokenizer_files.exporting import export_embedded
from chatenv_server.tokenizer_files.loading import load_tokenizer
from tests.server.test_command import command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "deep" / "bytes"
    done = subprocess.run(command("tokenizer", "export", str(folder)), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert str(folder) in done.stdout.decode()
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_it_has_a_pad_token_and_ends_turns_as_the_server_does(loaded: Any) -> None:
    assert (loaded.pad_token_id, loaded.eos_token_id, len(loaded)) == (258, 257, 259)
    padded = loaded(["a", "abc"], padding=True, add_special_tokens=False)
    assert padded["attention_mask"] == [[1, 0, 0], [1, 1, 1]]


def test_it_has_the_servers_ids_and_texts(loaded: Any) -> None:
    built_in = ByteTokenizer()

    @given(st.text() | st.sampled_from(["<|im_start|>user\n", "a<|im_end|>b", " .  ,", "I 'm"]))
    def holds(text: str) -> None:
        ids = built_in.encode(text)
        assert loaded.encode(text, add_special_tokens=False) == ids
        assert loaded.decode(ids) == built_in.decode(ids) == text

    holds()


def test_it_renders_conversations_as_the_server_does(loaded: Any) -> None:
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    for asks in (True, False):
        options: Any = {"tokenize": True, "add_generation_prompt": asks}
        expected = ByteTokenizer().apply_chat_template(messages, **options)
        assert loaded.apply_chat_template(messages, return_dict=False, **options) == expected


def test_a_server_that_is_given_the_folder_is_the_same_as_one_without(folder: Path) -> None:
    built_in = TokenEngine.load(ByteTokenizer())
    for lean in (True, False):
        engine = TokenEngine.load(load_tokenizer(str(folder), lean=lean))
        assert engine.tokenizer_fingerprint == built_in.tokenizer_fingerprint
        assert engine.template_fingerprint == built_in.template_fingerprint
        assert engine.stop_ids == built_in.stop_ids


def test_what_is_there_already_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(ValueError, match="something in"):
        export_embedded(folder)
    done = subprocess.run(command("tokenizer", "export", str(folder)), capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"something in" in done.stderr
    assert b"Traceback" not in done.stderr
