"""What byte-level tokenizers write for bytes, and the text of token ids read straight off it.

The library's decoder does the same for any tokenizer; for one whose tokens are bytes, looking the bytes up takes half
the time. Knows nothing of messages or templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenizers import Tokenizer, decoders


def byte_level_alphabet() -> list[str]:
    """The characters that byte-level tokenizers write for bytes 0 to 255.

    Printable Latin-1 stands for itself; the other bytes take the code points from 256 on, in order
    (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2).
    """
    substitutes = iter(range(256, 512))
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


_BYTE_OF: Final = {character: byte for byte, character in enumerate(byte_level_alphabet())}


class TokenBytes(dict[int, bytes]):
    """The bytes of every token of a byte-level tokenizer, looked up when they are first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._text_of = tokenizer.id_to_token

    def __missing__(self, token_id: int) -> bytes:
        written = self._text_of(token_id) or ""  # an id that no token has says nothing
        try:
            found = bytes(map(_BYTE_OF.__getitem__, written))
        except KeyError:
            found = written.encode()  # an added token, which is written as it is
        self[token_id] = found
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.__getitem__, ids)).decode(errors="replace")


def token_bytes(tokenizer: Tokenizer) -> TokenBytes | None:
    """The bytes of a tokenizer's tokens; None where its decoder does more than put bytes together."""
    return TokenBytes(tokenizer) if isinstance(tokenizer.decoder, decoders.ByteLevel) else None
