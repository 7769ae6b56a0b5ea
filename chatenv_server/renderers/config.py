"""What can be set of the renderer, beside the arguments of the chat template."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from renderers.configs import BaseRendererConfig


class ChatEnvRendererConfig(BaseRendererConfig):
    """Options of a `ChatEnvRenderer`. Each further name is an argument of the chat template, such as `enable_thinking`.

    `thinking_retention` says what a bridge does where the template would write an earlier turn differently. Left out:
    the prompt is rendered anew. "tool_cycle": rendered anew at each user's message, and nowhere else. "all": never.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: Literal["chatenv"] = "chatenv"
    chat_template: str | None = None
    """A Jinja template to use in place of the tokenizer's own."""
    control_token_policy: Literal["escape", "reject", "allow"] = "escape"
    """Control-token strings in texts: encoded as text, refused, or let be."""

    _internal_fields: ClassVar[frozenset[str]] = frozenset({"chat_template", "control_token_policy"})
    _template_fields: ClassVar[frozenset[str]] = frozenset()
    _allow_opaque_template_kwargs: ClassVar[bool] = True
