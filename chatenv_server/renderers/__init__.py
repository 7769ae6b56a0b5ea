"""A renderer for the package `renderers` (verifiers, prime-rl and others), backed by the token engine.

Import it by name, as `chatenv_server.renderers.ChatEnvRenderer`; nothing else here loads the package. Needs the extra
`renderers`.
"""

from __future__ import annotations

from chatenv_client.distribution import needing

with needing("renderers", "ChatEnvRenderer"):
    from chatenv_server.renderers.config import ChatEnvRendererConfig
    from chatenv_server.renderers.renderer import ChatEnvRenderer

__all__ = ["ChatEnvRenderer", "ChatEnvRendererConfig"]
