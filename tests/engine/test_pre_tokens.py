"""A text has the ids of its pre-tokens, one after another; how it is cut is certain, or not told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from chatenv_server.engine.codec import Codec
from chatenv_server.engine.encodings import LONG, token_at
from chatenv_server.engine.pre_tokens import MOST_KEPT, PreTokens, packed
from chatenv_server.engine.split_pattern import BYTE_LEVEL_PATTERN, ascii_cut
from chatenv_server.engine.written_text import written_text
from tests.engine.small_tokenizers import sentencepiece_like
from tests.engine.subjects import RECORDED, subject

ENDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LEAD = r"[^\r\n\p{L}\p{N}]?"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"

CUT_BY = {
    "GPT-2": [BYTE_LEVEL_PATTERN],
    "Qwen 2": [rf"{ENDS}|{LEAD}\p{{L}}+|\p{{N}}|{SIGNS}|{LINES}"],
    "Llama 3": [rf"{ENDS}|{LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{SIGNS}|{LINES}"],
    "GPT-4o": [rf"{LEAD}{UPPER}*{LOWER}+{ENDS}?|{LEAD}{UPPER}+{LOWER}*{ENDS}?|\p{{N}}{{1,3}}|{SIGNS}|{LINES}"],
    "DeepSeek V3": [
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        rf"{PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{LINES}",
    ],
    "only numbers": [r"\p{N}+"],
    "categories that ASCII has nothing of": [r"\p{M}+|[\p{Lt}\p{Lo}]| ?[^\p{M}]\p{L}*"],
}
NOT_CERTAIN = {
    "a group that is remembered": r"(a)b",
    "a class of POSIX": r"[[:alpha:]]+",
    "an escape of Ruby's": r"\h+",
    "a bound that is possessive or not": r"a{1,3}+",
    "the same of a letter that is seldom tried": r"x{1,3}+",
    "a bound that is lazy or optional": r"x{2}?y",
    "a class within another": r"[a-z&&aeiou]+",
    "the beginning of a line": r"^a",
    "a property that is no category": r"\p{Alpha}+",
    "a bound of a bound, which Python takes for a fault": r"a{2}{3}",
    "nothing": r"a*",
    "nothing, where a certain letter follows": r"(?=Z)|x",
    "a category in either case": r"(?i:[\p{Ll}])x",
    "all but a letter in either case": r"(?i:[^k])x",
    "two letters that are one in another case": "(?i:\u00df)x",
}
FRAGMENTS = (
    *("a", "b", "Z", "hello", " world", "0", "12", "'s", "'LL", "'"),
    *(" ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "_", ".", "/", "-", "&", "[", "]", "\\", "^"),
)
ascii_texts = st.one_of(
    st.text(st.characters(max_codepoint=127), max_size=40),
    st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join),
)
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def splitting(patterns: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


CERTAIN = {name: splitting(patterns) for name, patterns in CUT_BY.items()} | {
    "ByteLevel": BYTE_LEVEL,
    "digits, then ByteLevel": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),
    "runs of digits, then ByteLevel": pre_tokenizers.Sequence([pre_tokenizers.Digits(), BYTE_LEVEL]),
}


@pytest.mark.parametrize("pre_tokenizer", CERTAIN.values(), ids=CERTAIN)
def test_an_ascii_text_is_cut_as_the_tokenizer_cuts_it(pre_tokenizer: pre_tokenizers.PreTokenizer) -> None:
    cut = ascii_cut(pre_tokenizer)
    assert cut is not None

    @given(ascii_texts)
    def law(text: str) -> None:
        spans = [span for _, span in pre_tokenizer.pre_tokenize_str(text)]
        assert cut(text) == [text[start:stop] for start, stop in spans]

    law()


@pytest.mark.parametrize("pattern", NOT_CERTAIN.values(), ids=NOT_CERTAIN)
def test_a_pattern_that_might_be_read_otherwise_is_not_read(pattern: str) -> None:
    assert ascii_cut(splitting([pattern])) is None
    assert ascii_cut(splitting([*CUT_BY["Qwen 2"], pattern])) is None


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        None,
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Whitespace(),
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(" "), "removed"), BYTE_LEVEL]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("Z"), "removed"), BYTE_LEVEL]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("a"), "isolated", invert=True), BYTE_LEVEL]),
        pre_tokenizers.Sequence([pre_tokenizers.Split("a", "isolated"), BYTE_LEVEL]),
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), BYTE_LEVEL]),
    ],
)
def test_what_does_more_than_cut_by_patterns_is_not_read(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> None:
    assert ascii_cut(pre_tokenizer) is None


# -- ids --------------------------------------------------------------------------------------------------


WORDS = [
    ("\u2581", "w"),
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("1", "2"),
    ("o", "r"),
    ("\u2581", "\u2581"),
]
MERGES = [
    ("Ġ", "w"),
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("Ċ", "Ċ"),
    ("1", "2"),
    ("o", "r"),
    ("Ġ", "Ġ"),
]
UNCUT = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
MODEL = ("dropout", "ignore_merges", "end_of_word_suffix")


def bpe(merges: Sequence[tuple[str, str]] = MERGES, **parts: Any) -> Tokenizer:
    """A byte-level tokenizer that merges a little; `parts` take the place of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *(left + right for left, right in merges)])}
    options = {name: parts.pop(name) for name in MODEL if name in parts}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<think>"])
    return tokenizer


def spaced(normalizer: Any, pre_tokenizer: Any) -> Tokenizer:
    """A tokenizer in SentencePiece's manner that makes its spaces in another way."""
    tokenizer: Tokenizer = sentencepiece_like(merges=WORDS).backend_tokenizer
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    return tokenizer


def control_of(tokenizer: Tokenizer) -> str:
    """An added token that takes nothing from the texts beside it."""
    added = Codec(tokenizer).added
    return added.texts[min(added.parting_ids & added.isolating_ids)]


def ids_after(control: str, tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(control + text, add_special_tokens=False).ids[1:])


def pre_tokens_of(tokenizer: Tokenizer) -> PreTokens | None:
    added = Codec(tokenizer).added
    written = written_text(tokenizer, added)
    return None if written is None else PreTokens(written, tokenizer.model, added)


SOME = {"ByteLevel": bpe(), "normalised": bpe(normalizer=normalizers.NFC())} | {
    name: bpe(pre_tokenizer=pre_tokenizer) for name, pre_tokenizer in CERTAIN.items()
}
IN_WORDS = {
    "byte-level, not cut": bpe(pre_tokenizer=UNCUT),
    "a prefix space by a normaliser": sentencepiece_like(metaspace=False, merges=WORDS).backend_tokenizer,
    "spaces by a normaliser": spaced(normalizers.Replace(" ", "\u2581"), None),
    "spaces by a pre-tokenizer": spaced(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
}
NOT_IN_WORDS = {
    "a token that holds a space between others": bpe(pre_tokenizer=UNCUT, merges=[("a", "\u0120"), ("a\u0120", "b")]),
    "a prefix space by a pre-tokenizer": sentencepiece_like().backend_tokenizer,
    "words that are looked up whole": bpe(pre_tokenizer=UNCUT, ignore_merges=True),
    "pieces that end words": bpe(pre_tokenizer=UNCUT, end_of_word_suffix="</w>"),
    "another character for spaces": spaced(None, pre_tokenizers.Metaspace("_", prepend_scheme="first", split=False)),
    "more done by a normaliser": spaced(
        normalizers.Sequence([normalizers.Replace(" ", "\u2581"), normalizers.NFKC()]), None
    ),
    "words already": spaced(normalizers.Replace(" ", "\u2581"), pre_tokenizers.Whitespace()),
}


@pytest.mark.parametrize("tokenizer", [*SOME.values(), *IN_WORDS.values()], ids=[*SOME, *IN_WORDS])
def test_a_text_has_the_ids_that_the_tokenizer_gives_it(tokenizer: Tokenizer) -> None:
    pre_tokens, control = pre_tokens_of(tokenizer), control_of(tokenizer)
    assert pre_tokens is not None

    @given(ascii_texts)
    def law(text: str) -> None:
        expected = packed(ids_after(control, tokenizer, text))
        assert pre_tokens.encode(text) == expected  # found
        assert pre_tokens.encode(text) == expected  # and found again

    law()


@pytest.mark.parametrize("tokenizer", SOME.values(), ids=SOME)
def test_a_mark_is_at_the_token_that_the_tokenizer_starts_there(tokenizer: Tokenizer) -> None:
    pre_tokens = pre_tokens_of(tokenizer)
    assert pre_tokens is not None

    @given(ascii_texts)
    def law(text: str) -> None:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        for mark in range(len(text) + 1):
            found = pre_tokens.encode_marked(text, [mark])
            assert found is None or found == (packed(encoding.ids), [token_at(encoding, mark)])
        starts = [start for _, (start, _) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        found = pre_tokens.encode_marked(text, starts)
        assert found == (packed(encoding.ids), [token_at(encoding, start) for start in starts])

    law()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_tokenizer_is_read(name: str) -> None:
    tokenizer = subject(name).tokenizer.backend_tokenizer
    pre_tokens, control = pre_tokens_of(tokenizer), control_of(tokenizer)
    assert pre_tokens is not None

    @given(ascii_texts)
    def law(text: str) -> None:
        assert pre_tokens.encode(text) in (None, packed(ids_after(control, tokenizer, text)))

    law()


@pytest.mark.parametrize("text", ["caf\u00e9", "a <think> b", "<|im_end|>", "a" * (LONG + 1)])
def test_what_is_not_short_plain_ascii_is_left_to_the_tokenizer(text: str) -> None:
    pre_tokens = pre_tokens_of(bpe())
    assert pre_tokens is not None
    assert pre_tokens.encode(text) is None
    assert pre_tokens.encode_marked(text, [0]) is None


@pytest.mark.parametrize(
    "tokenizer",
    [
        bpe(dropout=0.1),
        bpe(normalizer=normalizers.Lowercase()),
        bpe(normalizer=normalizers.NFKC()),
        *NOT_IN_WORDS.values(),
    ],
    ids=["at random", "in small letters", "normalised", *NOT_IN_WORDS],
)
def test_a_tokenizer_whose_words_may_be_encoded_otherwise_in_a_text_is_not_read(tokenizer: Tokenizer) -> None:
    assert pre_tokens_of(tokenizer) is None


@pytest.mark.parametrize("model", [models.WordLevel({"a": 0}, unk_token="a"), models.Unigram([("a", 0.0)], unk_id=0)])
def test_a_tokenizer_that_merges_nothing_is_not_read(model: models.Model) -> None:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = BYTE_LEVEL
    assert pre_tokens_of(tokenizer) is None


@pytest.mark.parametrize(
    ("normalizer", "text", "spelt"),
    [
        (normalizers.NFC(), "\u212a", "K"),
        (normalizers.NFC(), "<\u037e>", "<;>"),
        (normalizers.NFC(), "\u1fef\u1fef", "``"),
        (normalizers.Replace(" ", "\u2581"), "\u2581\u2581", "  "),
    ],
    ids=["the Kelvin sign", "the Greek question mark", "the Greek varia", "two spaces"],
)
def test_a_tokenizer_with_an_added_token_that_ascii_text_may_hide_is_not_read(
    normalizer: Any, text: str, spelt: str
) -> None:
    tokenizer = spaced(normalizer, None) if " " in spelt else bpe(normalizer=normalizer)
    assert pre_tokens_of(tokenizer) is not None
    tokenizer.add_tokens([AddedToken(text, normalized=True)])
    assert tokenizer.encode(spelt).ids == [tokenizer.token_to_id(text)]
    assert pre_tokens_of(tokenizer) is None


def test_pre_tokens_are_kept_in_bounds() -> None:
    pre_tokens = pre_tokens_of(bpe())
    assert pre_tokens is not None
    numbers = range(MOST_KEPT + 10)
    for number in numbers:
        pre_tokens.encode(str(number))
    assert 0 < len(pre_tokens._known) <= MOST_KEPT
    before = len(pre_tokens._known)
    pre_tokens.encode("a" * 1000)
    assert len(pre_tokens._known) == before
    assert pre_tokens.encode("123") == packed(bpe().encode("123").ids)
