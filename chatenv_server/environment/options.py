"""What an episode is told at reset: every option with its default and its check.

An environment holds the options that its episodes start from, a server takes those from the settings of the same names,
and each reset overrides them. `chatenv_client.ResetOptions` says what each one means to a caller.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import numpy as np

from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ControlTokenPolicy, EpisodeDefaults, HistoryPolicy, Message, ResetOptions, own_message
from chatenv_client.models.rows import row_id_text
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import plain
from chatenv_server.engine import RenderOptions
from chatenv_server.environment.validation import (
    check_clock,
    check_json,
    check_limit,
    check_messages,
    check_policy,
    check_prefill,
    check_role,
    check_template_kwargs,
    check_text,
    check_tools,
)


@dataclass(frozen=True)
class EpisodeOptions:
    """The options of an episode, checked. The values are its own: nobody else can change them."""

    episode_id: str = ""
    """Empty: the environment chooses one."""
    seed: int | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] | None = None
    system_prompt: str = ""
    """Empty: none."""
    system_role: str = "system"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    max_tokens: int | None = None
    max_turns: int | None = None
    max_sampled_tokens: int | None = None
    task: str = ""
    """Name of the task that answers; empty: the only one, or none."""
    task_args: Mapping[str, Any] = field(default_factory=dict)
    row: int | None = None
    row_id: str = ""
    split: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    """Empty: none."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """Whether the opening ends inside its last message, which the model goes on with."""
    history_policy: HistoryPolicy = HistoryPolicy.APPEND
    control_token_policy: ControlTokenPolicy = ControlTokenPolicy.ESCAPE
    clock: float | None = None
    """None: the time of the reset."""

    def overridden_by(self, given: ResetOptions | EpisodeDefaults) -> EpisodeOptions:
        """These options, with those given in their place. None, and an empty role, count as not given.

        Raises:
            InvalidRequestError: a value is wrong, or two contradict each other.
            TypeError: there is no such option.
        """
        names = vars(self).keys()
        if not given.keys() <= names:
            raise TypeError(f"reset has no keyword {min(given.keys() - names)!r}")
        asked = {name: value for name, value in given.items() if value is not None}
        if not asked.get("system_role", True):
            del asked["system_role"]
        own = {name: _checked(name, value) for name, value in asked.items()}
        options = EpisodeOptions(**{**vars(self), **own})  # in a quarter of the time that `replace` takes
        if asked.get("system_prompt") and options._opens_with_system_message:
            raise InvalidRequestError(
                "system_prompt and an opening message of the system role; give one of them",
                reason=Reason.SYSTEM_PROMPT_TWICE,
                field="system_prompt",
            )
        if options.continue_final_message:
            check_prefill(options.opening)
        return options

    @property
    def opening(self) -> Sequence[Message]:
        """The first messages: the system prompt, unless `messages` begin with a system message, then `messages`."""
        if not self.system_prompt_in_use:
            return self.messages
        return [{"role": self.system_role, "content": self.system_prompt}, *self.messages]

    @property
    def system_prompt_in_use(self) -> str:
        """The system prompt; empty where the opening has a system message of its own."""
        return "" if self._opens_with_system_message else self.system_prompt

    @property
    def _opens_with_system_message(self) -> bool:
        return bool(self.messages) and self.messages[0].get("role") == self.system_role

    @property
    def has_limits(self) -> bool:
        """Whether anything truncates the episode."""
        limits = self.max_steps, self.max_tokens, self.max_turns, self.max_sampled_tokens
        return limits != (None, None, None, None)

    def render_options(self) -> RenderOptions:
        """What the token engine needs to know of them. Reads the clock if none was given."""
        return RenderOptions(
            tools=self.tools,
            template_kwargs=self.chat_template_kwargs,
            clock_unix_seconds=time.time() if self.clock is None else self.clock,
            add_generation_prompt=self.add_generation_prompt,
            history_policy=self.history_policy,
            control_token_policy=self.control_token_policy,
        )


def _checked(name: str, value: Any) -> Any:
    return _CHECKS[name](value) if name in _CHECKS else value


def _own_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    own = tuple(own_message(message) for message in messages)
    check_messages(own)
    return own


def _own_tools(tools: Any) -> tuple[Mapping[str, Any], ...] | None:
    return copy.deepcopy(check_tools(tools))


def _own_prompt(prompt: Any) -> str:
    check_text(prompt, "system_prompt")
    return cast("str", prompt)


def _own_role(role: Any) -> str:
    check_role(role, "system_role")
    return cast("str", role)


def _own_group(group: Any) -> str:
    check_text(group, "group", reason=Reason.INVALID_REQUEST)
    return cast("str", group)


def _own_mapping(given: Any, field: str, reason: Reason) -> dict[Any, Any]:
    if not isinstance(given, Mapping):
        what = f"{field} is a mapping of names to values, not a {type(given).__name__}"
        raise InvalidRequestError(what, reason=reason, field=field)
    return dict(given)


def _own_template_kwargs(kwargs: Any) -> dict[str, Any]:
    own = copy.deepcopy(_own_mapping(kwargs, "chat_template_kwargs", Reason.BAD_TEMPLATE_KWARGS))
    check_template_kwargs(own)
    return own


def _own_task_args(arguments: Any) -> dict[str, Any]:
    own: dict[str, Any] = plain(_own_mapping(arguments, "task_args", Reason.BAD_TASK))
    check_json(own, "task_args", reason=Reason.BAD_TASK)
    return own


def _own_row(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int | np.integer):
        what = f"row is a whole number, the place of the row from 0, not a {type(given).__name__}"
        raise InvalidRequestError(what, reason=Reason.BAD_ROW, field="row")
    return int(given)


def _own_row_id(given: Any) -> str:
    try:
        return row_id_text(given)
    except TypeError as error:
        raise InvalidRequestError(str(error), reason=Reason.BAD_ROW, field="row_id") from error


def _own_metadata(metadata: Any) -> dict[str, Any]:
    own: dict[str, Any] = plain(_own_mapping(metadata, "metadata", Reason.BAD_METADATA))
    check_json(own, "metadata", reason=Reason.BAD_METADATA)
    return own


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "messages": _own_messages,
    "tools": _own_tools,
    "system_prompt": _own_prompt,
    "system_role": _own_role,
    "chat_template_kwargs": _own_template_kwargs,
    "max_steps": partial(check_limit, field="max_steps"),
    "max_tokens": partial(check_limit, field="max_tokens"),
    "max_turns": partial(check_limit, field="max_turns"),
    "max_sampled_tokens": partial(check_limit, field="max_sampled_tokens"),
    "task_args": _own_task_args,
    "row": _own_row,
    "row_id": _own_row_id,
    "metadata": _own_metadata,
    "group": _own_group,
    "history_policy": partial(check_policy, HistoryPolicy, field="history_policy"),
    "control_token_policy": partial(check_policy, ControlTokenPolicy, field="control_token_policy"),
    "clock": check_clock,
}
"""Gives the episode's own copy of a value, or raises InvalidRequestError. Without a check it is taken as given."""
