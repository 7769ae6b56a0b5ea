"""JSON text in fields: what is read is written again as it was, and never longer."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import SpelledFloat, dump_json, load_json


def read(text: str) -> Any:
    return load_json(text, "metadata", Reason.BAD_METADATA)


def written(value: Any) -> str:
    return dump_json(value, "metadata", Reason.BAD_METADATA)


whole = st.integers(0, 10**20).map(str)
numbers = st.builds(
    lambda sign, front, back, exponent: f"{sign}{front}{back}{exponent}",
    st.sampled_from(["", "-"]),
    whole,
    st.just("") | st.builds(".{}{}".format, st.sampled_from(["", "0", "00000"]), whole),
    st.just("")
    | st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-", "-0"]), st.integers(0, 99)),
)
"""Every way in which JSON spells a number."""

characters = st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"\\')
escapes = st.sampled_from([r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\u0000", r"\u00e9", r"\ud83d\ude00"])
texts = st.lists(characters | escapes, max_size=6).map(lambda pieces: f'"{"".join(pieces)}"')
spaces = st.sampled_from(["", " ", "\n\t"])


def listed(items: list[str], space: str) -> str:
    return f"[{space}{f'{space},'.join(items)}{space}]"


def keyed(items: dict[str, str], space: str) -> str:
    return "{" + f"{space},".join(f"{key}{space}:{item}" for key, item in items.items()) + space + "}"


json_texts = st.recursive(
    numbers | texts | st.sampled_from(["true", "false", "null"]),
    lambda items: (
        st.builds(listed, st.lists(items, max_size=4), spaces)
        | st.builds(keyed, st.dictionaries(texts, items, max_size=4), spaces)
    ),
    max_leaves=12,
)


@given(json_texts)
def test_what_was_read_is_not_longer_when_it_is_written_again(text: str) -> None:
    again = written(read(text))
    assert len(again) <= len(text)
    assert json.loads(again) == json.loads(text)
    assert written(read(again)) == again


@given(numbers)
def test_a_number_keeps_its_spelling(number: str) -> None:
    value = read(f'{{"a":[{number}]}}')
    spelling = "0" if number == "-0" else number  # an integer without a sign in Python
    assert written(value) == f'{{"a":[{spelling}]}}'
    assert value["a"][0] == json.loads(number)
    assert written(copy.deepcopy(value)) == written(value)


def test_a_number_with_a_spelling_of_its_own_is_a_float_in_every_other_way() -> None:
    number = read("1e15")
    assert (number, str(number), json.dumps(number), hash(number)) == (1e15, str(1e15), json.dumps(1e15), hash(1e15))
    assert isinstance(number, SpelledFloat)
    assert type(pickle.loads(pickle.dumps(number))) is float
    assert type(read("1.5")) is float


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", "9" * 5000])
def test_what_is_no_finite_number_is_refused(number: str) -> None:
    with pytest.raises(InvalidRequestError, match="not valid JSON"):
        read(f"[{number}]")


@pytest.mark.parametrize("value", ["\ud800", {"\udc00": 1}, ["é", {"a": "\udfff"}], {"a": 1.5, "\ud834": []}])
def test_half_a_surrogate_pair_is_no_json(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="metadata cannot be written"):
        dump_json(value, "metadata", Reason.BAD_METADATA)


def test_what_holds_itself_in_two_places_is_refused_and_not_followed_for_ever() -> None:
    value: dict[str, Any] = {}
    value["a"] = value["b"] = value
    with pytest.raises(InvalidRequestError, match="longer than"):
        dump_json(value, "metadata", Reason.BAD_METADATA)
