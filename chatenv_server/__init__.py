"""chatenv's environment and server: `ChatEnvironment` in-process, and the gRPC service around it."""

from __future__ import annotations

from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.transforms import Transform, compose

__all__ = ["ChatEnvironment", "Transform", "compose"]
