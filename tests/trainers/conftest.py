"""A server with a task, for adapters to play with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server import Settings, serve
from chatenv_server.tokenizer_files.exporting import export_embedded
from tests.trainers.tasks import Echo, EveryOtherBreaks

FORGETFUL = """\
{%- for message in messages %}
{%- set content = message.content if loop.last else message.content.split("</think>")[-1] %}
{{- "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}"""
"""A chat template that strips thoughts off earlier turns."""


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Of a server with the embedded tokenizer and `Echo`."""
    with serve(Settings(listen=("127.0.0.1:0",)), task=Echo) as server:
        yield server.target


@pytest.fixture(scope="session")
def bare_address() -> Iterator[str]:
    """Of a server with the embedded tokenizer, and without a task."""
    with serve(Settings(listen=("127.0.0.1:0",))) as server:
        yield server.target


@pytest.fixture(scope="session")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server with `Echo` and a chat template that rewrites history."""
    template = tmp_path_factory.mktemp("template") / "forgetful.jinja"
    template.write_text(FORGETFUL, encoding="utf-8")
    with serve(Settings(listen=("127.0.0.1:0",), chat_template=str(template)), task=Echo) as server:
        yield server.target


@pytest.fixture
def flaky() -> Iterator[str]:
    """Of a server whose task breaks in every other episode, the first included."""
    EveryOtherBreaks.opened = 0
    with serve(Settings(listen=("127.0.0.1:0",)), task=EveryOtherBreaks) as server:
        yield server.target


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded tokenizer as a Hugging Face folder, for trainers that load one."""
    folder = tmp_path_factory.mktemp("embedded") / "bytes"
    export_embedded(folder)
    return folder


@pytest.fixture(scope="session")
def turned(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Another tokenizer than the embedded one, with the same control tokens: each byte has the id of the one before."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = shutil.copytree(embedded, tmp_path_factory.mktemp("turned") / "bytes")
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    ids = written["model"]["vocab"]
    written["model"]["vocab"] = {text: (ids[text] - 1) % 256 if ids[text] < 256 else ids[text] for text in ids}
    file.write_text(json.dumps(written), encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(folder)
