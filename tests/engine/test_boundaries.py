"""What is settled about the edge of two texts without an encoding is what an encoding shows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from chatenv_server.engine.codec import Codec
from tests.engine.subjects import NAMES, subject

CASES = 1500
WHITE_SPACE = (" ", "\n", "\n\n", "\t", "  a", "\na", "a", "é", "<")


@pytest.mark.parametrize("name", NAMES)
def test_whether_texts_merge_is_settled_as_their_encoding_shows(name: str) -> None:
    codec = subject(name).chat_format.codec
    edges = codec.boundaries
    for before, after in _edges(codec, random.Random(0)):
        answer = edges._settle(before, after[0])
        if answer is not None and after[0] not in codec.added.parting_ids:
            assert answer == edges._look(before, after), (before, after)


def _edges(codec: Codec, rng: random.Random) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ends of prompts, as they are looked at, and what is sampled after them."""
    parting = sorted(codec.added.parting_ids) or [codec.encode("a")[0]]
    words = [codec.encode(text) for text in WHITE_SPACE]
    for _ in range(CASES):
        text: Sequence[int] = rng.choice([[], codec.encode("assistant\n"), codec.encode(": "), *words])
        sampled = [*rng.choice([[], *words]), *(rng.randrange(codec.vocabulary_size) for _ in range(3))]
        yield (rng.choice(parting), *text), tuple(sampled[:4])
