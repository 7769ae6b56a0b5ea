"""Loading the tokenizer of a process."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from chatenv_server.tokenizer_files.loading import TokenizerError, load_tokenizer, read_chat_template
from tests.engine.small_tokenizers import CHATML
from tests.engine.subjects import RECORDED
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


HOSTILE = (
    "It's 3 o'clock,\n\n  NAÏVE — 12345 \t<|im_end|></s><|end|> ünï 漢字 🙂",
    "<mask> <pad> <unk> [MASK] <s> <bos><eos> <|endoftext|><|fim_prefix|> <unused0> <2mass>",
    " leading  and trailing \n\n\n e\u0301 A\u030a \u212b ﬁ ＜｜im_end｜＞\u2581x",
)


def _like_gemma(folder: Path) -> Path:
    """A folder as Gemma 2's: its file has `<mask>` as a token like any other, its class as a control token."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(chr(code) for code in range(0x21, 0x7F)), "▁", "\n"]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    backend.normalizer, backend.decoder = normalizers.Replace(" ", "▁"), decoders.Replace("▁", " ")
    backend.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    backend.add_tokens([AddedToken("<mask>", normalized=False)])
    backend.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    configuration = {"tokenizer_class": "GemmaTokenizer", "chat_template": CHATML, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma2"}))
    return folder


def named_tokens(tokenizer: Any) -> dict[str, str]:
    """Those that templates get. transformers 4 gives them additional ones, too, which no template is known to read."""
    return {name: text for name, text in tokenizer.special_tokens_map.items() if name != "additional_special_tokens"}


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("name", [*RECORDED, "like Gemma 2"])
def test_a_folder_becomes_the_tokenizer_that_auto_tokenizer_makes_of_it(
    name: str, lean: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    transformers = pytest.importorskip("transformers")
    recorded = name in RECORDED
    folder = request.getfixturevalue("conformance_dir") / "tokenizers" / name if recorded else _like_gemma(tmp_path)
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except ValueError:  # transformers 4 cannot read every folder
        with pytest.raises(TokenizerError, match="transformers cannot load"):
            load_tokenizer(str(folder), lean=lean)
        return
    ours = load_tokenizer(str(folder), lean=lean)
    assert ours.chat_template == theirs.chat_template
    assert named_tokens(ours) == named_tokens(theirs)
    assert len(ours) == len(theirs)
    assert ours.backend_tokenizer.get_added_tokens_decoder() == theirs.backend_tokenizer.get_added_tokens_decoder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # gpt2 has no template
        here, there = (TokenEngine.load(tokenizer) for tokenizer in (ours, theirs))
    assert here.tokenizer_fingerprint == there.tokenizer_fingerprint
    assert here.control_tokens == there.control_tokens
    for text in HOSTILE:
        message = {"role": "user", "content": text}
        streams = [ChatEnvironment(engine).reset(messages=[message], clock=0.0).token_ids for engine in (here, there)]
        assert streams[0].tolist() == streams[1].tolist()


def test_code_in_a_folder_is_never_run_and_nobody_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    auto_map = {"AutoTokenizer": ["code.Own", None]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map, "tokenizer_class": "Own"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    program = (
        "import sys; from chatenv_server.tokenizer_files.loading import load_tokenizer; load_tokenizer(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=plain_environment() | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        input="y\ny\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TokenizerError: transformers cannot load a tokenizer" in done.stderr
    assert "y/N" not in done.stdout
    assert not (tmp_path / "ran").exists()


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


LOAD_NOTHING = "from chatenv_server.tokenizer_files.loading import load_tokenizer; load_tokenizer('nobody/nothing')"


@pytest.mark.parametrize(
    ("surroundings", "cause"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1"}, "Connection refused"),
    ],
    ids=["offline by decree", "no network"],
)
def test_a_name_that_cannot_be_downloaded_says_why(
    offline: dict[str, str], surroundings: dict[str, str], cause: str
) -> None:
    pytest.importorskip("transformers")
    command = [sys.executable, "-c", LOAD_NOTHING]
    done = subprocess.run(command, env=offline | surroundings, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert "TokenizerError: tokenizer 'nobody/nothing' is no folder here" in said
    assert cause in said


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
