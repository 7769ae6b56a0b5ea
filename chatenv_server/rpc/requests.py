"""Makes messages of requests: unpacks within a limit, looks through for too many parts, and only then parses.

What bytes become may be far more than they are. A compressed one is a thousand times as long, and an empty message that
takes two bytes on the wire takes a hundred when it is parsed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_server.rpc.arrivals import too_large
from chatenv_server.rpc.traffic import Load

_GZIP: Final = b"\x1f\x8b\x08"
"""How gzip begins, and no protobuf message."""
_GZIP_BITS: Final = 31
"""What zlib takes for gzip."""
_CHUNK: Final = 2**18
"""Bytes that are unpacked at a time, each time with room for them."""
MAX_FIELDS: Final = 2**19
"""Of one request, those of the messages inside it included."""
_FIELD_BYTES: Final = 2
"""The shortest field: its tag, and an empty value. A request that is too short for too many needs no look."""


class Parser:
    """Makes messages of the requests of one method.

    Args:
        parse: the stub's own, which raises DecodeError.
        schema: of the message; None: it is not looked through.
        limit: bytes of one request.
    """

    def __init__(self, parse: Callable[[bytes], Any], schema: Descriptor | None, limit: int) -> None:
        self._parse = parse
        self._schema = schema
        self._limit = limit

    def message(self, request: bytes, load: Load) -> Any:
        """The message.

        Args:
            request: as it came over the wire, plain or compressed by gzip.
            load: counts what is unpacked.

        Raises:
            InvalidRequestError: it is no message of this method, or has too many parts.
            MessageTooLargeError: it is longer than a request may be.
            ServerBusyError: there is no room for it among all requests.
        """
        if request.startswith(_GZIP):
            request = self._unpacked(request, load)
        if len(request) > self._limit:
            raise too_large(self._limit)
        if self._schema is not None and len(request) > _FIELD_BYTES * MAX_FIELDS:
            _check_fields(request, self._schema)
        try:
            return self._parse(request)
        except DecodeError:
            pass  # raised anew outside, without the frames that hold the request
        raise _malformed("it is not a protobuf message of this method; make it with the stubs of this version")

    def _unpacked(self, request: bytes, load: Load) -> bytes:
        stream = zlib.decompressobj(wbits=_GZIP_BITS)
        chunks: list[bytes] = []
        length = 0
        try:
            while not stream.eof and (request or chunks[-1:] != [b""]):
                load.add(_CHUNK)
                chunks.append(stream.decompress(request, _CHUNK))
                request = stream.unconsumed_tail
                length += len(chunks[-1])
                if length > self._limit:
                    raise too_large(self._limit)
        except zlib.error:
            chunks = []
        if not (stream.eof and chunks):
            raise _malformed("its gzip is broken")
        return b"".join(chunks)


def _malformed(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"the request cannot be read: {why}", reason=Reason.MALFORMED_REQUEST)


def _check_fields(request: bytes, schema: Descriptor) -> None:
    """Refuse a request of more than MAX_FIELDS fields. One that is no message is left to the parser to refuse."""
    count = 0
    spans: list[tuple[int, int, Descriptor]] = [(0, len(request), schema)]
    while spans:
        place, end, schema = spans.pop()
        inner = _inner_messages(schema)
        while place < end:
            tag, place = _varint(request, place)
            count += 1
            if count > MAX_FIELDS:
                raise InvalidRequestError(
                    f"a request holds at most {MAX_FIELDS} fields, those of its messages included; send several",
                    reason=Reason.TOO_MANY_MESSAGES,
                )
            following = _after_field(request, place, tag & 7)
            message = inner.get(tag >> 3) if tag & 7 == 2 else None
            if message is not None:
                spans.append((_varint(request, place)[1], min(following, end), message))
            place = following


def _inner_messages(schema: Descriptor) -> Mapping[int, Descriptor]:
    found = _INNER.get(schema)
    if found is None:
        found = {field.number: field.message_type for field in schema.fields if field.message_type is not None}
        _INNER[schema] = found
    return found


_INNER: Final[dict[Descriptor, Mapping[int, Descriptor]]] = {}
"""For each message of the schema, the messages in it by the numbers of their fields."""


def _after_field(request: bytes, place: int, wire_type: int) -> int:
    """Where the field ends whose tag ends at `place`."""
    if wire_type == 2:
        length, place = _varint(request, place)
        return place + length
    if wire_type == 0:
        return _varint(request, place)[1]
    return place + {1: 8, 5: 4}.get(wire_type, 0)


def _varint(request: bytes, place: int) -> tuple[int, int]:
    """A number and where it ends; past the end of the request all is 0."""
    number = shift = 0
    for place in range(place, min(place + 10, len(request))):  # noqa: B020, PLR1704 - goes on from there
        byte = request[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place + 1
        shift += 7
    return number, len(request)
