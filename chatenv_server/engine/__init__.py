"""The token engine: exact token streams for any chat template, in time independent of history."""

from __future__ import annotations

from chatenv_server.engine.audit import audit
from chatenv_server.engine.conversation import RenderOptions
from chatenv_server.engine.engine import PLAIN_TEMPLATE, TokenEngine
from chatenv_server.engine.log import EpisodeLog

__all__ = ["PLAIN_TEMPLATE", "EpisodeLog", "RenderOptions", "TokenEngine", "audit"]
