"""Loads the one tokenizer of a process: the embedded one, a folder, or a Hugging Face name.

A folder becomes the tokenizer that `AutoTokenizer` makes of it, so that a server encodes as its trainer does: a class
of transformers may add tokens and take steps that `tokenizer.json` does not have. A sidecar has to be small and start
fast, so folders of which it is known that no class adds anything are read without transformers (`lean.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from chatenv_client.distribution import to_install
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from chatenv_server.tokenizer_files.lean import read_lean

EMBEDDED: Final = "bytes"
"""Name of the embedded byte tokenizer."""

TOKENIZER_FILES: Final = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Patterns of the files that a tokenizer is made of; weights are left alone."""


class TokenizerError(Exception):
    """The tokenizer or its chat template cannot be loaded; the message says what to do."""


def load_tokenizer(name: str = EMBEDDED, *, lean: bool = False) -> Any:
    """Load `bytes` (the embedded tokenizer), a folder, or a Hugging Face name; a folder wins over a name.

    With `lean` it is read without transformers where that gives the same; the result then has no more than the token
    engine needs.

    Raises:
        TokenizerError: there is no such tokenizer, or transformers cannot read it.
    """
    if name == EMBEDDED and not Path(name).is_dir():
        return ByteTokenizer()
    try:
        folder = find_folder(name)
        return (read_lean(folder) if lean else None) or _load_folder(folder)
    except ImportError as error:
        raise TokenizerError(f"tokenizer {name!r} needs the package {error.name}: {to_install('server')}") from error


def read_chat_template(path: str) -> str:
    """Read a chat template from a file.

    Raises:
        TokenizerError: the file cannot be read as UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"the chat template file {path!r} cannot be read: {error}") from error


@contextlib.contextmanager
def torch_hidden() -> Iterator[None]:
    """Keep transformers from importing an installed torch, which tokenizers never need.

    It has no effect where torch or transformers is loaded already: half hidden would be worse than loaded.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    # None makes both `import torch` and importlib.util.find_spec("torch") find nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        yield
    finally:
        del sys.modules["torch"]


def find_folder(name: str) -> Path:
    """The folder with a tokenizer's files: the one given, or the one that a Hugging Face name is downloaded to.

    Raises:
        TokenizerError: there is no such tokenizer.
        ImportError: a name needs huggingface_hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")):
        raise TokenizerError(f"tokenizer folder {name!r} does not exist")
    hub = importlib.import_module("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(TOKENIZER_FILES)))
    except Exception as error:
        raise TokenizerError(f"tokenizer {name!r} is no folder here, and {_why_not_downloaded(error)}") from error


def _why_not_downloaded(error: Exception) -> str:
    """What kept a tokenizer from being downloaded, and what to do about it."""
    if importlib.import_module("huggingface_hub.constants").HF_HUB_OFFLINE:
        return (
            "it was never downloaded here: HF_HUB_OFFLINE forbids to do so now. Set HF_HUB_OFFLINE=0, or give a folder"
        )
    first: BaseException = error
    while (cause := first.__cause__ or first.__context__) is not None:
        first = cause
    said = str(first).strip().partition("\n")[0]
    return (
        f"Hugging Face does not give a repository of that name ({type(error).__name__}: {said}): check the name, the "
        "network and HF_TOKEN, or give a folder"
    )


def _load_folder(folder: Path) -> Any:
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    try:
        # Unless told, it asks on standard input whether to run the folder's own code.
        return transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:
        raise TokenizerError(
            f"transformers cannot load a tokenizer from {str(folder)!r} ({type(error).__name__}: {error}); "
            "a folder with tokenizer.json and tokenizer_config.json is what works best"
        ) from error
