"""Chat messages on the wire and back, lossless: what was given is what arrives, an explicit None included.

Checks what only the wire can get wrong; what makes sense as a message is for the environment to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import Message, is_plain
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import dump_json, load_json, load_object

_TEXT_KEYS: Final = ("reasoning_content", "tool_call_id", "name")


def message_to_proto(message: Mapping[str, Any]) -> pb.Message:
    """Put a message on the wire; see `write_message`."""
    encoded = pb.Message()
    write_message(encoded, message)
    return encoded


def write_message(encoded: pb.Message, message: Mapping[str, Any]) -> None:
    """Write a message into an empty one. What the typed fields cannot express exactly travels as JSON.

    Raises:
        InvalidRequestError: reason BAD_MESSAGE: it is no mapping, or a value is neither text nor JSON.
    """
    try:
        _write_message(encoded, message)
    except UnicodeEncodeError as error:
        what = "a message holds half of a surrogate pair, which is no Unicode text"
        raise InvalidRequestError(what, reason=Reason.BAD_MESSAGE, field="messages") from error


def _write_message(encoded: pb.Message, message: Any) -> None:
    if is_plain(message) and type(message["role"]) is str:
        encoded.role, encoded.content = message["role"], message["content"]
        return
    if not isinstance(message, Mapping):
        what = f"a message is a mapping with `role` and `content`, not {type(message).__name__}; give a list of them"
        raise InvalidRequestError(what, reason=Reason.BAD_MESSAGE, field="messages")
    extra = {}
    for key, value in message.items():
        write = _WRITERS.get(key)
        if write is None or not write(encoded, value):
            extra[key] = value
    if extra:
        # Keys are the caller's, and the field of an error is logged.
        keys = ", ".join(map(str, extra)).encode(errors="backslashreplace").decode()
        encoded.extra_json = dump_json(extra, "extra_json", Reason.BAD_MESSAGE, what=keys)


def messages_from_proto(encoded: Iterable[pb.Message]) -> list[Message]:
    """Read a list of messages; see `message_from_proto`."""
    return [message_from_proto(item, f"messages[{index}]") for index, item in enumerate(encoded)]


def message_from_proto(encoded: pb.Message, field: str = "messages[0]") -> Message:
    """Read a message off the wire.

    Raises:
        InvalidRequestError: reason BAD_MESSAGE; its `field` begins with `field`.
    """
    message: dict[str, Any] = {"role": encoded.role}
    if encoded.HasField("content") and not encoded.content_parts:
        message["content"] = encoded.content
    elif encoded.content_parts:
        message["content"] = _content_parts(encoded, field)
    for key in _TEXT_KEYS:
        if encoded.HasField(key):
            message[key] = getattr(encoded, key)
    if encoded.tool_calls:
        message["tool_calls"] = [
            _tool_call_from_proto(call, f"{field}.tool_calls[{index}]") for index, call in enumerate(encoded.tool_calls)
        ]
    if encoded.extra_json:
        _read_extra(encoded.extra_json, message, f"{field}.extra_json")
    return cast(Message, message)


def _content_parts(encoded: pb.Message, field: str) -> list[dict[str, str]]:
    if encoded.HasField("content"):
        raise _bad("content and content_parts cannot stand together", f"{field}.content_parts")
    return [{"type": part.type, "text": part.text} for part in encoded.content_parts]


def _read_extra(text: str, message: dict[str, Any], field: str) -> None:
    extra = load_object(text, field, Reason.BAD_MESSAGE)
    for key in extra.keys() & message.keys():
        raise _bad(f"{key!r} is given twice, in its own field and in extra_json", field)
    message.update(extra)


def _tool_call_from_proto(encoded: pb.ToolCall, field: str) -> dict[str, Any]:
    arguments = load_json(encoded.arguments_json or "{}", f"{field}.function.arguments", Reason.BAD_MESSAGE)
    call: dict[str, Any] = {"id": encoded.id} if encoded.HasField("id") else {}
    call["type"] = encoded.type or "function"
    call["function"] = {"name": encoded.name, "arguments": arguments}
    return call


def _write_role(encoded: pb.Message, value: Any) -> bool:
    encoded.role = value if isinstance(value, str) else ""  # which the server refuses, naming the message
    return True


def _write_content(encoded: pb.Message, value: Any) -> bool:
    if isinstance(value, str):
        encoded.content = value
        return True
    if not isinstance(value, list) or not value or not all(map(_is_text_part, value)):
        return False
    encoded.content_parts.extend(pb.ContentPart(type=part["type"], text=part["text"]) for part in value)
    return True


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict) and list(part) == ["type", "text"] and all(type(text) is str for text in part.values())
    )


def _write_text(key: str) -> Callable[[pb.Message, Any], bool]:
    def write(encoded: pb.Message, value: Any) -> bool:
        if isinstance(value, str):
            setattr(encoded, key, value)
        return isinstance(value, str)

    return write


def _write_tool_calls(encoded: pb.Message, value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(map(_fits_the_schema, value)):
        return False
    for call in value:
        function = call["function"]
        arguments = dump_json(function["arguments"], "arguments", Reason.BAD_MESSAGE)
        encoded.tool_calls.add(id=call.get("id"), type=call["type"], name=function["name"], arguments_json=arguments)
    return True


def _fits_the_schema(call: Any) -> bool:
    # The order of keys counts: templates write calls with `tojson`.
    if not isinstance(call, dict) or list(call) not in (["id", "type", "function"], ["type", "function"]):
        return False
    function = call["function"]
    return (
        isinstance(call.get("id", ""), str)
        and isinstance(call["type"], str)
        and call["type"] != ""
        and isinstance(function, dict)
        and list(function) == ["name", "arguments"]
        and isinstance(function["name"], str)
        and isinstance(function["arguments"], dict | str)
    )


def _bad(what: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(what, reason=Reason.BAD_MESSAGE, field=field)


_WRITERS: Final[Mapping[str, Callable[[pb.Message, Any], bool]]] = {
    "role": _write_role,
    "content": _write_content,
    "tool_calls": _write_tool_calls,
    **{key: _write_text(key) for key in _TEXT_KEYS},
}
