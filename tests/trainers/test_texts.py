"""A turn that is known as text: the ids that a chat template writes for it, and no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_client import AsyncChatEnv, ChatEnv
from chatenv_client.models import Message
from chatenv_client.trainers.speaking import Speaker
from chatenv_client.trainers.texts import tokens_of_turn
from chatenv_client.trainers.trl_tools import environment_factory
from chatenv_server import Settings, ToolTask, serve
from tests.conformance import CONFORMANCE, do_without, why_missing

ASKED = [{"role": "user", "content": "Hi"}]
SAID: Message = {"role": "assistant", "content": "hello"}
WRITTEN = {"qwen2_5": "hello<|im_end|>", "standin_glm4_5": "\n<think></think>\nhello", "mistral_7b_v0_3": " hello</s>"}
"""By tokenizer. The template of the second ends a turn with the next one's role, which is nobody's yet."""


def settings(name: str) -> Settings:
    folder = CONFORMANCE / "tokenizers" / name
    if reason := why_missing(folder):
        do_without(reason)
    return Settings(listen=("127.0.0.1:0",), tokenizer=str(folder))


def text_of(env: ChatEnv, ids: list[int]) -> str:
    return b"".join(token.text for token in env.describe_tokens(ids)).decode()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_text_is_what_the_template_writes_without_the_next_prompt(name: str) -> None:
    with serve(settings(name)) as server, ChatEnv(server.target) as env:
        shown = env.reset(messages=ASKED).observation
        assert text_of(env, tokens_of_turn(env, shown, "hello")) == WRITTEN[name]


@pytest.mark.parametrize("name", WRITTEN)
def test_so_is_a_message(name: str) -> None:
    async def said(target: str, finish_reason: str) -> list[int]:
        async with AsyncChatEnv(target) as env:
            await env.reset(messages=ASKED)
            await Speaker(env).say(SAID, finish_reason=finish_reason)
            sampled: Any = (await env.trajectory()).samples()[-1]
            return list(sampled.tokens[sampled.loss_mask])

    with serve(settings(name)) as server, ChatEnv(server.target) as env:
        assert text_of(env, asyncio.run(said(server.target, "stop"))) == WRITTEN[name]
        cut_off = WRITTEN[name].removesuffix("<|im_end|>").removesuffix("</s>")
        assert text_of(env, asyncio.run(said(server.target, "length"))) == cut_off


def double(number: int) -> int:
    """Double a number.

    Args:
        number: It.
    """
    return 2 * number


class Doubling(ToolTask):
    """Has one tool."""

    tools = (double,)


def test_a_call_of_trls_ends_as_the_template_ends_it() -> None:
    with serve(settings("qwen2_5"), task=Doubling) as server:
        environment: Any = environment_factory(server.target)()
        environment.reset(messages=ASKED)
        assert environment.double(number=4) == "8"
        sample = environment._env.trajectory().samples()[-1]
        sampled = text_of(environment._env, list(sample.tokens[sample.loss_mask]))
    assert sampled.startswith("<tool_call>")
    assert sampled.endswith("</tool_call><|im_end|>")
