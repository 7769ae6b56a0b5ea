"""What a trainer gets is what chatenv has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chatenv_client import ChatEnv, Sample
from chatenv_client.trainers.checking import check_row
from chatenv_client.trainers.playing import play
from tests.trainers.tasks import said


@pytest.fixture(scope="module")
def sample(address: str) -> Sample:
    with ChatEnv(address) as env:
        (row,) = play(env, lambda _: said("abc")).samples()
    return row


def as_given(sample: Sample) -> dict[str, Any]:
    """The row as a trainer gets it."""
    split = sample.split()
    return {
        "prompt_ids": split.prompt_ids.tolist(),
        "response_ids": split.response_ids.tolist(),
        "response_mask": split.response_mask.astype(int).tolist(),
        "response_logprobs": split.response_logprobs.tolist(),
    }


def test_a_row_as_it_was_sampled_passes(sample: Sample) -> None:
    check_row(sample, **as_given(sample))


def test_a_flat_row_passes_too(sample: Sample) -> None:
    check_row(sample, response_ids=sample.tokens, response_mask=sample.loss_mask, response_logprobs=sample.logprobs)


def test_a_logprob_that_nobody_gave_is_the_same_as_itself(sample: Sample) -> None:
    unknown = replace(sample, logprobs=np.full_like(sample.logprobs, np.nan))
    check_row(unknown, **as_given(unknown))


@pytest.mark.parametrize("name", ["response_ids", "response_mask", "response_logprobs", "prompt_ids"])
def test_a_row_of_another_length_is_refused(sample: Sample, name: str) -> None:
    given = as_given(sample)
    with pytest.raises(RuntimeError, match="stop the run"):
        check_row(sample, **{**given, name: given[name][:-1]})


@pytest.mark.parametrize("name", ["response_ids", "response_mask", "response_logprobs", "prompt_ids"])
def test_a_row_with_another_value_is_refused(sample: Sample, name: str) -> None:
    given = as_given(sample)
    given[name] = [1 - given[name][0], *given[name][1:]]
    with pytest.raises(RuntimeError, match=r"at index \d+ the trainer has"):
        check_row(sample, **given)


def test_a_row_without_anything_to_train_on_is_refused(sample: Sample) -> None:
    nothing = replace(sample, loss_mask=np.zeros_like(sample.loss_mask))
    with pytest.raises(RuntimeError, match="False on every token"):
        check_row(nothing, response_ids=nothing.tokens, response_mask=nothing.loss_mask)


def test_a_row_whose_prompt_would_be_trained_on_is_refused(sample: Sample) -> None:
    everything = replace(sample, loss_mask=np.ones_like(sample.loss_mask))
    with pytest.raises(RuntimeError, match="True on every token"):
        check_row(everything, response_ids=everything.tokens, response_mask=everything.loss_mask)
