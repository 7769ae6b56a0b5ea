"""Chooses the reader of sampled turns by what it recovers from the template's own renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chatenv_server.engine.parsing import PROBE_MESSAGES, ProbeRender, TurnParser, choose_parser
from chatenv_server.engine.probe_messages import user


def _without_close(text: str, stop_texts: Sequence[str]) -> str:
    """A rendered last turn without the template's close: white space, one stop token, white space."""
    bare = text.rstrip()
    for stop in stop_texts:
        if bare.endswith(stop):
            return bare.removesuffix(stop)
    return text


def learn_parser(
    render: Callable[[Sequence[Mapping[str, Any]], bool], str | None], stop_texts: Sequence[str]
) -> TurnParser:
    """The parser for sampled turns, chosen by what it recovers from the template's own renders.

    Args:
        render: (messages, add_generation_prompt) -> text, None where the template rejects them.
        stop_texts: texts of the tokens that may close a turn.
    """
    renders = []
    for message in PROBE_MESSAGES:
        whole = render([user(), message], False)
        if whole is not None:
            renders.append(ProbeRender(message, _without_close(whole, stop_texts)))
    return choose_parser(renders, render([user()], True) or "")
