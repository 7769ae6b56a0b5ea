"""A trainer's tokenizer against the server's: its own passes, any other is refused before an episode is played."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

from transformers import AutoTokenizer

from chatenv_client import ChatEnv
from chatenv_client.trainers.rollouts import Server
from chatenv_client.trainers.skyrl import ChatGenerator
from chatenv_client.trainers.tokenizers import check_tokenizer, probes
from chatenv_server import Settings, serve
from tests.conformance import CONFORMANCE, do_without, why_missing

RECORDED = ("mistral_7b_v0_3", "phi3_5", "qwen2_5", "tiny_bytes")
REFUSED = "start the server with the model's own tokenizer"


@cache
def recorded(name: str) -> Any:
    """A tokenizer of the conformance data."""
    return AutoTokenizer.from_pretrained(CONFORMANCE / "tokenizers" / name)


def check(address: str, tokenizer: Any) -> None:
    with ChatEnv(address) as env:
        server = env.server_info()
        check_tokenizer(tokenizer, server, env.describe_tokens(probes(server)))


@pytest.mark.parametrize("name", RECORDED)
def test_the_servers_own_tokenizer_passes_and_those_of_other_families_are_refused(name: str) -> None:
    folder = CONFORMANCE / "tokenizers"
    if not folder.is_dir():
        do_without(why_missing(folder))
    settings = Settings(listen=("127.0.0.1:0",), tokenizer=str(folder / name))
    with serve(settings) as server:
        check(server.target, recorded(name))
        for other in set(RECORDED) - {name}:
            with pytest.raises(ValueError, match=REFUSED):
                check(server.target, recorded(other))


def test_one_that_has_only_the_control_tokens_in_common_is_refused(bare_address: str, turned: Any) -> None:
    with pytest.raises(ValueError, match=r"for the server and .* for the trainer; start"):
        check(bare_address, turned)


def test_one_that_has_more_tokens_passes(bare_address: str, embedded: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    tokenizer.add_tokens(["<|pad|>"], special_tokens=True)
    check(bare_address, tokenizer)


def test_the_tokenizer_of_a_processor_is_the_one_that_is_compared(
    bare_address: str, embedded: Path, turned: Any
) -> None:
    check(bare_address, SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(embedded)))
    with pytest.raises(ValueError, match=REFUSED):
        check(bare_address, SimpleNamespace(tokenizer=turned))


def test_a_loop_that_asks_for_stop_ids_compares_first(turned: Any, embedded: Path) -> None:
    async def ask(tokenizer: Any) -> list[int]:
        return await Server(server.target).stop_ids(tokenizer, [65])

    with serve(Settings(listen=("127.0.0.1:0",))) as server:
        with pytest.raises(ValueError, match=REFUSED):
            asyncio.run(ask(turned))
        assert {65, 257} <= set(asyncio.run(ask(AutoTokenizer.from_pretrained(embedded))))


def test_skyrls_generator_plays_nothing_with_another_tokenizer(address: str, turned: Any) -> None:
    generator = ChatGenerator(SimpleNamespace(), None, turned, address)
    rows = {"prompts": [[]], "env_extras": [{}], "sampling_params": {}}
    with pytest.raises(ValueError, match=REFUSED):
        asyncio.run(generator.generate(rows))
    with ChatEnv(address) as env:
        assert not env.server_info().live_episodes
