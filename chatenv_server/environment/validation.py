"""Checks of what callers hand in, before anything is rendered. Each error names the field and what would be right."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar

import numpy as np

from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatAction, Failure, Message, is_plain
from chatenv_client.models.failure import as_kind, bad_failure, check_reason
from chatenv_client.reasons import Reason
from chatenv_client.tokens import Int32Array
from chatenv_client.wire.json_fields import MAX_JSON_DEPTH, load_object
from chatenv_server.engine.forms import is_text_part
from chatenv_server.engine.template import REASONING_NAMES, RESERVED_NAMES

PolicyT = TypeVar("PolicyT", bound=enum.Enum)

_LONGEST_ROLE = 64
_LONGEST_MODEL_VERSION = 256
_LARGEST_LIMIT = 2**32 - 1


def check_action(action: ChatAction, token_id_limit: int) -> None:
    """Raise InvalidRequestError unless the action is either sampled tokens or messages, and well-formed."""
    if action.changes_messages:
        _check_given(action)
    else:
        _check_sampled(action, token_id_limit)


def _check_given(action: ChatAction) -> None:
    if len(action.tokens) and not action.messages:
        raise InvalidRequestError(
            "replace_from belongs to messages, not to sampled tokens; send two Steps",
            reason=Reason.BAD_ACTION,
            field="replace_from",
        )
    arrays = action.logprobs is not None or action.mask is not None or action.extras or action.amended_extras
    words = action.stop_reason is not None or action.model_version or action.model_version_runs
    if arrays or words:
        raise InvalidRequestError(
            "logprobs, mask, extras, stop_reason and model_version belong to sampled tokens; "
            "leave them out with messages",
            reason=Reason.BAD_ACTION,
            field="messages",
        )
    if action.message is not None:
        raise InvalidRequestError(
            "message says how sampled tokens read, and cannot stand beside messages",
            reason=Reason.BAD_ACTION,
            field="message",
        )
    check_messages(action.messages)


def _check_sampled(action: ChatAction, token_id_limit: int) -> None:
    if len(action.tokens) == 0 and action.stop_reason is None:
        raise InvalidRequestError(
            "the action is empty; send sampled tokens or messages, or a stop_reason where nothing was sampled",
            reason=Reason.EMPTY_ACTION,
            field="tokens",
        )
    check_token_ids(action.tokens, token_id_limit)
    if action.message is not None:
        _check_sampled_message(action.message)
    if action.logprobs is not None and len(action.logprobs) != len(action.tokens):
        raise InvalidRequestError(
            f"{len(action.logprobs)} logprobs for {len(action.tokens)} tokens; send one per token, or none",
            reason=Reason.LOGPROBS_LENGTH,
            field="logprobs",
        )
    if len(action.model_version) > _LONGEST_MODEL_VERSION:
        raise InvalidRequestError(
            f"model_version is longer than {_LONGEST_MODEL_VERSION} characters",
            reason=Reason.BAD_ACTION,
            field="model_version",
        )
    if action.mask is not None and len(action.mask) != len(action.tokens):
        raise InvalidRequestError(
            f"the mask has {len(action.mask)} values for {len(action.tokens)} tokens; send one per token, or none",
            reason=Reason.SAMPLED_RUNS,
            field="mask",
        )
    if action.model_version_runs:
        _check_version_runs(action)


def _check_version_runs(action: ChatAction) -> None:
    runs = action.model_version_runs
    known = all(1 <= len(version) <= _LONGEST_MODEL_VERSION for version, _ in runs)
    covered = all(length >= 1 for _, length in runs) and sum(length for _, length in runs) == len(action.tokens)
    if action.model_version or not known or not covered:
        raise InvalidRequestError(
            f"model_version_runs name versions of 1 to {_LONGEST_MODEL_VERSION} characters; their lengths add up to "
            f"the {len(action.tokens)} tokens; they stand in the place of model_version",
            reason=Reason.BAD_ACTION,
            field="model_version_runs",
        )


def _check_sampled_message(message: Any) -> None:
    _check_message(message, "message")
    if message["role"] != "assistant":
        raise InvalidRequestError(
            "the message that sampled tokens are is an assistant's", reason=Reason.BAD_ACTION, field="message.role"
        )


def check_replace_from(index: Any, message_count: int) -> None:
    """Raise InvalidRequestError unless it is an index from which messages can be replaced: 0 to their number."""
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= message_count:
        raise InvalidRequestError(
            f"replace_from is 0 to {message_count}, the number of messages, not {index!r}",
            reason=Reason.BAD_REPLACE_FROM,
            field="replace_from",
        )


def check_token_ids(tokens: Int32Array, limit: int) -> None:
    """Raise InvalidRequestError unless all ids are in 0 to limit - 1."""
    # As unsigned integers, negative ids are the largest.
    unsigned = tokens.view(np.uint32)
    if len(unsigned) and unsigned.item(unsigned.argmax()) >= limit:
        index = int(np.argmax(unsigned >= limit))
        raise InvalidRequestError(
            f"token id {int(tokens[index])} at position {index} is outside 0 to {limit - 1}; "
            "raise token_id_limit if the model's embedding is padded",
            reason=Reason.TOKEN_OUT_OF_RANGE,
            field=f"tokens[{index}]",
        )


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InvalidRequestError unless each message has a role and says something."""
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")


def check_prefill(opening: Sequence[Message]) -> None:
    """Raise InvalidRequestError unless the opening ends in an assistant's text, and in no calls."""
    last: Message = opening[-1] if opening else {}
    text = last.get("content")
    if last.get("role") != "assistant" or last.get("tool_calls") or not isinstance(text, str) or not text.strip():
        raise InvalidRequestError(
            "continue_final_message: the opening has to end in the text of an assistant, without tool calls",
            reason=Reason.BAD_PREFILL,
            field="continue_final_message",
        )


def check_role(role: Any, field: str) -> None:
    """Raise InvalidRequestError unless it is 1 to 64 printable characters."""
    if not isinstance(role, str) or not role.strip() or len(role) > _LONGEST_ROLE or not role.isprintable():
        raise InvalidRequestError(
            f"a role is 1 to {_LONGEST_ROLE} printable characters, such as 'user'", reason=Reason.BAD_ROLE, field=field
        )


def _check_message(message: Any, field: str) -> None:
    if is_plain(message):
        check_role(message["role"], f"{field}.role")
        check_text(message["content"], field)
        return
    if not isinstance(message, Mapping):
        raise InvalidRequestError(
            "a message is a mapping with `role` and `content`", reason=Reason.BAD_MESSAGE, field=field
        )
    check_role(message.get("role"), f"{field}.role")
    content = message.get("content")
    thoughts = [message[name] for name in REASONING_NAMES if message.get(name) is not None]
    if content is None and not message.get("tool_calls") and not any(thoughts):
        raise InvalidRequestError(
            "the message has no content; an empty text is fine, none is not",
            reason=Reason.CONTENT_MISSING,
            field=f"{field}.content",
        )
    if content is not None and not isinstance(content, str) and not _is_parts(content):
        raise InvalidRequestError(
            "content is a text or a list of text parts", reason=Reason.BAD_MESSAGE, field=f"{field}.content"
        )
    if any(thought != thoughts[0] for thought in thoughts):
        raise InvalidRequestError(
            f"{', '.join(REASONING_NAMES)} are names of one thing, and here they differ; give one of them",
            reason=Reason.BAD_MESSAGE,
            field=f"{field}.reasoning_content",
        )
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, (list, tuple)):
        raise InvalidRequestError("tool_calls are a list", reason=Reason.BAD_MESSAGE, field=f"{field}.tool_calls")
    for index, call in enumerate(calls):
        _check_call(call, f"{field}.tool_calls[{index}]")
    check_json({key: value for key, value in message.items() if key != "role"}, field)


def _is_parts(content: Any) -> bool:
    return isinstance(content, (list, tuple)) and all(map(is_text_part, content))


def _check_call(call: Any, field: str) -> None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRequestError(
            "a tool call needs function.name", reason=Reason.BAD_MESSAGE, field=f"{field}.function.name"
        )
    _check_arguments(function.get("arguments", {}), f"{field}.function.arguments")


def _check_arguments(arguments: Any, field: str) -> None:
    if isinstance(arguments, str):
        if not arguments.strip():
            raise InvalidRequestError(
                "arguments are an empty text; write '{}' for none", reason=Reason.BAD_MESSAGE, field=field
            )
        load_object(arguments, field, Reason.BAD_MESSAGE)
    elif not isinstance(arguments, Mapping):
        raise InvalidRequestError(
            "arguments are an object, or the JSON text of one", reason=Reason.BAD_MESSAGE, field=field
        )


def check_tools(tools: Any) -> tuple[Mapping[str, Any], ...] | None:
    """Tools as a tuple of schemas; None where the list is empty.

    Raises:
        InvalidRequestError: they are not a list of JSON objects.
    """
    if not isinstance(tools, (list, tuple)) or not all(_is_schema(tool) for tool in tools):
        raise InvalidRequestError(
            "tools are a list of JSON schemas, each an object", reason=Reason.BAD_TOOLS, field="tools"
        )
    check_json(tools, "tools", reason=Reason.BAD_TOOLS)
    return tuple(tools) or None


def _is_schema(tool: Any) -> bool:
    return isinstance(tool, Mapping) and isinstance(tool.get("function", tool), Mapping)


def check_template_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError if an argument is no JSON value, or has the name of one of a template's own inputs."""
    check_json(kwargs, "chat_template_kwargs", reason=Reason.BAD_TEMPLATE_KWARGS)
    for name in kwargs:
        if name in RESERVED_NAMES or not name.isidentifier():
            raise InvalidRequestError(
                f"{name!r} is not a template argument that a caller may set",
                reason=Reason.BAD_TEMPLATE_KWARGS,
                field="chat_template_kwargs",
            )


def check_json(value: Any, field: str, *, reason: Reason = Reason.BAD_MESSAGE, depth: int = 0) -> None:
    """Raise InvalidRequestError unless `value` is made of JSON's types, at most 64 levels deep, its texts Unicode."""
    if depth > MAX_JSON_DEPTH:
        raise InvalidRequestError(f"nested more than {MAX_JSON_DEPTH} levels deep", reason=reason, field=field)
    if isinstance(value, str):  # most are, and asking for a Mapping takes longer
        check_text(value, field, reason=reason)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_key(key, field, reason)
            check_json(item, field, reason=reason, depth=depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_json(item, field, reason=reason, depth=depth + 1)
    else:
        _check_json_leaf(value, field, reason)


def _check_key(key: Any, field: str, reason: Reason) -> None:
    if not isinstance(key, str):
        raise InvalidRequestError(f"keys are texts, and {key!r} is a {type(key).__name__}", reason=reason, field=field)
    check_text(key, field, reason=reason)


def _check_json_leaf(value: Any, field: str, reason: Reason) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequestError(f"{float(value)} is not a JSON value", reason=reason, field=field)
    if value is not None and not isinstance(value, (int, float, bool)):
        raise InvalidRequestError(f"a {type(value).__name__} is not a JSON value", reason=reason, field=field)


def check_text(text: Any, field: str, *, reason: Reason = Reason.BAD_MESSAGE) -> None:
    """Raise InvalidRequestError unless it is a text without halves of surrogate pairs, which cannot be encoded."""
    if not isinstance(text, str):
        raise InvalidRequestError(f"a {type(text).__name__} is not a text", reason=reason, field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"character {error.start} of a text is half of a surrogate pair, not Unicode", reason=reason, field=field
        ) from None


def check_failure(failure: Any) -> None:
    """Raise InvalidRequestError unless it says what broke, and its reason is not too long."""
    if not isinstance(failure, Failure):
        raise bad_failure(f"a failure is a Failure, not a {type(failure).__name__}", "failure")
    as_kind(failure.kind, "failure.kind")
    check_text(failure.reason, "failure.reason")
    check_reason(failure.reason, "failure.reason")


def check_limit(value: int | None, field: str) -> int | None:
    """The limit as given.

    Raises:
        InvalidRequestError: it is no whole number from 1 to 2**32 - 1.
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is not None and not (is_whole and 1 <= value <= _LARGEST_LIMIT):
        raise InvalidRequestError(
            f"{field} is a whole number from 1 to {_LARGEST_LIMIT}, not {value!r}; leave it out for no limit",
            reason=Reason.BAD_LIMIT,
            field=field,
        )
    return None if value is None else int(value)


def check_policy(kind: type[PolicyT], value: Any, field: str) -> PolicyT:
    """The policy of this name.

    Raises:
        InvalidRequestError: there is none.
    """
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(repr(choice.value) for choice in kind)
        raise InvalidRequestError(
            f"{field} is one of {choices}, not {value!r}", reason=Reason.BAD_POLICY, field=field
        ) from None


def check_clock(unix_seconds: float) -> float:
    """The moment as given.

    Raises:
        InvalidRequestError: it is not within the years 1 to 9999, which is all that templates can write.
    """
    try:
        datetime.fromtimestamp(unix_seconds, tz=timezone.utc)
    except (OverflowError, ValueError):
        raise InvalidRequestError(
            f"clock is a time within the years 1 to 9999, in seconds since 1970, not {unix_seconds}",
            reason=Reason.BAD_CLOCK,
            field="clock",
        ) from None
    return unix_seconds
