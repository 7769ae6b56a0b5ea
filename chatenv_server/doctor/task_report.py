"""What the doctor says of a task: for a person, and as JSON for a program."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any, Final

from chatenv_client.models import FidelityKind
from chatenv_client.viewing.meanings import MEANINGS
from chatenv_server.doctor.task_checkup import PlayedTurn, TaskCheckup

_WIDTH: Final = 100
_LONGEST: Final = 300
"""Characters of a message that are shown."""
_NO_STATE: Final = (
    "The task keeps what is not JSON: its episodes cannot be forked, nor kept in a store, and what it knows is not "
    "taken back with a step that fails. Give it state_dict and load_state_dict."
)


def task_as_json(checkup: TaskCheckup) -> dict[str, Any]:
    """The check-up as a JSON object."""
    return {**dataclasses.asdict(checkup), "sound": checkup.sound}


def task_as_text(checkup: TaskCheckup) -> str:
    """The check-up for a person."""
    lines = [f"{checkup.task} on {checkup.tokenizer}", ""]
    for number, turn in enumerate(checkup.turns):
        lines += _turn(number, turn)
    if checkup.fault:
        lines += _item("the task failed", checkup.fault)
    if not checkup.keeps_state:
        lines += _item("state", _NO_STATE)
    for kind in dict.fromkeys(kind for turn in checkup.turns for kind in turn.reports):
        lines += _item(kind, MEANINGS[FidelityKind(kind)].plain)
    return "\n".join([*lines, "", _conclusion(checkup), ""])


def _turn(number: int, turn: PlayedTurn) -> list[str]:
    lines = _item(f"{number} model", repr(turn.said)) if number else []
    for message in turn.answered:
        lines += _item(f"{number} {message['role']}", _shown(message))
    if turn.reward is not None:
        named = ", ".join(f"{name} {value:g}" for name, value in turn.rewards.items())
        lines += _item("  reward", f"{turn.reward:g}" + (f" ({named})" if named else ""))
    return lines + _item("  stream", ", ".join([turn.stream, *turn.reports]))


def _shown(message: Mapping[str, Any]) -> str:
    calls = [str(call.get("function", {}).get("name")) for call in message.get("tool_calls") or ()]
    text = str(message.get("content") or "")
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return " ".join([*([repr(text)] if text or not calls else []), *(f"[calls {name}]" for name in calls)])


def _conclusion(checkup: TaskCheckup) -> str:
    end = f"{checkup.end[:1].upper()}{checkup.end[1:]}. " if checkup.end else ""
    if checkup.sound:
        return f"{end}What the task says is taken, and every prompt is exact, or says why not."
    if checkup.fault:
        return f"{end}Mend the task: the caller's call fails, and no reward comes of it."
    return f"{end}A prompt is not what the template writes, and nothing says so."


def _item(label: str, words: str) -> list[str]:
    lead = f"  {label:<24}"
    return textwrap.wrap(words, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead)) or [lead.rstrip()]
