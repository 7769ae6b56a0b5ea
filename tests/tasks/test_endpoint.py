"""Questions to a real HTTP server that speaks the OpenAI protocol, in all the ways in which it may fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openai", reason="the extra `endpoint` is not installed")

from chatenv_server.tasks.endpoint import Endpoint, EndpointError, Reply
from tests.tasks.openai_server import OpenAIServer, completion, failed, http, saying

PROMPT = [{"role": "user", "content": "Hi!"}]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer().running() as running:
        yield running


def asked(endpoint: Endpoint, times: int = 1) -> Any:
    """What it says, in an event loop of its own."""

    async def ask() -> Any:
        try:
            return await asyncio.gather(*(endpoint.ask(PROMPT) for _ in range(times)))
        finally:
            await endpoint.close()

    replies = asyncio.run(ask())
    return replies[0] if times == 1 else replies


def test_a_question_is_a_chat_completion_with_the_options(server: OpenAIServer) -> None:
    endpoint = Endpoint("m", server.url, options={"temperature": 0.5, "max_tokens": 7, "top_k": 3})
    assert asked(endpoint) == Reply("Hello!", "stop")
    assert server.asked == [{"model": "m", "messages": PROMPT, "temperature": 0.5, "max_tokens": 7, "top_k": 3}]


def test_no_key_goes_to_an_endpoint_of_ones_own_unless_it_is_named(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("MY_KEY", "mine")
    asked(Endpoint("m", server.url))
    asked(Endpoint("m", server.url, key_variable="MY_KEY"))
    assert server.keys == ["Bearer none", "Bearer mine"]


def test_openais_own_gets_the_key_that_is_its_own(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    asked(Endpoint("m"))
    assert server.keys == ["Bearer sk-openai"]


@pytest.mark.parametrize(("keywords", "variable"), [({}, "OPENAI_API_KEY"), ({"key_variable": "MY_KEY"}, "MY_KEY")])
def test_without_its_key_the_endpoint_says_which_variable_it_needs(
    monkeypatch: pytest.MonkeyPatch, keywords: Any, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(EndpointError, match=variable):
        asked(Endpoint("m", **keywords))


@pytest.mark.parametrize("status", ["408 Timeout", "409 Conflict", "429 Too Many", "500 Oh", "503 Busy"])
def test_what_may_pass_is_tried_again(server: OpenAIServer, status: str) -> None:
    server.answers = [lambda: failed(status), saying("Hello!")]
    assert asked(Endpoint("m", server.url)).text == "Hello!"
    assert len(server.asked) == 2


def test_a_connection_that_breaks_and_an_answer_that_is_cut_off_are_tried_again(server: OpenAIServer) -> None:
    server.answers = [lambda: b"", lambda: completion("Hel")[:-20], saying("Hello!")]
    assert asked(Endpoint("m", server.url)).text == "Hello!"
    assert len(server.asked) == 3


def test_what_does_not_pass_is_an_error_after_the_last_try(server: OpenAIServer) -> None:
    server.answers = [lambda: failed("500 Oh")]
    with pytest.raises(EndpointError, match=r"answered with status 500: .*did not work"):
        asked(Endpoint("m", server.url, retries=1))
    assert len(server.asked) == 2


def test_what_never_passes_is_not_tried_again(server: OpenAIServer) -> None:
    server.answers = [lambda: failed("400 Bad Request")]
    with pytest.raises(EndpointError, match="answered with status 400"):
        asked(Endpoint("m", server.url))
    assert len(server.asked) == 1


def as_json(value: Any) -> bytes:
    return http(json.dumps(value))


def choice(**fields: Any) -> bytes:
    return as_json({"choices": [{"message": {"content": "Hello!"}, "finish_reason": "stop", **fields}]})


@pytest.mark.parametrize(
    "answer",
    [
        http("<html>", content_type="text/html"),
        http('{"choices": ['),
        http(b"\xff\xfe"),
        http(""),
        http("[" * 100_000),
        as_json({}),
        as_json([]),
        as_json("Hello!"),
        as_json(None),
        as_json({"choices": None}),
        as_json({"choices": []}),
        as_json({"choices": [None]}),
        as_json({"choices": {"0": 1}}),
        choice(message=None),
        choice(message={}),
        choice(message={"content": None, "refusal": "No."}),
        choice(message={"content": 5}),
        choice(message={"content": [{"type": "text", "text": "Hello!"}]}),
        completion("x" * 70_000),
        http("x" * 10_000_000),
    ],
)
def test_an_answer_that_is_none_is_an_error(server: OpenAIServer, answer: bytes) -> None:
    server.answers = [lambda: answer]
    with pytest.raises(EndpointError):
        asked(Endpoint("m", server.url))


def test_a_text_that_was_cut_off_by_the_endpoint_says_so(server: OpenAIServer) -> None:
    server.answers = [saying("Hel", "length")]
    assert asked(Endpoint("m", server.url)) == Reply("Hel", "length")


def test_the_deadline_holds_for_all_tries_together(server: OpenAIServer) -> None:
    server.answers = [lambda: failed("500 Oh"), saying("late", after_s=5)]
    began = time.monotonic()
    with pytest.raises(EndpointError, match=r"within 0\.8 s"):
        asked(Endpoint("m", server.url, timeout_s=0.8))
    assert time.monotonic() - began < 4


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(EndpointError, match="APIConnectionError"):
        asked(Endpoint("m", "http://127.0.0.1:1/v1", retries=0))


def test_only_so_many_are_asked_at_once(server: OpenAIServer) -> None:
    server.answers = [saying("Hello!", after_s=0.05)]
    assert [reply.text for reply in asked(Endpoint("m", server.url, most_at_once=3), times=12)] == ["Hello!"] * 12
    assert server.most_at_once == 3


def test_to_wait_for_others_costs_no_time_of_ones_own(server: OpenAIServer) -> None:
    server.answers = [saying("Hello!", after_s=0.3)]
    assert len(asked(Endpoint("m", server.url, most_at_once=1, timeout_s=1.0), times=5)) == 5


def test_many_questions_share_an_event_loop(server: OpenAIServer) -> None:
    server.answers = [saying("Hello!", after_s=0.3)]
    began = time.monotonic()
    asked(Endpoint("m", server.url), times=40)
    assert time.monotonic() - began < 3


def test_an_endpoint_serves_one_event_loop_after_the_other(server: OpenAIServer) -> None:
    endpoint = Endpoint("m", server.url)
    assert [asked(endpoint).text for _ in range(3)] == ["Hello!"] * 3
