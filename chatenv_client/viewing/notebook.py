"""What a notebook shows of an observation, a state and a trajectory: short, styled inline, and escaped.

Needs nothing but the standard library. The whole of an episode is `trajectory.to_html()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from chatenv_client.models import ChatObservation, ChatState, Failure, Message, Origin, Trajectory, Turn
from chatenv_client.viewing.findings import findings_of

MOST_ROWS: Final = 30
"""Messages or turns that are shown; of more, the first and the last."""
MOST_CHARACTERS: Final = 400
"""Of a text."""

_BOX: Final = "font:13px/1.45 system-ui,sans-serif;border-left:3px solid #3b76d8;padding:2px 0 2px 10px;margin:4px 0"
_SOFT: Final = "opacity:.65"
_CELL: Final = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;white-space:pre-wrap;unicode-bidi:isolate"
_COLOURS: Final = {"good": "#19743a", "note": "#9a6700", "bad": "#c4321f"}


def told_observation(observation: ChatObservation) -> str:
    """An observation: its end and reward, and its messages."""
    facts = [f"step {observation.step_count}", f"{len(observation.stream):,} tokens"]
    if observation.segment:
        facts.append(f"segment {observation.segment}")
    end = _end(observation.terminated, observation.truncated, observation.failure)
    reports = [("note", f"{report.kind.name}: {report.detail}") for report in observation.fidelity]
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
    reports = [("note", f"{report.kind.name}: {report.detail}") for report in state.fidelity]
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
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{_text(cell)}</td>' for cell in row) + "</tr>" for row in all_rows
    )
    return f'<table style="border-collapse:collapse;margin:4px 0">{body}</table>' if body else ""


def _text(text: str) -> str:
    """A text as HTML. What cannot be seen, or turns the text around it, is spelt out."""
    shown = "".join(one if one.isprintable() or one in "\n\t" else f"[U+{ord(one):04X}]" for one in text)
    return escape(shown)
