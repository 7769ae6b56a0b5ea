"""What an answer may still take of the message limit: so nothing is applied whose answer could not be sent."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

from chatenv_client.errors import MessageTooLargeError

_ITEM_OVERHEAD: Final = 256
"""Bytes that a response may take beside its own in a batch or a stream: tags, lengths, the ids that name its item."""


class AnswerRoom:
    """The room of one answer, which many items may share that are worked on in one thread."""

    def __init__(self, max_message_bytes: int) -> None:
        self._limit = max_message_bytes
        self._left = max_message_bytes

    def take(self, response: Message) -> None:
        """Take the room of a response.

        Raises:
            MessageTooLargeError: it does not fit.
        """
        size = response.ByteSize() + _ITEM_OVERHEAD
        if size > self._left:
            raise MessageTooLargeError(
                f"the answer would take {size} bytes and there is room for {self._left}, of {self._limit} that a "
                "message may take; nothing was applied. Send fewer items, say what you hold in known_tokens and "
                "known_messages, or raise --max-message-bytes and the client's max_message_bytes"
            )
        self._left -= size
