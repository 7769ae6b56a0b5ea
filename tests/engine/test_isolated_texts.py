"""What is encoded between control tokens is what the whole gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.encodings import Encoded, token_at
from chatenv_server.engine.isolated_texts import IsolatedTexts, Surroundings
from chatenv_server.engine.pre_tokens import PreTokens
from chatenv_server.engine.written_text import written_text
from tests.engine.learning import played, recorded_tails
from tests.engine.small_tokenizers import CHATML, CHATML_TOKENS, byte_level, sentencepiece_like
from tests.engine.subjects import NAMES, subject

NEWLINES = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("r", "Ċ"), (">", "a"), ("a", "<")]
CLOSED_BY_TEXT = CHATML.replace("{{ m.content }}", "{{ m.content }}{% if m.role == 'user' %}\n\n{% endif %}")
BARE = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
TAKES_AFTER = (*CHATML_TOKENS[1:], AddedToken("<|im_start|>", special=True, normalized=False, rstrip=True))

ENCLOSED = {
    "bytes": byte_level(),
    "merges across edges": byte_level(merges=NEWLINES),
    "text before the close": byte_level(CLOSED_BY_TEXT, merges=NEWLINES),
    "words": byte_level(merges=NEWLINES, cuts=True),
    "words, normalised": byte_level(merges=NEWLINES, cuts=True, nfc=True),
    "normalised": byte_level(merges=NEWLINES, nfc=True),
    "a word beside": byte_level(
        control=(*CHATML_TOKENS, AddedToken("stop", special=True, normalized=False, single_word=True))
    ),
    "a token that takes white space": byte_level(
        control=(*CHATML_TOKENS, AddedToken("<tab>", special=True, normalized=False, lstrip=True, rstrip=True))
    ),
    "a control token that takes white space after it": byte_level(control=TAKES_AFTER),
    "words, and a control token that takes white space after it": byte_level(BARE, control=TAKES_AFTER, cuts=True),
    "a prefix space": sentencepiece_like(),
    "a prefix space by a normaliser": sentencepiece_like(metaspace=False),
}
NOT_ENCLOSED = {
    "a token that the header and a text would spell together": byte_level(control=(*CHATML_TOKENS, "\na")),
    "a longer token around a control token": byte_level(control=(*CHATML_TOKENS, "a<|im_end|>")),
    "a token that runs into a control token": byte_level(control=(*CHATML_TOKENS, "a<|im")),
    "a control token that takes white space before it": byte_level(
        control=(*CHATML_TOKENS[1:], AddedToken("<|im_start|>", special=True, normalized=False, lstrip=True))
    ),
    "a control token that another one cuts up": byte_level(
        control=(*CHATML_TOKENS[1:], AddedToken("<|im_start|>", special=True, normalized=True), "_st")
    ),
    "a control token that another one runs out of": byte_level(
        control=(*CHATML_TOKENS[1:], AddedToken("<|im_start|>", special=True, normalized=True), "t|>\n")
    ),
    "a control token that is looked for after normalizing": byte_level(
        control=(*CHATML_TOKENS[1:], AddedToken("<|im_start|>", special=True, normalized=True)), nfc=True
    ),
}
FRAGMENTS = ("a", " ", "\n", "\n\n", "<", ">", "stop", "<tab>", "é", "e\u0301", "a<|im", "_end|>", "x", "▁", "\t")
texts = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map("".join).filter(str.strip)
ANSWER = "General greetings to you"
QUESTION = "How do you do today?"
"""Both long enough to be learnt from."""


def surroundings(env: ChatEnvironment) -> list[Surroundings]:
    return [known.around for known in recorded_tails(env)]


def asked(engine: TokenEngine, questions: Sequence[str], *, learning: bool = True) -> tuple[ChatEnvironment, list[int]]:
    """An episode in which these questions are asked after two that are learnt from, and its tokens."""
    return played(engine, [(ANSWER, question) for question in (QUESTION, QUESTION, *questions)], learning=learning)


@pytest.mark.parametrize("tokenizer", [*ENCLOSED.values(), *NOT_ENCLOSED.values()], ids=[*ENCLOSED, *NOT_ENCLOSED])
def test_a_text_between_control_tokens_has_the_ids_that_it_has_in_the_whole(tokenizer: Any) -> None:
    engine = TokenEngine.load(tokenizer)

    @given(st.lists(texts, max_size=3))
    @example(["a text that begins where the header ends"])
    def law(questions: list[str]) -> None:
        assert asked(engine, questions)[1] == asked(engine, questions, learning=False)[1]

    law()


@pytest.mark.parametrize("tokenizer", ENCLOSED.values(), ids=ENCLOSED)
def test_control_tokens_that_take_nothing_part_a_text_from_the_rest(tokenizer: Any) -> None:
    assert surroundings(asked(TokenEngine.load(tokenizer), [])[0])


@pytest.mark.parametrize("tokenizer", NOT_ENCLOSED.values(), ids=NOT_ENCLOSED)
def test_a_control_token_that_a_text_could_change_parts_nothing(tokenizer: Any) -> None:
    assert all("<|im_start|>" in around.before for around in surroundings(asked(TokenEngine.load(tokenizer), [])[0]))


def _added(*tokens: AddedToken | str) -> AddedTokens:
    return AddedTokens(byte_level(control=("<|im_end|>", *tokens)).backend_tokenizer)


@pytest.mark.parametrize("text", ["_end", "\n<|end|>", "<|end|>\n", "\n", "a"])
def test_a_token_that_others_may_ask_for_or_take_parts_nothing(text: str) -> None:
    for other in (
        AddedToken("<tab>", normalized=False, rstrip=True, lstrip=True),
        AddedToken("stop", normalized=False, single_word=True),
    ):
        added = _added(AddedToken(text, special=True, normalized=False), other)
        assert {added.texts[token_id] for token_id in added.parting_ids} == {"<|im_end|>"}


def isolated_texts(backend: Tokenizer, added: AddedTokens) -> IsolatedTexts:
    written = written_text(backend, added)
    return IsolatedTexts(backend, added, None if written is None else PreTokens(written, backend.model, added))


@pytest.mark.parametrize("text", ["  hello you", "\n\nhello you", "hello you"])
def test_a_marked_text_after_a_token_that_takes_white_space_lacks_what_that_takes(text: str) -> None:
    backend = byte_level(BARE, control=TAKES_AFTER, cuts=True).backend_tokenizer
    added = AddedTokens(backend)
    (last,) = (token_id for token_id in added.parting_ids if added.texts[token_id] == "<|im_start|>")
    whole = backend.encode("<|im_start|>" + text, add_special_tokens=False)
    parted = isolated_texts(backend, added).encode(last, text, [text.index(" you")])
    assert parted is not None
    assert parted.ids.tolist() == whole.ids[1:]
    assert parted.marks == [whole.ids[1:].index(backend.token_to_id("y")) - 1]


PARTED = (
    *("<|im_end|>", "<a>", "<a", "a>", "<>", "<<a>>", " ", "\n", "  ", "stop", "ab", "\u00e9", "<\u00e9>", "|", "<|"),
    *("<|im_end|>\n", "\n<|im_end|>", "a<|im", "_", "<_", "1", "\t", "end|>", "[INST]"),
)
_tokens = st.lists(
    st.builds(
        lambda text, special, normalized, lstrip, rstrip, single_word: AddedToken(
            text, special=special, normalized=normalized, lstrip=lstrip, rstrip=rstrip, single_word=single_word
        ),
        st.sampled_from(PARTED),
        st.booleans(),
        *[st.sampled_from([False, False, True])] * 4,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda token: token.content,
)
_said = st.text(max_size=12) | st.lists(st.sampled_from((" ", "\n", "the", " of", "user", "é", "12")), max_size=30).map(
    "".join
)
_parted = st.lists(st.sampled_from((*PARTED, "b", "hello", "e\u0301", "'s", " a")), min_size=1, max_size=6).map("".join)


def assert_is_whole(parted: Encoded | None, backend: Tokenizer, text: str) -> None:
    """A text in parts, each of its characters marked, is what the tokenizer makes of it."""
    whole = backend.encode(text, add_special_tokens=False)
    assert parted is not None
    assert parted.ids.tolist() == whole.ids
    assert parted.marks == [token_at(whole, character) for character in range(len(text) + 1)]


@given(_tokens, st.lists(st.tuples(_parted, _parted), min_size=3, max_size=8), st.booleans())
def test_whatever_tokens_are_added_the_parts_are_those_of_the_whole(
    control: list[AddedToken], said: list[tuple[str, str]], cuts: bool
) -> None:
    backend = byte_level(control=(), merges=NEWLINES, eos="a", cuts=cuts).backend_tokenizer
    for token in control:
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    added = AddedTokens(backend)
    isolated = isolated_texts(backend, added)
    for last in added.parting_ids:
        for before, text in said:
            whole = backend.encode(before + added.texts[last] + text, add_special_tokens=False).ids
            parted = isolated.encode(last, text)
            assert parted is not None
            assert whole[len(whole) - len(parted.ids) - 1 :] == [last, *parted.ids.tolist()]
            first = added.texts[last] + text
            assert_is_whole(isolated.encode(None, first, range(len(first) + 1)), backend, first)
            around = isolated.surroundings(last, "", "")
            if around is not None and not added.parting_pattern.search(text):
                assert isolated.encode_in(around, text).ids.tolist() == parted.ids.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_begins_in_a_control_token_is_the_first_of_all(name: str) -> None:
    codec, backend = subject(name).chat_format.codec, subject(name).tokenizer.backend_tokenizer
    controls = sorted(codec.added.texts[token_id] for token_id in codec.added.parting_ids)

    @given(st.lists(st.sampled_from(controls) | _said, min_size=1, max_size=6), st.sampled_from(controls))
    def law(parts: list[str], control: str) -> None:
        text = control + "".join(parts)
        assert_is_whole(codec.isolated_texts.encode(None, text, range(len(text) + 1)), backend, text)

    if controls:
        law()


@pytest.mark.parametrize(
    "text", ["<tab> hello<|im_end|>", "<think>hello<|im_end|>", "hello<|im_end|>", " <|im_end|>", ""]
)
def test_a_first_text_that_begins_in_no_control_token_that_parts_is_left_to_the_tokenizer(text: str) -> None:
    takes = AddedToken("<tab>", special=True, normalized=False, lstrip=True, rstrip=True)
    normalized = AddedToken("<think>", special=False, normalized=True)
    backend = byte_level(control=(*CHATML_TOKENS, takes, normalized), nfc=True).backend_tokenizer
    assert isolated_texts(backend, AddedTokens(backend)).encode(None, text) is None


@pytest.mark.parametrize("name", ["bytes", "qwen2_5", "standin_kimi_k2", "standin_glm4_5", "phi3_5"])
def test_recorded_tokenizers_give_the_same_stream_with_and_without(name: str) -> None:
    engine = TokenEngine.load(subject(name).tokenizer)

    @given(st.lists(st.text(min_size=1, max_size=30).filter(str.strip), max_size=2))
    def law(questions: list[str]) -> None:
        assert asked(engine, questions)[1] == asked(engine, questions, learning=False)[1]

    law()
