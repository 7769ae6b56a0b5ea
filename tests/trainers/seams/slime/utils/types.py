"""slime's sample, with what a generate function sees of it, and the checks that slime makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


@dataclass
class Sample:
    """What slime generates, scores and trains on."""

    class Status(Enum):
        """What became of it."""

        PENDING = "pending"
        COMPLETED = "completed"
        TRUNCATED = "truncated"
        ABORTED = "aborted"
        FAILED = "failed"

    group_index: int | None = None
    index: int | None = None
    rollout_id: int | None = None
    prompt: str | list[dict[str, str]] = ""
    tokens: list[int] = field(default_factory=list)
    response: str = ""
    response_length: int = 0
    label: str | None = None
    reward: float | dict[str, Any] | None = None
    loss_mask: list[int] | None = None
    weight_versions: list[str] = field(default_factory=list)
    rollout_log_probs: list[float] | None = None
    remove_sample: bool = False
    status: Status = Status.PENDING
    metadata: dict[str, Any] = field(default_factory=dict)
    session_id: str | None = None

    def append_response_tokens(
        self,
        args: Any = None,  # noqa: ARG002 - of use for routed experts alone
        *,
        tokens: list[int],
        log_probs: list[float] | None = None,
        trainable: bool = True,
        meta_info: dict[str, Any] | None = None,
        text: str | None = None,
    ) -> None:
        """Append tokens of the response; mask, logprobs and status follow."""
        if tokens and trainable != (log_probs is not None):
            raise ValueError("tokens have log probabilities if, and only if, they are trained on")
        given = [0.0] * len(tokens) if log_probs is None else log_probs
        if len(given) != len(tokens):
            raise ValueError("there are not as many log probabilities as tokens")
        self.tokens += tokens
        self.response_length += len(tokens)
        self.loss_mask = [*(self.loss_mask or []), *[int(trainable)] * len(tokens)]
        self.rollout_log_probs = [*(self.rollout_log_probs or []), *given]
        self.response += text or ""
        if len(self.loss_mask) != self.response_length or len(self.rollout_log_probs) != self.response_length:
            raise ValueError("mask or log probabilities are not as long as the response")
        if meta_info is not None:
            self.weight_versions.append(meta_info["weight_version"])
            words = {"stop": "COMPLETED", "length": "TRUNCATED", "abort": "ABORTED"}
            self.status = self.Status[words[meta_info["finish_reason"]["type"]]]
