"""How verifiers 0.4 asks the model for a turn, and what its trace has of it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx
import verifiers.v1 as vf
from openai import AsyncOpenAI
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.runtimes import ProgramResult

from chatenv_client.models import Message
from chatenv_client.trainers.speaking import SampledIds, as_message


class ChatEnvHarnessConfig(vf.HarnessConfig):
    """No options of its own."""


class ChatEnvHarness(vf.Harness[ChatEnvHarnessConfig]):
    """Asks the model once a turn, in this process. It runs nothing: the tools are the server's."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self, ctx: vf.ModelContext, _trace: Any, _runtime: Any, endpoint: str, secret: str, _mcp: Any, data: vf.TaskData
    ) -> ProgramResult:
        """Ask for the next turn."""
        _, prompt = self.resolve_prompt(data)
        messages = [message_to_wire(message) for message in prompt if not isinstance(message, str)]
        tools = {"tools": data.tools} if getattr(data, "tools", None) else {}
        http = httpx.AsyncClient(verify=_certificates(), timeout=None)  # noqa: S113 - verifiers has the deadlines
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0, http_client=http) as client:
            await client.chat.completions.create(model=ctx.model, messages=messages, **tools)
        return ProgramResult(0, "", "")


def turn_of(trace: vf.Trace, known: int) -> tuple[Message, SampledIds | None, str | None]:
    """The last turn of the model among the nodes from `known` on: message, ids where it is alone, finish reason."""
    said = [index for index, node in enumerate(trace.nodes) if index >= known and node.sampled]
    node = trace.nodes[said[-1]]
    reasons = [call.finish_reason for call in trace.calls if call.node == said[-1]]
    ids = _path_of(trace, said[-1])
    count = sum(node.mask)
    sampled = SampledIds(ids[:-count], ids[-count:], node.logprobs) if count and len(said) == 1 else None
    return as_message(node.message.model_dump()), sampled, reasons[-1] if reasons else None


def _path_of(trace: vf.Trace, index: int | None) -> list[int]:
    """All ids from the beginning of the conversation through those of a node."""
    parts: list[Sequence[int]] = []
    while index is not None:
        parts.append(trace.nodes[index].token_ids)
        index = trace.nodes[index].parent
    return [token for part in reversed(parts) for token in part]


@cache
def _certificates() -> ssl.SSLContext:
    """Made once: it takes some ten milliseconds."""
    return ssl.create_default_context()
