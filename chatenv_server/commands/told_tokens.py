"""Tokens as a terminal shows them: their texts, and the logprobs of those that a model sampled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from chatenv_client import ChatEnv, ChatState, Segment, TokenText
from chatenv_server.commands.output import printable
from chatenv_server.commands.terminal import Cell, Terminal

_STYLES: Final = ((-0.7, ""), (-2.3, "yellow"), (-4.6, "orange"))
"""(logprob from which on, style): probabilities of one half, a tenth, a hundredth."""
_RARER: Final = "red bold"
_SHOWN: Final = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥"})


class Stream(NamedTuple):
    """The current segment, and what its tokens stand for."""

    segment: Segment
    texts: Mapping[int, TokenText]


def read_stream(env: ChatEnv, state: ChatState) -> Stream:
    """The stream of an episode whose state was just read.

    Raises:
        ValueError: the episode has gone on meanwhile.
    """
    segment = env.trajectory().segments[-1]
    if not np.array_equal(segment.tokens, state.token_ids):
        raise ValueError("the episode went on while it was read; try again")
    ids = sorted(set(segment.tokens.tolist()))
    return Stream(segment, dict(zip(ids, env.describe_tokens(ids), strict=True)))


def token_lines(stream: Stream, terminal: Terminal, start: int, stop: int) -> Iterator[str]:
    """A part of the stream: each token's text, and its logprob where there is one."""
    return terminal.flow((_cell(stream, place) for place in range(start, stop)), indent="    ")


def _cell(stream: Stream, place: int) -> Cell:
    token_id = stream.segment.tokens.item(place)
    known = stream.texts[token_id]
    text = _shown(known.text) if known.text else f"#{token_id}"
    logprob = stream.segment.logprobs.item(place)
    if not stream.segment.loss_mask[place]:
        return Cell(text, "violet" if known.is_control else "soft")
    if np.isnan(logprob):
        return Cell(text, "blue")
    style = next((style for bound, style in _STYLES if logprob >= bound), _RARER)
    return Cell(f"{text}({logprob:.2f})", style)


def _shown(text: bytes) -> str:
    """A token's text with its white space to be seen; what is no text by itself in hexadecimal digits."""
    try:
        return printable(text.decode().translate(_SHOWN))
    except UnicodeDecodeError:
        return f"<{text.hex()}>"
