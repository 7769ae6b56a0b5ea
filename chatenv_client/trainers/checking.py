"""What a trainer gets is what chatenv has. Every adapter compares the rows that it hands over with the samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chatenv_client.models import Sample


def check_row(
    sample: Sample,
    *,
    prompt_ids: npt.ArrayLike = (),
    response_ids: npt.ArrayLike,
    response_mask: npt.ArrayLike,
    response_logprobs: npt.ArrayLike | None = None,
) -> None:
    """Compare a row that a trainer gets with the sample that it was made of.

    Args:
        sample: what chatenv has.
        prompt_ids: (P,) of the prompt; empty where the trainer's rows are flat.
        response_ids: (R,) of all that comes after it, through the last token to train on.
        response_mask: (R,) true or 1 on the tokens to train on.
        response_logprobs: (R,) of the sampler; None: the trainer takes none.

    Raises:
        RuntimeError: lengths differ, nothing or everything is trained on, or a value is not chatenv's. Nothing is to be
            trained on then: the trainer works with other tokens than those that were sampled.
    """
    prompt, response = np.asarray(prompt_ids, dtype=np.int64), np.asarray(response_ids, dtype=np.int64)
    mask = np.asarray(response_mask, dtype=np.bool_)
    _equal(sample, "number of mask values", [len(mask)], [len(response)])
    _equal(sample, "token", np.concatenate([prompt, response]), sample.tokens)
    _equal(sample, "loss mask", np.concatenate([np.zeros(len(prompt), dtype=np.bool_), mask]), sample.loss_mask)
    if not mask.any() or sample.loss_mask.all():
        raise _mismatch(sample, f"its loss mask is {bool(mask.any())} on every token")
    if response_logprobs is not None:
        logprobs = np.asarray(response_logprobs, dtype=np.float32)
        _equal(sample, "number of logprobs", [len(logprobs)], [len(response)])
        _equal(sample, "logprob", logprobs[mask], sample.logprobs[sample.loss_mask])


def _equal(sample: Sample, what: str, given: Sequence[int] | npt.NDArray[np.generic], own: npt.ArrayLike) -> None:
    given, own = np.asarray(given), np.asarray(own)
    if len(given) != len(own):
        raise _mismatch(sample, f"the trainer has {len(given)} values of {what}, chatenv has {len(own)}")
    is_other = given != own
    if given.dtype.kind == "f":
        is_other &= ~(np.isnan(given) & np.isnan(own))
    if is_other.any():
        place = int(is_other.argmax())
        raise _mismatch(sample, f"at index {place} the trainer has {what} {given[place]}, chatenv has {own[place]}")


def _mismatch(sample: Sample, what: str) -> RuntimeError:
    row = f"row {sample.segment} of episode {sample.episode_id!r}"
    return RuntimeError(f"{row} did not reach the trainer as it was sampled: {what}; stop the run")
