"""Transforms for servers that run as processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

from chatenv_client import ChatObservation


def marked_second(observation: ChatObservation) -> ChatObservation:
    """Leave a file at MARK when it begins, and take a second, or SECONDS."""
    Path(os.environ["MARK"]).touch()
    time.sleep(float(os.environ.get("SECONDS", "1")))
    observation.reward = 1.0
    return observation
