"""Many added tokens: found as one by one, and looked through in time that grows with their length alone."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from chatenv_server.engine import TokenEngine
from chatenv_server.engine.added_tokens import AddedTokens
from chatenv_server.engine.spellings import any_of
from tests.engine.small_tokenizers import byte_level

_texts = st.text("ab<|", min_size=1, max_size=5)


@given(st.sets(_texts), st.text("ab<|", max_size=30))
def test_a_pattern_of_many_texts_finds_the_longest_of_them(texts: set[str], searched: str) -> None:
    longest_first = sorted(texts, key=len, reverse=True)
    plain = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    assert [m.span() for m in any_of(texts).finditer(searched)] == [m.span() for m in plain.finditer(searched)]


@given(st.lists(st.tuples(_texts, st.booleans()), min_size=1, max_size=8, unique_by=lambda each: each[0]))
def test_a_token_parts_texts_only_if_no_other_can_overlap_with_it(tokens: list[tuple[str, bool]]) -> None:
    tokenizer = byte_level(control=[AddedToken(text, normalized=late) for text, late in tokens], eos=tokens[0][0])
    added = AddedTokens(tokenizer.backend_tokenizer)
    for token_id, own in added.texts.items():
        late = dict(tokens)[own]
        others = [text for text, _ in tokens if text != own]
        starts = tuple(own[:length] for length in range(1, len(own) + 1))
        ends = tuple(own[place:] for place in range(len(own)))
        runs_into = any(own in other or other.endswith(starts) for other in others)
        cut_up = late and any(text in own or text.startswith(ends) for text, other_late in tokens if not other_late)
        assert (token_id in added.parting_ids) == (not own[0].isalnum() and not runs_into and not cut_up)


def _seconds_to_load(count: int) -> float:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.add_tokens([AddedToken(" " * i, normalized=False) for i in range(2, 32)])
    tokenizer.backend_tokenizer.add_tokens([AddedToken(f"<unused{i}>", normalized=i % 2 > 0) for i in range(count)])
    start = time.process_time()
    TokenEngine.load(tokenizer)
    return time.process_time() - start


def test_thousands_of_added_tokens_are_loaded_in_time_that_grows_with_their_number() -> None:
    assert min(_seconds_to_load(6000) for _ in range(2)) < 9 * max(_seconds_to_load(1500) for _ in range(2))
