"""What the page of many episodes holds: a row of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from chatenv_client.models import Origin, StopReason, Trajectory
from chatenv_client.viewing.findings import findings_of, tokens_by_version

NOT_OVER: Final = "not over"
GONE: Final = "gone"


@dataclass(frozen=True)
class EpisodeRow:
    """An episode as the page of many shows it."""

    episode_id: str
    href: str = ""
    """Its page; empty: none."""
    group: str = ""
    reward: float | None = None
    """None: nobody has rewarded it, or it failed."""
    rewards: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    """What broke; empty: nothing did."""
    failure_reason: str = ""
    end: str = ""
    """`terminated`, `truncated`, `failed`, `not over`, or `gone` from its server before it was seen to be over."""
    tokens: int = 0
    """Of all segments, shared prefixes once."""
    trained: int = 0
    """Those to train on."""
    turns: int = 0
    """Sampled ones."""
    segments: int = 1
    mean_logprob: float | None = None
    """Over the tokens to train on; None: one of them has no finite logprob."""
    stops: dict[str, int] = field(default_factory=dict)
    """Sampled turns by stop reason."""
    reports: dict[str, int] = field(default_factory=dict)
    """Fidelity reports by kind."""
    trust: str = "good"
    """The worst of its findings."""
    version: str = ""
    """The weights that sampled its last tokens."""


def row_of(trajectory: Trajectory, href: str = "") -> EpisodeRow:
    """The row of an episode.

    Args:
        trajectory: the episode.
        href: its page.
    """
    sampled = [turn for one in trajectory.segments for turn in one.turns if turn.origin is Origin.SAMPLED]
    failure = trajectory.failure
    return EpisodeRow(
        trajectory.episode_id,
        href,
        trajectory.group,
        trajectory.reward,
        trajectory.rewards,
        "" if failure is None else failure.kind.value,
        "" if failure is None else failure.reason,
        _end(trajectory),
        sum(len(one.tokens) - one.shared_length for one in trajectory.segments),
        sum(int(one.loss_mask.sum()) for one in trajectory.segments),
        len(sampled),
        len(trajectory.segments),
        _mean_logprob(trajectory),
        dict(Counter((turn.stop_reason or StopReason.STOP).value for turn in sampled)),
        dict(Counter(report.kind.value for report in trajectory.fidelity)),
        findings_of(trajectory)[0].level,
        next(reversed(tokens_by_version(sampled)), ""),
    )


def _end(trajectory: Trajectory) -> str:
    if trajectory.failure is not None:
        return "failed"
    return "terminated" if trajectory.terminated else "truncated" if trajectory.truncated else NOT_OVER


def _mean_logprob(trajectory: Trajectory) -> float | None:
    given = np.concatenate([one.logprobs[one.loss_mask] for one in trajectory.segments])
    mean = float(given.mean(dtype=np.float64)) if len(given) else np.nan
    return mean if np.isfinite(mean) else None


def run_data(rows: Iterable[EpisodeRow], title: str, data_href: str) -> dict[str, Any]:
    """What the script of the page reads."""
    return {"title": title, "data_href": data_href, "episodes": [asdict(row) for row in rows]}
