"""Reading a tokenizer without transformers: the same tokenizer, or none at all."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.lean import OVERRULED, read_lean
from chatenv_server.tokenizer_files.loading import load_tokenizer

NAMES = ("gpt2", "qwen2_5", "tiny_bytes", "standin_glm4_5", "standin_kimi_k2", "standin_qwen3_6")


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_is_the_same_as_with_transformers(name: str, conformance_dir: Path) -> None:
    pytest.importorskip("transformers")
    folder = conformance_dir / "tokenizers" / name
    lean, full = read_lean(folder), load_tokenizer(str(folder))
    assert lean is not None
    assert lean.chat_template == full.chat_template
    named = {key: text for key, text in full.special_tokens_map.items() if key != "additional_special_tokens"}
    assert lean.special_tokens_map == named  # transformers 4 lists further ones, which templates of 5 do not get
    assert lean.eos_token_id == full.eos_token_id
    assert len(lean) == len(full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # gpt2 has no template
        engines = [TokenEngine.load(tokenizer) for tokenizer in (lean, full)]
    assert engines[0].tokenizer_fingerprint == engines[1].tokenizer_fingerprint
    assert engines[0].template_fingerprint == engines[1].template_fingerprint
    assert engines[0].control_tokens == engines[1].control_tokens


@pytest.fixture
def folder(conformance_dir: Path, tmp_path: Path) -> Path:
    """A copy of a tokenizer to change."""
    copied = tmp_path / "tiny_bytes"
    shutil.copytree(conformance_dir / "tokenizers" / "tiny_bytes", copied, copy_function=shutil.copyfile)
    copied.chmod(0o755)
    return copied


def configure(folder: Path, **values: Any) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def write(name: str, content: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(content))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a key that nobody here knows": lambda folder: configure(folder, response_schema={}),
    "code of its own": lambda folder: configure(folder, auto_map={"AutoTokenizer": ["x.X", None]}),
    "a named token that the file has not": lambda folder: configure(folder, pad_token="<|new|>"),
    "an additional token that the file has not": lambda folder: configure(
        folder, additional_special_tokens=["<|new|>"]
    ),
    "an added token that the file has not": lambda folder: configure(
        folder, added_tokens_decoder={"9999": {"content": "<|new|>"}}
    ),
    "special tokens that are split": lambda folder: configure(folder, split_special_tokens=True),
    "a class that may add something": lambda folder: configure(folder, tokenizer_class="GemmaTokenizer"),
    "a class with other steps": lambda folder: configure(folder, tokenizer_class="Qwen2Tokenizer", unk_token=None),
    "a model whose class is another": write("config.json", {"model_type": "qwen2"}),
    "another backend": lambda folder: configure(folder, backend="sentencepiece"),
    "older files with other names": write("special_tokens_map.json", {"eos_token": "<|pad|>"}),
    "older files with added tokens": write("added_tokens.json", {"<|new|>": 9999}),
    "a file that is broken": write("tokenizer.json", {}),
    "no file": lambda folder: (folder / "tokenizer.json").unlink(),
    "no configuration": lambda folder: (folder / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_files_that_ask_for_more_are_left_to_transformers(what: str, folder: Path) -> None:
    assert read_lean(folder) is not None
    CHANGES[what](folder)
    assert read_lean(folder) is None


def test_models_whose_class_is_another_are_those_of_transformers() -> None:
    auto = pytest.importorskip("transformers.models.auto.tokenization_auto")
    others = getattr(auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())  # transformers 4 has none
    classes = {kind: auto.TOKENIZER_MAPPING_NAMES.get(kind) for kind in others}
    assert {kind for kind, name in classes.items() if name not in (None, "TokenizersBackend")} <= OVERRULED.keys()


def test_tokens_spelled_out_are_their_text(folder: Path) -> None:
    special = {"content": "<|end|>", "__type": "AddedToken"}
    configure(folder, eos_token=special)
    names = json.loads((folder / "tokenizer_config.json").read_text())
    older = {name: names[name] for name in ("bos_token", "eos_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(older))
    lean = read_lean(folder)
    assert lean is not None
    assert lean.special_tokens_map["eos_token"] == "<|end|>"


def test_several_templates_are_told_by_name(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    configure(folder, chat_template=[{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}])
    lean = read_lean(folder)
    assert lean is not None
    assert lean.chat_template == {"default": "a", "tool_use": "b"}
    (folder / "chat_template.jinja").write_text("c")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("d")
    lean = read_lean(folder)
    assert lean is not None
    assert lean.chat_template == {"default": "c", "tool_use": "d"}
    assert lean.chat_template == load_tokenizer(str(folder)).chat_template
