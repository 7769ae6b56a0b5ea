"""Who wrote each token of a render: its message, whether it is content, whether a model would have sampled it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from renderers.base import RenderedTokens, extract_message_tool_names

from chatenv_client.models import Message

Span = tuple[int, int]
"""(start, stop) in tokens."""


def attributed(
    ids: list[int],
    messages: Sequence[Message],
    parts: Sequence[Span],
    texts: Sequence[Span],
    said: Iterable[Span] | None,
) -> RenderedTokens:
    """Tokens with what is known of each.

    Args:
        ids: all of them.
        messages: those that were rendered here.
        parts: of each message, the tokens that were written for it.
        texts: of each message, the tokens that begin in its text.
        said: of given assistants that were found, the tokens that a model would have sampled, a stop token included.
            None: nobody looked for them. Their content is their text then, and nothing is told of what was sampled.
    """
    indices, content, sampled = [-1] * len(ids), [False] * len(ids), [False] * len(ids)
    for index, (start, stop) in enumerate(parts):
        indices[start:stop] = [index] * (stop - start)
    for message, (start, stop) in zip(messages, texts, strict=True):
        if said is None or message.get("role") != "assistant":
            content[start:stop] = [True] * (stop - start)
    for start, stop in said or ():
        content[start:stop] = sampled[start:stop] = [True] * (stop - start)
        indices[start:stop] = [indices[start]] * (stop - start)  # a stop token may begin the next message's part
    plain: Any = list(messages)
    return RenderedTokens(
        token_ids=ids,
        message_indices=indices,
        sampled_mask=[] if said is None else sampled,
        is_content=content,
        message_roles=[message.get("role") or "" for message in messages],
        message_tool_names=extract_message_tool_names(plain),
    )
