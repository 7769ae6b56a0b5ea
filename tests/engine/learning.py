"""Episodes on scenes that learn what a template writes, and on scenes that have never seen another exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.dialect import TemplateDialect
from chatenv_server.engine.scene import TemplateScene


def dialect_of(engine: TokenEngine) -> TemplateDialect:
    assert isinstance(engine.dialect, TemplateDialect)
    return engine.dialect


def frames_of(env: ChatEnvironment) -> Any:
    """What the episode's scene has learnt, by shape."""
    scene = env._episode.log.scene  # type: ignore[union-attr]
    assert isinstance(scene, TemplateScene)
    return scene._frames._frames


def sampled(engine: TokenEngine, answer: str) -> ChatAction:
    """A turn that ends in `<|im_end|>`, or in another stop token where there is no such."""
    codec = dialect_of(engine).codec
    return ChatAction(tokens=[*codec.encode(answer), codec.id_of("<|im_end|>") or min(engine.stop_ids)])


def played(
    engine: TokenEngine, said: Sequence[tuple[str, str]], *, learning: bool
) -> tuple[ChatEnvironment, list[int]]:
    """An episode, and its tokens; without learning every step meets a scene that has never seen another."""
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "Good morning."}])
    for answer, question in said:
        if not learning:
            log = env._episode.log  # type: ignore[union-attr]
            log.scene = TemplateScene(dialect_of(engine), log.terms)
        env.step(sampled(engine, answer))
        env.step({"role": "user", "content": question})
    return env, env.state.token_ids.tolist()
