"""A stand-in for an inference engine: a tiny model with random weights, whose samples and logprobs are real ones.

A token is a byte of the embedded tokenizer, as for `tasks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatenv_client.tokens import Float32Array, Int32Array
from tests.trainers.tasks import STOP

VOCABULARY = 259
THOUGHT = "<think>Hm.</think>"
"""What the template of the fixture `forgetful` strips."""
_STOP_BONUS = 3.0
"""In logits: turns are some ten tokens long."""


@dataclass(frozen=True, eq=False)
class Generated:
    """One answer of the engine, and what it was asked."""

    prompt: Int32Array
    tokens: list[int]
    logprobs: list[float]
    stopped: bool
    """By a stop token; else the limit cut it off."""


class TinyEngine:
    """Samples each token given the last two. It notes what it `generated`, in order.

    Args:
        seed: of weights and samples.
        thought: what each turn begins with, as if it were learnt.
    """

    def __init__(self, seed: int = 0, thought: str = "") -> None:
        self._thought = thought.encode()
        self._draw = np.random.default_rng(seed)
        self._weights = self._draw.normal(size=(2, VOCABULARY, VOCABULARY))
        self._weights[:, :, STOP] += _STOP_BONUS / 2
        self.generated: list[Generated] = []

    def generate(
        self, prompt: list[int] | Int32Array, most: int | None, stop_ids: list[int], *, half: bool = False
    ) -> Generated:
        """Sample up to a stop token, which is part of the answer, or to so many tokens.

        Args:
            prompt: ids.
            most: tokens, at least 1; None: 64.
            stop_ids: each ends the turn.
            half: whether the first half of it is all that is answered.
        """
        assert most is None or most >= 1
        read = [0, *(int(each) for each in prompt)]
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < (64 if most is None else most):
            logits = self._weights[0, read[-1]] + self._weights[1, read[-2]]
            logits[256] = -np.inf  # what opens a message would not be read back as part of a turn
            chances = logits - np.logaddexp.reduce(logits)
            token = int(self._draw.choice(VOCABULARY, p=np.exp(chances)))
            if len(tokens) < len(self._thought):
                token = self._thought[len(tokens)]
            tokens.append(token)
            logprobs.append(float(chances[token]))
            read.append(token)
            if token in stop_ids:
                break
        if half:
            tokens, logprobs = tokens[: len(tokens) // 2], logprobs[: len(tokens) // 2]
        made = Generated(np.asarray(prompt, dtype=np.int32), tokens, logprobs, bool(tokens) and tokens[-1] in stop_ids)
        self.generated.append(made)
        return made

    def rows(self) -> list[tuple[Int32Array, Int32Array, Float32Array]]:
        """What a trainer is to get, by what the engine alone knows: (ids, mask, logprobs) for each stream that it read.

        A turn whose prompt goes on from the one before is of the same stream.
        """
        made: list[tuple[list[int], list[int], list[float]]] = []
        for each in self.generated:
            prompt = each.prompt.tolist()
            if not made or prompt[: len(made[-1][0])] != made[-1][0]:
                made.append(([], [], []))
            ids, mask, logprobs = made[-1]
            new = len(prompt) - len(ids)
            ids += [*prompt[len(ids) :], *each.tokens]
            mask += [0] * new + [1] * len(each.tokens)
            logprobs += [0.0] * new + each.logprobs
        return [(np.array(a, np.int32), np.array(b, np.int32), np.array(c, np.float32)) for a, b, c in made]
