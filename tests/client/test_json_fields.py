"""JSON text in fields: what is read is written again as it was, and never longer."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_client.wire import reset_to_proto
from chatenv_client.wire.json_fields import SpelledFloat, dump_json, load_json, plain, plain_json


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


# Numbers of numpy and torch.

NUMPYS: Any = {
    "f": np.float32(0.5),
    "i": np.int64(3),
    "b": np.bool_(True),
    "s": np.str_("s"),
    "d": np.float64(1.5),
    "a": np.arange(4).reshape(2, 2),
    "zero": np.array(7),
    "deep": [{"x": (np.uint8(1), np.array([True, False]))}],
    np.int32(5): None,
}
PYTHONS: Any = {
    "f": 0.5,
    "i": 3,
    "b": True,
    "s": "s",
    "d": 1.5,
    "a": [[0, 1], [2, 3]],
    "zero": 7,
    "deep": [{"x": [1, [True, False]]}],
    5: None,
}


def types_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: (type(key), types_of(item)) for key, item in value.items()}
    return [types_of(item) for item in value] if isinstance(value, list) else type(value)


def test_numbers_of_numpy_become_pythons() -> None:
    assert plain(NUMPYS) == PYTHONS
    assert types_of(plain(NUMPYS)) == types_of(PYTHONS)
    assert plain_json(NUMPYS, "metadata", Reason.BAD_METADATA) == PYTHONS


def test_numbers_of_torch_become_pythons() -> None:
    torch = pytest.importorskip("torch")
    half = torch.tensor(0.5, dtype=torch.bfloat16)
    given = {"t": torch.tensor([1, 2]), "b": half, "g": torch.ones(1, requires_grad=True)}
    assert plain(given) == {"t": [1, 2], "b": 0.5, "g": [1.0]}


@given(json_texts)
def test_what_is_json_stays_as_it_is_and_is_copied(text: str) -> None:
    value = {"a": [read(text)]}
    copied = plain(value)
    assert written(copied) == written(value)
    assert copied is not value
    assert copied["a"] is not value["a"]
    assert plain_json(value, "metadata", Reason.BAD_METADATA) is value


@pytest.mark.parametrize("wrong", [np.float32("nan"), np.array([np.inf]), object(), np.array([object()])])
def test_what_is_no_json_is_refused_still(wrong: Any) -> None:
    with pytest.raises(InvalidRequestError):
        plain_json({"a": wrong}, "metadata", Reason.BAD_METADATA)


def test_what_stands_in_many_places_is_copied_once_and_what_has_no_end_is_refused() -> None:
    many: Any = [np.int64(1)]
    for _ in range(60):
        many = [many, many]
    copied = plain(many)
    assert copied[0] is copied[1]
    endless: Any = []
    endless.append(endless)
    with pytest.raises(InvalidRequestError):
        plain_json({"a": endless}, "metadata", Reason.BAD_METADATA)


@pytest.mark.parametrize("value", [{1: 2}, {"a": [{None: 1}]}, {"a": ({True: 1},)}])
def test_keys_that_are_no_texts_are_refused_and_not_changed(value: Any) -> None:
    for option in ("metadata", "task_args", "chat_template_kwargs"):
        with pytest.raises(InvalidRequestError, match="keys are texts") as caught:
            reset_to_proto({option: {"b": value}})  # type: ignore[misc]
        assert caught.value.field == option
