"""Runs the code of docs/trainers/trl.md with a small model on the CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "trainers" / "trl.md"
SMALL = "use_cpu=True, bf16=False, report_to=[], max_steps=1, per_device_train_batch_size=8, max_completion_length=6"


def run_block(number: int, address: str, model: Path, until: str = "") -> dict[str, Any]:
    """Run a block, or what it says before a line; its names."""
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[number]
    assert until in block
    block = block.split(until)[0] if until else block
    block = re.sub(r"max_completion_length=\d+", SMALL, block.replace("localhost:50051", address))
    names: dict[str, Any] = {}
    exec(re.sub(r'"Qwen/[^"]*"', repr(str(model)), block), names)
    return names
