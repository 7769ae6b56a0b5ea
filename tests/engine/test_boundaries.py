"""What is settled about the edge of two texts without an encoding is what an encoding shows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from tokenizers import Regex, pre_tokenizers

from chatenv_server.engine.boundaries import CONTEXT_TOKENS
from chatenv_server.engine.codec import Codec
from tests.engine.small_tokenizers import byte_level
from tests.engine.subjects import NAMES, subject

CASES = 1500
WHITE_SPACE = (" ", "\n", "\n\n", "\t", "  a", "\na", "a", "é", "<")
FRAGMENTS = (
    *("a", "the", "assistant", "user", " of", "General", "ll", "re", "s", "'", "'r", "'l", "1", "12", "1234567"),
    *(":", ":\n", ".", "...", "(", "/", "_", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\t\t", "\n ", " \n", "=", "\\"),
)


@pytest.mark.parametrize("name", NAMES)
def test_whether_texts_merge_is_settled_as_their_encoding_shows(name: str) -> None:
    codec = subject(name).chat_format.codec
    edges = codec.boundaries
    for before, after in _edges(codec, random.Random(0)):
        answer = edges._settle(before, after[0])
        if answer is not None and after[0] not in codec.added.parting_ids:
            assert answer == edges._look(before, after), (before, after)


def numbers_by_threes() -> Codec:
    """As Llama 3 cuts numbers: three digits are a piece, so where a number begins decides on all of its pieces."""
    digits = [(left, right) for left in "1234567890" for right in "1234567890"]
    backend = byte_level(merges=[*digits, *((left + right, "1") for left, right in digits)]).backend_tokenizer
    cut = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return Codec(backend)


@pytest.mark.parametrize("name", [*NAMES, "numbers by threes"])
def test_the_last_pieces_of_a_text_settle_what_all_of_it_does(name: str) -> None:
    codec = subject(name).chat_format.codec if name in NAMES else numbers_by_threes()
    rng, edges = random.Random(0), codec.boundaries
    for _ in range(CASES):
        before = tuple(_said(codec, rng, 12)[-CONTEXT_TOKENS:])
        after = tuple(_said(codec, rng, 4))
        settled = edges._settle(edges._end_of(before), after[0])
        if settled is not None:
            assert settled == edges._look(before, after), (before, after)


def _said(codec: Codec, rng: random.Random, fragments: int) -> list[int]:
    """Tokens of a text, as a tokenizer or as a model writes it: numbers, too, in whatever pieces."""
    way, texts = rng.randrange(3), [rng.choice(FRAGMENTS) for _ in range(fragments)]
    if way == 0:
        return codec.encode("".join(texts))
    if way == 1:
        texts = [*rng.choice([[], ["a"]]), *("1234567890"[: rng.randint(1, 4)] for _ in range(rng.randint(1, 4)))]
    return [token_id for text in texts for token_id in codec.encode(text)]


def _edges(codec: Codec, rng: random.Random) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Ends of prompts, as they are looked at, and what is sampled after them."""
    parting = sorted(codec.added.parting_ids) or [codec.encode("a")[0]]
    words = [codec.encode(text) for text in WHITE_SPACE]
    for _ in range(CASES):
        text: Sequence[int] = rng.choice([[], codec.encode("assistant\n"), codec.encode(": "), *words])
        sampled = [*rng.choice([[], *words]), *(rng.randrange(codec.vocabulary_size) for _ in range(3))]
        yield (rng.choice(parting), *text), tuple(sampled[:4])
