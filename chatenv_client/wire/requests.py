"""Reset, Step and RenderMessage requests: the client writes them, the server reads and checks them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

from google.protobuf.timestamp_pb2 import Timestamp

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatAction, Message, ResetOptions
from chatenv_client.models.rows import row_id_text
from chatenv_client.reasons import Reason
from chatenv_client.tokens import (
    EMPTY_TOKENS,
    BoolArray,
    mask_of_runs,
    pack_logprobs,
    pack_tokens,
    runs_of_mask,
    unpack_logprobs,
    unpack_tokens,
)
from chatenv_client.wire.columns import columns_from_request, write_columns
from chatenv_client.wire.enums import CONTROL_TOKEN_POLICY, HISTORY_POLICY, STOP_REASON
from chatenv_client.wire.json_fields import check_keys, dump_json, load_object, load_objects, plain
from chatenv_client.wire.messages import message_from_proto, message_to_proto, messages_from_proto, write_message

MAX_MESSAGES: Final = 4096
"""Of one request. They are rendered together, and a template may look at each from each."""

_OPTIONAL: Final = (
    *("system_prompt", "max_steps", "max_tokens", "max_turns", "max_sampled_tokens", "seed", "row"),
    *("add_generation_prompt", "continue_final_message"),
)
_EMPTY_MEANS_DEFAULT: Final = ("episode_id", "system_role", "group", "task", "row_id", "split")
_CLOCK_RANGE: Final = (-62_135_596_800, 253_402_300_800)
"""Unix seconds of the years 1 to 9999, what a protobuf Timestamp holds."""


def reset_to_proto(options: ResetOptions) -> pb.ResetRequest:
    """A Reset with the keywords of `reset`.

    Raises:
        InvalidRequestError: a value is not JSON, or a number is out of range.
        TypeError: there is no such keyword, or a value is of another type.
    """
    request = pb.ResetRequest()
    for key, value in options.items():
        if key not in ResetOptions.__annotations__:
            raise TypeError(f"reset has no keyword {key!r}")
        if value is not None:
            _write_option(request, key, value)
    return request


def _write_option(request: pb.ResetRequest, key: str, value: Any) -> None:
    try:
        if key in _OPTIONAL + _EMPTY_MEANS_DEFAULT:
            setattr(request, key, row_id_text(value) if key == "row_id" else value)
        elif key == "messages":
            request.messages.extend(map(message_to_proto, value))
        elif key == "clock":
            request.clock.CopyFrom(timestamp(value))
        elif key in _POLICIES:
            setattr(request, key, _POLICIES[key].number(value))
        else:
            setattr(request, f"{key}_json", _json_text(key, value))
    except InvalidRequestError:
        raise
    except TypeError as error:
        raise TypeError(f"{key}: {error}") from error
    except ValueError as error:
        raise InvalidRequestError(
            f"{key}: {error}", reason=_REASONS.get(key, Reason.INVALID_REQUEST), field=key
        ) from error


def _json_text(key: str, value: Any) -> str:
    own = plain(dict(value) if isinstance(value, Mapping) else list(value))
    text = dump_json(own, key, _JSON_REASONS[key])
    check_keys(own, key, _JSON_REASONS[key])
    return text


_POLICIES: Final[Mapping[str, Any]] = {
    "history_policy": HISTORY_POLICY,
    "control_token_policy": CONTROL_TOKEN_POLICY,
}
_REASONS: Final = {
    "history_policy": Reason.BAD_POLICY,
    "control_token_policy": Reason.BAD_POLICY,
    "max_steps": Reason.BAD_LIMIT,
    "max_tokens": Reason.BAD_LIMIT,
    "max_turns": Reason.BAD_LIMIT,
    "max_sampled_tokens": Reason.BAD_LIMIT,
    "task": Reason.BAD_TASK,
    "row": Reason.BAD_ROW,
    "row_id": Reason.BAD_ROW,
    "split": Reason.BAD_ROW,
    "clock": Reason.BAD_CLOCK,
}
_JSON_REASONS: Final = {
    "tools": Reason.BAD_TOOLS,
    "chat_template_kwargs": Reason.BAD_TEMPLATE_KWARGS,
    "metadata": Reason.BAD_METADATA,
    "task_args": Reason.BAD_TASK,
}


def reset_from_proto(request: pb.ResetRequest) -> ResetOptions:
    """The keywords for `ChatEnvironment.reset`, those only that were given. Their values are not yet checked.

    Raises:
        InvalidRequestError: with the field that is bad.
    """
    options: dict[str, Any] = {key: getattr(request, key) for key in _OPTIONAL if request.HasField(key)}
    options |= {key: getattr(request, key) for key in _EMPTY_MEANS_DEFAULT if getattr(request, key)}
    if request.messages:
        options["messages"] = _messages(request.messages)
    if request.HasField("clock"):
        options["clock"] = _read_clock(request.clock)
    return cast("ResetOptions", options | _json_options(request) | _policies(request))


def _json_options(request: pb.ResetRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if request.tools_json:
        options["tools"] = load_objects(request.tools_json, "tools", Reason.BAD_TOOLS)
    for key in ("chat_template_kwargs", "metadata", "task_args"):
        if text := getattr(request, f"{key}_json"):
            options[key] = load_object(text, key, _JSON_REASONS[key])
    return options


def _policies(request: pb.ResetRequest) -> dict[str, Any]:
    asked = {key: codec.asked(getattr(request, key), key) for key, codec in _POLICIES.items()}
    return {key: policy for key, policy in asked.items() if policy is not None}


def write_step(
    request: pb.StepRequest,
    action: ChatAction,
    *,
    episode_id: str,
    prompt_fingerprint: str = "",
    step_index: int | None = None,
    known_tokens: int = 0,
    known_messages: int = 0,
) -> None:
    """Write a Step with what an action does to messages, or with its tokens when it does nothing to them.

    Args:
        request: where to write it; an empty one.
        action: what to append.
        episode_id: the episode.
        prompt_fingerprint: of the prompt that the caller holds, for an action that names none; empty: no check.
        step_index: step_count as the caller has seen it.
        known_tokens: tokens the caller holds, those of this request included.
        known_messages: messages the caller holds, those of this request included.

    Raises:
        InvalidRequestError: a message is neither text nor JSON, or model_version or prompt_fingerprint is no text.
    """
    request.episode_id = episode_id
    if step_index is not None:
        request.step_index = step_index
    request.known_tokens = known_tokens
    request.known_messages = known_messages
    try:
        request.model_version = action.model_version
        request.prompt_fingerprint = action.prompt_fingerprint or prompt_fingerprint
    except TypeError as error:
        what = "model_version and prompt_fingerprint of an action are texts"
        raise InvalidRequestError(what, reason=Reason.BAD_ACTION) from error
    if action.stop_reason is not None:
        request.stop_reason = STOP_REASON.number(action.stop_reason)  # type: ignore[assignment]
    _write_messages(request, action)
    if not action.messages:  # else the tokens are a preview
        pack_tokens(request, action.tokens)
    if action.logprobs is not None:
        pack_logprobs(request, action.logprobs)
    if action.mask is not None or action.model_version_runs:
        _write_runs(request, action)
    if action.extras or action.amended_extras:
        write_columns(request.extras, action.extras)
        amended = {name: row[None] for name, row in action.amended_extras.items()}
        write_columns(request.amended_extras, amended)


def _write_runs(request: pb.StepRequest, action: ChatAction) -> None:
    if action.mask is not None:
        request.sampled_runs.extend(runs_of_mask(action.mask))
    try:
        for version, length in action.model_version_runs:
            request.model_version_runs.add(model_version=version, length=length)
    except (TypeError, ValueError) as error:
        what = "model_version_runs are pairs of a text and a number of tokens"
        raise InvalidRequestError(what, reason=Reason.BAD_ACTION, field="model_version_runs") from error


def _write_messages(request: pb.StepRequest, action: ChatAction) -> None:
    if action.replace_from is not None:
        _write_replace_from(request, action.replace_from)
    for message in action.messages:
        write_message(request.messages.add(), message)
    if action.message is not None:
        write_message(request.message, action.message)


def _write_replace_from(request: pb.StepRequest, index: int) -> None:
    try:
        request.replace_from = index
    except ValueError as error:
        what = f"replace_from is an index of a message, from 0, not {index!r}"
        raise InvalidRequestError(what, reason=Reason.BAD_REPLACE_FROM, field="replace_from") from error


def action_from_proto(request: pb.StepRequest) -> ChatAction:
    """The action of a Step, not yet checked but for what a ChatAction could not show.

    Raises:
        InvalidRequestError: with the field that is bad.
    """
    given = request.messages
    messages = tuple(_messages(given)) if given else ()
    replace_from = request.replace_from if request.HasField("replace_from") else None
    for field in ("tokens", "prompt_fingerprint") if messages or replace_from is not None else ():
        if getattr(request, field):
            what = f"{field} belongs to sampled tokens and cannot stand beside messages; send two Steps"
            raise InvalidRequestError(what, reason=Reason.BAD_ACTION, field=field)
    action = ChatAction.of_checked(
        tokens=EMPTY_TOKENS if messages else unpack_tokens(request.tokens),
        logprobs=unpack_logprobs(request.logprobs) if request.logprobs else None,
        stop_reason=STOP_REASON.asked(request.stop_reason, "stop_reason"),
        model_version=request.model_version,
        messages=messages,
        prompt_fingerprint=request.prompt_fingerprint,
        replace_from=replace_from,
        message=message_from_proto(request.message, "message") if request.HasField("message") else None,
    )
    if request.sampled_runs:
        action.mask = _mask_from_proto(request)
    if request.model_version_runs:
        action.model_version_runs = tuple((run.model_version, run.length) for run in request.model_version_runs)
    if request.extras:
        action.extras = columns_from_request(request.extras, len(request.tokens), "extras")
    if request.amended_extras:
        amended = columns_from_request(request.amended_extras, 1, "amended_extras")
        action.amended_extras = {name: rows[0, ...] for name, rows in amended.items()}
    return action


def _mask_from_proto(request: pb.StepRequest) -> BoolArray:
    """The mask of a Step's runs, whose length is checked before any is made."""
    covered, tokens = sum(request.sampled_runs), len(request.tokens)
    if covered != tokens:
        what = f"sampled_runs cover {covered} tokens, and there are {tokens}; they add up to the number of tokens"
        raise InvalidRequestError(what, reason=Reason.SAMPLED_RUNS, field="sampled_runs")
    return mask_of_runs(request.sampled_runs)


def render_to_proto(messages: Sequence[Mapping[str, Any]], *, episode_id: str) -> pb.RenderMessageRequest:
    """A RenderMessage.

    Raises:
        InvalidRequestError: a message is neither text nor JSON.
    """
    return pb.RenderMessageRequest(episode_id=episode_id, messages=map(message_to_proto, messages))


def render_from_proto(request: pb.RenderMessageRequest) -> list[Message]:
    """The messages of a RenderMessage, not yet checked.

    Raises:
        InvalidRequestError: with the field that is bad.
    """
    return _messages(request.messages)


def _messages(encoded: Collection[pb.Message]) -> list[Message]:
    if len(encoded) > MAX_MESSAGES:
        what = f"{len(encoded)} messages in one request; send at most {MAX_MESSAGES}, then the rest"
        raise InvalidRequestError(what, reason=Reason.TOO_MANY_MESSAGES, field="messages")
    return messages_from_proto(encoded)


def timestamp(unix_seconds: float) -> Timestamp:
    """Unix seconds as a protobuf Timestamp, to the nanosecond.

    Raises:
        ValueError: the time is not within the years 1 to 9999.
    """
    low, high = _CLOCK_RANGE
    if not low <= unix_seconds < high:
        raise ValueError(f"{unix_seconds} is not within the years 1 to 9999")
    seconds = math.floor(unix_seconds)
    nanos = round((unix_seconds - seconds) * 1e9)
    return Timestamp(seconds=seconds + nanos // 10**9, nanos=nanos % 10**9)


def unix_seconds(moment: Timestamp) -> float:
    """A protobuf Timestamp as Unix seconds."""
    return float(moment.seconds + moment.nanos / 1e9)


def _read_clock(moment: Timestamp) -> float:
    low, high = _CLOCK_RANGE
    if not (low <= moment.seconds < high and 0 <= moment.nanos < 10**9):
        what = "clock must be a time within the years 1 to 9999"
        raise InvalidRequestError(what, reason=Reason.BAD_CLOCK, field="clock")
    return unix_seconds(moment)
