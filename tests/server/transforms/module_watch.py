"""A transform that tells which modules its process has loaded."""

from __future__ import annotations

import sys

from chatenv_client import ChatObservation


class ModuleWatch:
    """Puts the names of all loaded top-level modules into the metadata."""

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        """Add the names."""
        observation.metadata["modules"] = [name for name in list(sys.modules) if "." not in name]
        return observation
