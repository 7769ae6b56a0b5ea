"""What tokens stand for, over the wire."""

from __future__ import annotations

import asyncio

from chatenv_client import AsyncChatEnv, ChatEnv, ServerInfo
from chatenv_client.inquiries import MOST_TOKENS


def test_control_tokens_are_said_to_be_some(env: ChatEnv, info: ServerInfo) -> None:
    texts = env.describe_tokens([token.id for token in info.special_tokens])
    assert [text.text.decode() for text in texts] == [token.text for token in info.special_tokens]
    assert all(text.is_control for text in texts)


def test_any_number_of_tokens_is_described_in_order(env: ChatEnv) -> None:
    some = list(range(100))
    each = [*env.describe_tokens(some)]
    assert env.describe_tokens(some[::-1]) == each[::-1]
    assert env.describe_tokens(some * (MOST_TOKENS // 100 + 1)) == each * (MOST_TOKENS // 100 + 1)
    assert env.describe_tokens([]) == []


def test_the_asynchronous_client_is_told_the_same(env: ChatEnv, target: str) -> None:
    async def asked() -> object:
        async with AsyncChatEnv(target) as other:
            return await other.describe_tokens(range(100))

    assert asyncio.run(asked()) == env.describe_tokens(range(100))
