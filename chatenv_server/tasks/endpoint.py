"""Asks a model behind an OpenAI-compatible endpoint: OpenAI's own, or vLLM, SGLang, llama.cpp and others.

Owns the retries, the deadline, and how many questions are asked at once. What to ask, and what the reply means, belongs
to whoever asks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from chatenv_client.distribution import needing
from chatenv_server.tasks.tool_results import cut, error_text

with needing("endpoint", "chatenv_server.Endpoint"):
    from openai import APIStatusError, AsyncOpenAI

Prompt = Sequence[Mapping[str, Any]]
"""Messages with `role` and `content`."""

MOST_TOLD: Final = 500
"""Characters that an error tells of what an endpoint said."""


class EndpointError(Exception):
    """The endpoint gave no reply that can be used."""


class Reply(NamedTuple):
    """What the model said."""

    text: str
    finish_reason: str
    """`stop`, or `length` where the text was cut off."""


@dataclass(frozen=True, eq=False)
class Endpoint:
    """An OpenAI-compatible endpoint, and how to ask it. One serves all episodes: make it an attribute of the class.

    Connections that fail, timeouts, and the statuses 408, 409, 429 and 5xx are tried again, later each time; a
    `Retry-After` of the endpoint is kept to. Needs the extra `endpoint`.
    """

    model: str
    """As the endpoint calls it."""
    base_url: str | None = None
    """Such as `http://localhost:8000/v1`. None: that of the variable OPENAI_BASE_URL, or else OpenAI's."""
    key_variable: str | None = None
    """The environment variable that has the API key. None: OPENAI_API_KEY where there is no `base_url`, and no key
    where there is one, so that a key never goes to somebody else."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request, such as `{"temperature": 0.7, "max_tokens": 512}`."""
    retries: int = 4
    """Tries after the first."""
    timeout_s: float = 120.0
    """Seconds that a question may take, all tries together. To wait until it is asked at all does not count."""
    most_at_once: int = 64
    """Questions that a process asks at once; those after them wait."""
    max_characters: int = 65_536
    """Of a reply. A longer one is an error."""

    _clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Client] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )

    async def ask(self, prompt: Prompt) -> Reply:
        """Ask, and wait for the reply.

        Raises:
            EndpointError: there is none, or it is no text.
        """
        client = self._client()
        async with client.room:
            try:
                completion = await asyncio.wait_for(self._completion(client.openai, prompt), self.timeout_s)
            except asyncio.TimeoutError as error:
                raise EndpointError(f"the endpoint did not answer within {self.timeout_s:g} s") from error
            except APIStatusError as error:
                said = cut(" ".join(error.message.split()), MOST_TOLD)
                raise EndpointError(f"the endpoint answered with status {error.status_code}: {said}") from error
            except Exception as error:  # no connection, or a body that is no JSON
                raise EndpointError(f"the endpoint gave no answer: {cut(error_text(error), MOST_TOLD)}") from error
        return self._reply(completion)

    async def close(self) -> None:
        """Close the connections of this event loop. They are opened again when they are needed."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.openai.close()

    async def _completion(self, openai: AsyncOpenAI, prompt: Prompt) -> Any:
        messages: Any = list(prompt)
        return await openai.chat.completions.create(
            model=self.model, messages=messages, extra_body=dict(self.options), timeout=self.timeout_s
        )

    def _reply(self, completion: Any) -> Reply:
        try:
            choice = completion.choices[0]
            text, finish_reason = choice.message.content, choice.finish_reason
        except (AttributeError, LookupError, TypeError) as error:
            raise EndpointError("the endpoint answered with something that is no chat completion") from error
        if not isinstance(text, str):
            raise EndpointError(f"the endpoint answered without a text (finish reason {finish_reason!r})")
        if len(text) > self.max_characters:
            raise EndpointError(f"the reply has {len(text):,} characters; {self.max_characters:,} are allowed")
        return Reply(text, str(finish_reason))

    def _client(self) -> _Client:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            openai = AsyncOpenAI(api_key=self._key(), base_url=self.base_url, max_retries=self.retries)
            client = self._clients[loop] = _Client(openai, asyncio.Semaphore(self.most_at_once))
        return client

    def _key(self) -> str:
        variable = self.key_variable or (None if self.base_url else "OPENAI_API_KEY")
        if variable is None:
            return "none"  # the client insists on one
        key = os.environ.get(variable)
        if not key:
            raise EndpointError(f"the environment variable {variable} has no API key; set it, or give a base_url")
        return key


class _Client(NamedTuple):
    """What an event loop has of an endpoint."""

    openai: AsyncOpenAI
    room: asyncio.Semaphore
