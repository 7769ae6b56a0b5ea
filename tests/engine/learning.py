"""Episodes on renderers that learn what a template writes, and on renderers that have never seen another exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.renderer import TemplateRenderer


def format_of(engine: TokenEngine) -> ChatFormat:
    assert isinstance(engine.chat_format, ChatFormat)
    return engine.chat_format


def frames_of(env: ChatEnvironment) -> Any:
    """What the episode's renderer has learnt, by shape."""
    renderer = env._episode.log.renderer  # type: ignore[union-attr]
    assert isinstance(renderer, TemplateRenderer)
    return renderer._frames._frames


def sampled(engine: TokenEngine, answer: str) -> ChatAction:
    """A turn that ends in `<|im_end|>`, or in another stop token where there is no such."""
    codec = format_of(engine).codec
    return ChatAction(tokens=[*codec.encode(answer), codec.id_of("<|im_end|>") or min(engine.stop_ids)])


def played(
    engine: TokenEngine, said: Sequence[tuple[str, str]], *, learning: bool
) -> tuple[ChatEnvironment, list[int]]:
    """An episode, and its tokens; without learning every step meets a renderer that has never seen another."""
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "Good morning."}])
    for answer, question in said:
        if not learning:
            log = env._episode.log  # type: ignore[union-attr]
            log.renderer = TemplateRenderer(format_of(engine), log.options)
        env.step(sampled(engine, answer))
        env.step({"role": "user", "content": question})
    return env, env.state.token_ids.tolist()
