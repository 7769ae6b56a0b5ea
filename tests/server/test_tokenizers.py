"""Loading the tokenizer of a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from chatenv_server.tokenizer_files.loading import TokenizerError, load_tokenizer, read_chat_template
from tests.server.conftest import plain_environment

ENCODE_WITHOUT_TORCH = """
import sys
from chatenv_server.tokenizer_files.loading import load_tokenizer, torch_hidden
with torch_hidden():
    print(load_tokenizer(sys.argv[1]).backend_tokenizer.encode("It's hé").ids)
sys.exit("torch" in sys.modules)
"""


def test_the_default_is_the_embedded_tokenizer() -> None:
    assert isinstance(load_tokenizer(), ByteTokenizer)


@pytest.mark.parametrize("name", ["gpt2", "qwen2_5", "mistral_7b_v0_3", "phi3_5", "tiny_bytes"])
def test_a_folder_loads_as_auto_tokenizer_loads_it(name: str, conformance_dir: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = str(conformance_dir / "tokenizers" / name)
    ours, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    text = "It's 3 o'clock,\n\n  NAÏVE — 12345 \t<|im_end|></s><|end|> ünï 漢字 🙂"
    assert ours.backend_tokenizer.encode(text).ids == theirs.backend_tokenizer.encode(text).ids
    assert ours.chat_template == theirs.chat_template
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert len(ours) == len(theirs)


def test_a_folder_that_is_not_there_is_refused_by_its_name() -> None:
    with pytest.raises(TokenizerError, match="/no/such/folder"):
        load_tokenizer("/no/such/folder")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(TokenizerError, match="cannot load"):
        load_tokenizer(str(tmp_path))


def test_a_name_that_the_hub_does_not_give_says_what_to_do(offline: dict[str, str]) -> None:
    pytest.importorskip("transformers")
    program = "from chatenv_server.tokenizer_files.loading import load_tokenizer; load_tokenizer('nobody/nothing')"
    done = subprocess.run([sys.executable, "-c", program], env=offline, capture_output=True, text=True, check=False)
    assert "TokenizerError: tokenizer 'nobody/nothing' is neither a folder here nor" in done.stderr


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """No network and nothing cached."""
    return plain_environment() | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}


def test_a_folder_of_an_older_format_loads_too_and_leaves_an_installed_torch_alone(
    conformance_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    gpt2 = conformance_dir / "tokenizers" / "gpt2"
    model = json.loads((gpt2 / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    done = subprocess.run(
        [sys.executable, "-c", ENCODE_WITHOUT_TORCH, str(tmp_path)],
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = load_tokenizer(str(gpt2)).backend_tokenizer.encode("It's hé").ids
    assert json.loads(done.stdout) == expected


def test_a_chat_template_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ 'é' }}\n", encoding="utf-8")
    assert read_chat_template(str(tmp_path / "t.jinja")) == "{{ 'é' }}\n"
    (tmp_path / "t.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"t\.jinja"):
        read_chat_template(str(tmp_path / "t.jinja"))
