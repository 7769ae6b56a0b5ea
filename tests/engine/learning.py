"""Episodes on renderers that reuse what a template wrote, and on renderers that render every time."""

from __future__ import annotations

from collections.abc import Sequence

from chatenv_client import ChatAction
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.continuations import Continuations
from chatenv_server.engine.reuse.reusing_tails import RecordedTail, ReusingTails
from chatenv_server.engine.template import FilledTemplate
from chatenv_server.engine.template_renderer import TemplateRenderer


def format_of(engine: TokenEngine) -> ChatFormat:
    assert isinstance(engine.chat_format, ChatFormat)
    return engine.chat_format


def tails_of(env: ChatEnvironment) -> ReusingTails:
    """What the episode's renderer has learnt of tails."""
    renderer = env._episode.log.renderer  # type: ignore[union-attr]
    assert isinstance(renderer, TemplateRenderer)
    assert isinstance(renderer._tails, ReusingTails)
    return renderer._tails


def recorded_tails(env: ChatEnvironment) -> list[RecordedTail]:
    """All recordings of tails."""
    return [one for known in tails_of(env)._recordings.all() for one in known.recordings]


def sampled(engine: TokenEngine, answer: str) -> ChatAction:
    """A turn that ends in `<|im_end|>`, or in another stop token where there is no such."""
    codec = format_of(engine).codec
    return ChatAction(tokens=[*codec.encode(answer), codec.id_of("<|im_end|>") or min(engine.stop_ids)])


def render_every_time(env: ChatEnvironment) -> None:
    """Take everything away that makes the episode's renderer reuse what it wrote."""
    log = env._episode.log  # type: ignore[union-attr]
    log.renderer = renderer = TemplateRenderer(
        format_of(env.engine), log.options, fill=FilledTemplate, reuses_tails=False
    )
    log._continuations = Continuations(renderer, log.options)


def played(
    engine: TokenEngine, said: Sequence[tuple[str, str]], *, learning: bool
) -> tuple[ChatEnvironment, list[int]]:
    """An episode, and its tokens; without learning every tail is rendered."""
    env = ChatEnvironment(engine)
    env.reset(messages=[{"role": "user", "content": "Good morning."}])
    if not learning:
        render_every_time(env)
    for answer, question in said:
        env.step(sampled(engine, answer))
        env.step({"role": "user", "content": question})
    return env, env.state.token_ids.tolist()
