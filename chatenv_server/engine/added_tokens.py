"""The added tokens of one tokenizer: their texts, and what they do to the text beside them.

Knows nothing of encoding, messages or templates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tokenizers import AddedToken, Tokenizer

from chatenv_server.engine.spellings import Spellings, any_of, normalized


class AddedTokens:
    """What one tokenizer finds in a text before it looks at words. Immutable."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        found = tokenizer.get_added_tokens_decoder()
        self._found, self._normalizer = found, tokenizer.normalizer
        self.texts: Mapping[int, str] = {token_id: token.content for token_id, token in found.items()}
        """Text of every added token by id, special or not."""
        self.special_ids = frozenset(token_id for token_id, token in found.items() if token.special)
        self.isolating_ids = frozenset(token_id for token_id, token in found.items() if self._takes_nothing(token))
        """Those that take nothing from the text beside them: it is encoded as if they parted two texts."""
        self.pattern = any_of(self.texts.values())
        """Matches any of them."""
        self.longest = max(map(len, self.texts.values()), default=0)
        """Characters of the longest."""
        self._by_first: dict[str, list[str]] = {}
        for text in self.texts.values():
            self._by_first.setdefault(text[:1], []).append(text)
        self.neutral_id = min(self.isolating_ids & self.special_ids, default=None)
        """One that can stand for "something came before"; None where there is none."""
        self._overlaps = _Overlaps(found)
        self.parting_ids = frozenset(token_id for token_id, token in found.items() if self._parts(token))
        """Those that part two texts, if each text is encoded together with the token before it."""
        self.parting_pattern = any_of(self.texts[token_id] for token_id in self.parting_ids)
        """Matches any of the parting ones."""

    def __contains__(self, token_id: object) -> bool:
        return token_id in self.texts

    def text_of(self, token_id: int | None) -> str:
        """Text of an added token; empty for any other id, and for None."""
        return "" if token_id is None else self.texts.get(token_id, "")

    def spellings(self, texts: Iterable[str]) -> Spellings:
        """Finds those of the tokens in texts."""
        return Spellings(texts, self._found, self._normalizer)

    def cuts(self, text: str, position: int) -> int:
        """The last position up to `position` that lies inside of no added token."""
        for found in self.pattern.finditer(text, max(0, position - self.longest)):
            if found.start() < position < found.end():
                return found.start()
        return position

    def may_begin_in(self, text: str, more: str) -> bool:
        """Whether an added token may begin in a text and end in what goes on with `more`."""
        whole = text + more
        return any(
            whole.startswith(own, start) if start + len(own) <= len(whole) else own.startswith(whole[start:])
            for start in range(max(0, len(text) - self.longest + 1), len(text))
            for own in self._by_first.get(whole[start], ())
            if start + len(own) > len(text)
        )

    def may_hide_in_ascii(self) -> bool:
        """Whether one of them may be found in ASCII text in which its own text does not stand, once that is normalised.

        NFC makes `K` of the Kelvin sign, and SentencePiece's normalisers make U+2581 of a space.
        """
        plain = set(normalized(self._normalizer, "".join(map(chr, range(128)))))
        return any(
            self._depends_on_normalizing(token)
            and not token.content.isascii()
            and plain.issuperset(normalized(self._normalizer, token.content))
            for token in self._found.values()
        )

    def _takes_nothing(self, token: AddedToken) -> bool:
        return not (token.lstrip or token.rstrip or token.single_word or self._depends_on_normalizing(token))

    def _depends_on_normalizing(self, token: AddedToken) -> bool:
        """Whether it is looked for in a text only after that was normalized, which may have changed it."""
        return token.normalized and self._normalizer is not None

    def _parts(self, token: AddedToken) -> bool:
        """Whether nothing before the token changes what comes after it, nor the reverse, whatever the texts are."""
        own = token.content
        if token.lstrip or token.single_word or self._depends_on_normalizing(token) or own != own.strip():
            return False  # white space it may take from the text after it: that goes along with the token
        if token.normalized and self._overlaps.cut_up(own):
            return False
        # A token for a single word asks what stands beside it; after it, a word's letters would be an answer.
        is_word = own[0].isalnum() or own[0] == "_"
        return not is_word and not self._overlaps.run_into(own)


class _Overlaps:
    """Which of many texts may stand in others, or run into them. Costs their length, not their number squared."""

    def __init__(self, found: Mapping[int, AddedToken]) -> None:
        texts = [token.content for token in found.values()]
        first = [token.content for token in found.values() if not token.normalized]
        self._ends = Counter(text[place:] for text in texts for place in range(len(text)))
        whole = Counter(texts)
        self._letters = {text[:1] for text in texts}
        self._held = {part for text in texts for part in self._parts_of(text) if part in whole}
        self._held |= {text for text, count in whole.items() if count > 1}
        self._first = frozenset(first)
        self._beginnings_of_first = {text[:length] for text in first for length in range(1, len(text) + 1)}

    def run_into(self, own: str) -> bool:
        """Whether another text holds this one, or ends in a beginning of it."""
        beginnings = (own[:length] for length in range(1, len(own) + 1))
        return own in self._held or any(self._ends[start] > own.endswith(start) for start in beginnings)

    def cut_up(self, own: str) -> bool:
        """Whether a token that is looked for among the first, in all of a text, may take a part of this one."""
        ends = (own[place:] for place in range(len(own)))
        return any(part in self._first for part in (own, *self._parts_of(own))) or any(
            end in self._beginnings_of_first for end in ends
        )

    def _parts_of(self, text: str) -> Iterator[str]:
        """Every part of a text, but the whole, that begins as one of the texts does."""
        length = len(text)
        for start in range(length):
            if text[start] in self._letters:
                yield from (text[start:stop] for stop in range(start + 1, length + (start > 0)))
