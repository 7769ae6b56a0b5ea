"""Transforms for servers that run as processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

from chatenv_client import ChatObservation


def marked_second(observation: ChatObservation) -> ChatObservation:
    """Leave a file with the process's id at MARK when it begins, and take a second, or SECONDS."""
    mark = Path(os.environ["MARK"])
    unfinished = mark.with_suffix(".unfinished")
    unfinished.write_text(str(os.getpid()), encoding="ascii")
    unfinished.replace(mark)
    time.sleep(float(os.environ.get("SECONDS", "1")))
    observation.reward = 1.0
    return observation
