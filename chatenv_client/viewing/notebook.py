"""What a notebook shows of an observation, a state and a trajectory: short, styled inline, and escaped.

Needs nothing but the standard library. The whole of an episode is `trajectory.to_html()`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from chatenv_client.models import ChatObservation, ChatState, Failure, FidelityReport, Message, Origin, Trajectory, Turn
from chatenv_client.viewing.findings import findings_of, level_of

MOST_ROWS: Final = 30
"""Messages or turns that are shown; of more, the first and the last."""
MOST_CHARACTERS: Final = 400
"""Of a text."""

_BOX: Final = (
    "font:13px/1.45 system-ui,sans-serif;border-left:3px solid #3b76d8;padding:2px 0 2px 10px;margin:4px 0;"
    "overflow:auto;overflow-wrap:anywhere"
)
_SOFT: Final = "opacity:.65"
_CELL: Final = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;unicode-bidi:isolate;white-space:"
_COLOURS: Final = {"good": "#22884a", "note": "#a26e00", "bad": "#d8412f"}
"""To be read on white and on black: the page around is somebody else's."""
_JOINERS: Final = "\u200c\u200d"


def told_observation(observation: ChatObservation) -> str:
    """An observation: its end and reward, and its messages."""
    facts = [f"step {observation.step_count}", f"{len(observation.stream):,} tokens"]
    if observation.segment:
        facts.append(f"segment {observation.segment}")
    end = _end(observation.terminated, observation.truncated, observation.failure)
    reports = _reports(observation.fidelity)
    return _box(
        _head(observation.episode_id, end, facts, observation.reward, observation.rewards),
        _findings(reports),
        _table(_messages(observation.messages)),
    )


def told_state(state: ChatState) -> str:
    """A state: how far the episode is, its messages, and what is not exact."""
    facts = [f"{state.step_count} steps", f"{len(state.token_ids):,} tokens", f"{int(state.loss_mask.sum()):,} sampled"]
    if state.sealed:
        facts.append(f"segment {state.segment}")
    end = _end(state.terminated, state.truncated, state.failure)
    reports = _reports(state.fidelity)
    return _box(
        _head(state.episode_id, end, facts, None, {}), _findings(reports), _table(_messages(state.history_messages))
    )


def told_trajectory(trajectory: Trajectory) -> str:
    """A trajectory: its reward, whether its tokens can be trusted, and its turns."""
    tokens = sum(len(one.tokens) - one.shared_length for one in trajectory.segments)
    facts = [f"{tokens:,} tokens", f"{sum(int(one.loss_mask.sum()) for one in trajectory.segments):,} to train on"]
    if len(trajectory.segments) > 1:
        facts.append(f"{len(trajectory.segments)} segments")
    end = _end(trajectory.terminated, trajectory.truncated, trajectory.failure)
    turns = [(number, turn) for number, one in enumerate(trajectory.segments) for turn in one.turns]
    return _box(
        _head(trajectory.episode_id, end, facts, trajectory.reward, trajectory.rewards),
        _findings((finding.level, finding.text) for finding in findings_of(trajectory)),
        _table(_turns(turns, trajectory.messages)),
        f'<div style="{_SOFT}">every token: to_html()</div>',
    )


def _box(*parts: str) -> str:
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def _head(name: str, end: str, facts: Sequence[str], reward: float | None, rewards: Mapping[str, float]) -> str:
    parts = ", ".join(f"{part} {value:g}" for part, value in rewards.items())
    worth = "" if reward is None else f" · reward <b>{reward:g}</b>" + (f" ({_text(parts)})" if parts else "")
    return f'<div><b>{_text(name)}</b> <span style="{_SOFT}">{_text(" · ".join(facts))}</span>{worth}{_text(end)}</div>'


def _end(terminated: bool, truncated: bool, failure: Failure | None) -> str:
    if failure is not None:
        return f" · failed: {failure.kind}: {failure.reason}"
    return " · terminated" if terminated else " · truncated" if truncated else ""


def _reports(reports: Sequence[FidelityReport]) -> Iterator[tuple[str, str]]:
    """A line for each kind, with the detail of its first report."""
    counts = Counter(report.kind for report in reports)
    for kind, count in counts.items():
        detail = next(report.detail for report in reports if report.kind is kind)
        yield level_of(kind), (f"{count} × " if count > 1 else "") + f"{kind.name}: {detail}"


def _findings(findings: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<div style="color:{_COLOURS[level]}">{_text(told)}</div>' for level, told in findings)


def _messages(messages: Sequence[Message]) -> Iterator[tuple[str, ...]]:
    for index, message in enumerate(messages):
        yield str(index), message["role"], _said(message)


def _turns(turns: Sequence[tuple[int, Turn]], messages: Sequence[Message]) -> Iterator[tuple[str, ...]]:
    for segment, turn in turns:
        added = messages[turn.first_message : turn.first_message + turn.message_count]
        is_sampled = turn.origin is Origin.SAMPLED
        worth = "" if turn.reward is None else f"reward {turn.reward:g}"
        stop = turn.stop_reason.value if turn.stop_reason else ""
        place = f"{segment}." if len({number for number, _ in turns}) > 1 else ""
        said = "\n".join(f"{message['role']}: {_said(message)}" for message in added)
        yield f"{place}step {turn.step}", "sampled" if is_sampled else "template", f"{turn.length:,}", stop, worth, said


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    told = content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
    calls = message.get("tool_calls")
    return _short(told) + (_short(f" {json.dumps(calls, ensure_ascii=False, default=repr)}") if calls else "")


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … ({len(text):,} characters)"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    all_rows = list(rows)
    half = MOST_ROWS // 2
    if len(all_rows) > MOST_ROWS:
        left_out = (f"… {len(all_rows) - MOST_ROWS} more",)
        all_rows = [*all_rows[:half], left_out, *all_rows[-half:]]
    body = "".join(f"<tr>{_row(row)}</tr>" for row in all_rows)
    return f'<table style="border-collapse:collapse;margin:4px 0">{body}</table>' if body else ""


def _row(row: tuple[str, ...]) -> str:
    *facts, said = row
    return "".join(
        f'<td style="{_CELL}{wraps}">{_text(cell)}</td>'
        for cell, wraps in (*((fact, "nowrap") for fact in facts), (said, "pre-wrap;min-width:16em"))
    )


def _text(text: str) -> str:
    """A text as HTML. What cannot be seen, or turns the text around it, is spelt out, but for joiners in a word."""
    kept = "\n\t" + _JOINERS * (len(text) > 2)
    shown = "".join(one if one.isprintable() or one in kept else f"[U+{ord(one):04X}]" for one in text)
    return escape(shown)
