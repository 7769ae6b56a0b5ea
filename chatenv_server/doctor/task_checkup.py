"""A check-up of a task: plays it for some turns with a scripted model, and sees what the chat template makes of it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import chatenv_server
from chatenv_client.errors import ChatEnvError, TaskError
from chatenv_client.models import ChatAction, ChatObservation, Message, ToolCall, Verdict
from chatenv_server.doctor.reference import NotTakenError, Reference
from chatenv_server.doctor.sampling import sampled_ids, sampled_text
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.tasks.choice import Tasks
from chatenv_server.user_objects import told

TEXTS: Final = ("I do not know.", "Is it 42?", "Yes, please.", "That is all.")
"""What the model says, after a call of the first tool where there are tools."""
TIMEOUT_S: Final = 60.0
"""Of each call of the task."""

_OURS: Final = str(Path(chatenv_server.__file__).parent)
_FOLLOWING: Final[Message] = {"role": "user", "content": "Go on."}
_EXAMPLES: Final[Mapping[Any, Any]] = {"number": 1, "integer": 1, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True)
class PlayedTurn:
    """A turn of the model, and what the task answered; or the opening."""

    said: str
    """What the model said; empty: it is the opening."""
    answered: tuple[Message, ...]
    rewards: Mapping[str, float]
    reward: float | None
    stream: str
    """How the stream compares with a full rendering."""
    is_exact: bool
    reports: tuple[str, ...]


@dataclass
class TaskCheckup:
    """All that was found out of one task on one tokenizer."""

    task: str
    tokenizer: str
    turns: list[PlayedTurn] = field(default_factory=list)
    end: str = ""
    """How the episode ended, or why it was not played on."""
    fault: str = ""
    """What the task did wrong; empty: nothing."""
    keeps_state: bool = True
    """Whether its state is JSON, or told by `state_dict`: else no fork and no store can take it up."""

    @property
    def sound(self) -> bool:
        """Whether all that it said was taken, and each prompt is exact or says why not."""
        reported = False
        for turn in self.turns:
            reported = reported or bool(turn.reports)
            if not (turn.is_exact or reported):
                return False
        return not self.fault


def check_task(
    engine: TokenEngine, reference: Reference, tasks: Tasks, tokenizer: str, task_args: Mapping[str, Any] | None = None
) -> TaskCheckup:
    """Play the only task of `tasks` on its first row, if it has any.

    Args:
        engine: of the tokenizer.
        reference: the same tokenizer, to find out what a model samples.
        tasks: the task, and its rows.
        tokenizer: its name.
        task_args: keywords for the task's constructor.
    """
    checkup = TaskCheckup(tasks.names[0], tokenizer)
    row = 0 if any(count.count for count in tasks.rows.counts) else None
    with ChatEnvironment(engine, task=tasks, task_timeout_s=TIMEOUT_S) as env:
        try:
            opening = env.reset(seed=1, row=row, task_args=dict(task_args or {}))
            _note(checkup, env, opening, "", 0)
            _play(checkup, env, opening, reference)
        except ChatEnvError as error:
            checkup.fault = _told(error)
        except NotTakenError as error:
            checkup.end = f"the template does not let the model speak: {error}"
    return checkup


def _play(checkup: TaskCheckup, env: ChatEnvironment, observation: ChatObservation, reference: Reference) -> None:
    tools = json.loads(env.snapshot().entries[0].opened.tools_json or "[]")
    reference = reference.offering(tools)
    for message in _script(tools):
        history = observation.messages
        if not history or history[-1]["role"] == "assistant":
            checkup.end = "the task said nothing for the model to answer, so the caller has to speak next"
            return
        said = sampled_text(reference, history, message, [_FOLLOWING], tools=bool(tools), prompt=True)
        if message.get("tool_calls") and message["tool_calls"][0]["function"]["name"] not in said.text:
            continue  # the template writes no calls, so no model makes any
        ids = sampled_ids(reference, observation.token_ids, said.text)
        observation = env.step(ChatAction(tokens=ids))
        _note(checkup, env, observation, said.body, len(history) + 1)
        if observation.done:
            checkup.end = _end_of(observation)
            return
    checkup.end = f"it was played for {len(checkup.turns) - 1} turns"


def _script(tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The turns of the model: a call first, where there is a tool."""
    calls = [_calling(tool["function"]) for tool in tools[:1] if isinstance(tool.get("function"), dict)]
    return [*calls, *({"role": "assistant", "content": text} for text in TEXTS)]  # type: ignore[list-item]


def _calling(function: Mapping[str, Any]) -> Message:
    """A call of a tool, with something for each argument that it has to have."""
    schema = function.get("parameters") or {}
    kinds = schema.get("properties") or {}
    arguments = {name: _example(kinds.get(name) or {}) for name in schema.get("required") or ()}
    called = {"name": str(function.get("name")), "arguments": arguments}
    call: ToolCall = {"id": "callid001", "type": "function", "function": called}  # type: ignore[typeddict-item]
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _example(kind: Mapping[str, Any]) -> Any:
    """A value of a kind of arguments."""
    return kind["enum"][0] if kind.get("enum") else _EXAMPLES.get(kind.get("type"), "word")


def _note(checkup: TaskCheckup, env: ChatEnvironment, observation: ChatObservation, said: str, heard: int) -> None:
    """Note what a reset or a step showed."""
    audit = env.audit()
    is_exact = audit.verdict is Verdict.EXACT
    checkup.turns.append(
        PlayedTurn(
            said=said,
            answered=tuple(observation.messages[heard:]),
            rewards=dict(observation.rewards),
            reward=observation.reward,
            stream=audit.verdict.value if is_exact else f"{audit.verdict.value}: {audit.detail}",
            is_exact=is_exact,
            reports=tuple(report.kind.value for report in observation.fidelity),
        )
    )
    checkup.keeps_state = bool(env.snapshot().entries[-1].task_state_json)


def _end_of(observation: ChatObservation) -> str:
    if observation.failure is not None:
        return f"the episode failed: {observation.failure.kind.value}: {observation.failure.reason}"
    return f"the episode {'terminated' if observation.terminated else 'was truncated'}"


def _told(error: ChatEnvError) -> str:
    """What went wrong, with what the task raised, and where."""
    cause = error.__cause__
    if cause is None or not isinstance(error, TaskError) or isinstance(cause, ChatEnvError):
        return f"{error.reason}: {error.message}"
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if not frame.filename.startswith(_OURS)]
    where = f", in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{error.reason}: {error.message}: {told(cause)}{where}"
