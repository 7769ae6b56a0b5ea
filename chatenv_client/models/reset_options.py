"""The keywords of `reset`, and the enums of the two policies among them.

Only their types: the server checks the values and fills in the defaults.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class HistoryPolicy(enum.Enum):
    """What to do when the chat template would write earlier turns differently from what the model saw."""

    APPEND = "append"
    """Keep the stream append-only and report it."""
    STRICT = "strict"
    """Refuse the step."""
    SEGMENT = "segment"
    """Begin a new segment: the stream becomes what the template writes for the whole conversation."""


class ControlTokenPolicy(enum.Enum):
    """What to do with control-token strings, such as `<|im_end|>`, inside message text."""

    ESCAPE = "escape"
    """Encode them as ordinary text and report it."""
    REJECT = "reject"
    """Refuse the message."""
    ALLOW = "allow"
    """Let them become control tokens, as plain Hugging Face code does."""


class EpisodeDefaults(TypedDict, total=False):
    """Keywords of `reset` that an environment or a server may have defaults for."""

    episode_id: str | None
    """1 to 128 characters of `[A-Za-z0-9._:-]`. Left out: one is chosen. A live episode of this id is started anew."""
    seed: int | None
    """Any number, for the task and the transform to draw with."""
    messages: Sequence[Mapping[str, Any]]
    """Opening messages. Left out: the conversation begins with the first step."""
    tools: Sequence[Mapping[str, Any]] | None
    """JSON schemas of tools, which the template writes into the prompt."""
    system_prompt: str | None
    """Put before the opening messages; the empty string: none, where the server has one."""
    system_role: str | None
    """Role of the system prompt, such as `developer`. Left out: `system`."""
    chat_template_kwargs: Mapping[str, Any] | None
    """Keyword arguments for the template, such as `{"enable_thinking": False}`."""
    max_steps: int | None
    """Steps after which the episode is truncated, at least 1."""
    max_tokens: int | None
    """Stream length from which on the episode is truncated, at least 1."""
    max_turns: int | None
    """Turns that the model may end before the episode is truncated, at least 1."""
    max_sampled_tokens: int | None
    """Sampled tokens, in all turns together, from which on the episode is truncated, at least 1."""
    metadata: Mapping[str, Any] | None
    """A JSON object kept with the episode and shown to task and transform."""
    group: str | None
    """Name of the group that the episode is compared within, such as that of all rollouts of one prompt; any text. Left
    out: none."""
    add_generation_prompt: bool | None
    """Whether the stream ends with the generation prompt when it is the model's turn. Left out: yes."""
    continue_final_message: bool | None
    """Whether the prompt ends inside the last opening message, an assistant's, so that the model goes on with it."""
    history_policy: HistoryPolicy | str | None
    """When the template would write earlier turns differently: `append` goes on and reports it, `strict` refuses the
    step, `segment` begins a new stream."""
    control_token_policy: ControlTokenPolicy | str | None
    """Control-token strings in texts: `escape` encodes them as text, `reject` refuses them, `allow` lets them be."""
    clock: float | None
    """The time that templates see, in Unix seconds, fixed for the whole episode."""


class ResetOptions(EpisodeDefaults, total=False):
    """Keywords of `reset`, the same everywhere. What is left out, or None, is the default."""

    task: str | None
    """Name of the task that answers. Left out: the only one, or none where there is none."""
    task_args: Mapping[str, Any] | None
    """JSON keywords for the task's constructor."""
    row: int | None
    """The row of the server's data that the task gets, by its place in the split."""
    row_id: str | int | None
    """The same by its id: a text, or a whole number."""
    split: str | None
    """Split that the row is of. Left out: the only one, or `train`."""
