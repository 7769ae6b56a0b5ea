"""Puts the tokenizer named by CHATENV_TOKENIZER into a folder of that name, for images that start without a network.

The server takes a folder before it takes a Hugging Face name, so what is baked in keeps its name. Fails the build when
the tokenizer or its chat template cannot be loaded.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.loading import EMBEDDED, TOKENIZER_FILES, find_folder, load_tokenizer


def bake(name: str, root: Path) -> None:
    """Write the tokenizer's files to `root/name`. The embedded tokenizer has none."""
    root.mkdir(parents=True)
    if name == EMBEDDED:
        return
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise SystemExit(f"CHATENV_TOKENIZER={name} has to be a Hugging Face name or a folder inside the build context")
    source, target = find_folder(name), root / name
    target.mkdir(parents=True)
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, target)
    TokenEngine.load(load_tokenizer(str(target)))


if __name__ == "__main__":
    bake(os.environ["CHATENV_TOKENIZER"], Path(sys.argv[1]))
