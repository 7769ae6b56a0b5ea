"""chatenv's environment and server: `ChatEnvironment` in-process, and the gRPC service around it.

Public is what `__all__` names; all else in this package is private, and may change with any version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatenv_server.engine import TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.transforms import Transform, compose

if TYPE_CHECKING:
    from chatenv_server.running.process import start as serve
    from chatenv_server.settings.settings import Settings

__all__ = ["ChatEnvironment", "Settings", "TokenEngine", "Transform", "compose", "serve"]


def __getattr__(name: str) -> Any:
    """What only servers need, imported when it is asked for."""
    if name == "Settings":
        from chatenv_server.settings.settings import Settings

        return Settings
    if name == "serve":
        from chatenv_server.running.process import start

        return start
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
