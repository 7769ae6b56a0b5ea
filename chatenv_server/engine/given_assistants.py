"""Where assistants that were given, and not sampled, say something: what supervised training trains on.

Of such a message a model would have to sample what stands from after the generation prompt through its last stop token.
The conversation is rendered up to the message and through it, and both are held against the stream. Where a template
writes an earlier turn differently once later ones have come, the place of the message's text says where it is. A
message that is not found for certain is left out: nothing is trained on by mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import numpy as np

from chatenv_client.errors import InvalidRequestError, TemplateRejectedError
from chatenv_client.models import Message
from chatenv_client.reasons import Reason
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array, shared_length
from chatenv_server.engine.forms import texts_of
from chatenv_server.engine.log_reading import LogReading
from chatenv_server.engine.renderer import Renderer

MAX_RENDERED: Final = 2**19
"""Messages that may be rendered for it, each as often as it stands before a given turn: some 700 given turns in one
conversation. 700 in 151,000 tokens took five seconds. It is longer where no control tokens part texts."""

_ASKED: Final[Message] = {"role": "user", "content": "a"}
"""A conversation that the model is asked to go on with, where the template takes none that ends before the message."""


def given_assistants(log: LogReading, stop_ids: AbstractSet[int]) -> tuple[tuple[int, int], ...]:
    """(start, stop) in the current segment of what each given assistant's message says, its last stop token included.

    Costs nothing where there is no such message; else two renders of the conversation up to each, or three. What they
    have in common is encoded once, where control tokens part texts.

    Args:
        log: the episode's.
        stop_ids: tokens that end a turn.

    Raises:
        InvalidRequestError: there are more of them than can be looked for.
    """
    messages, sampled = log.conversation.since(0), log.sampled_messages
    given = [i for i, one in enumerate(messages) if i not in sampled and one.get("role") == "assistant"]
    if sum(given) > MAX_RENDERED:
        what = f"{len(given)} assistant messages were given, too many to find the tokens of each; give fewer an episode"
        raise InvalidRequestError(what, reason=Reason.TOO_MANY_MESSAGES, field="given_assistants")
    search = _Search(log.renderer, log.stream.token_ids, log.message_spans(), messages, sorted(stop_ids))
    return tuple(search.found(given))


class _Search(NamedTuple):
    """What is looked for, and where."""

    renderer: Renderer
    stream: Int32Array
    parts: Sequence[tuple[int, int]]
    messages: Sequence[Message]
    stops: Sequence[int]

    def found(self, given: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The places of messages by their indices; of those that are found."""
        tokens = self.renderer.beginnings(
            [self.renderer.in_form(one) for one in self.messages[: max(given, default=0) + 1]]
        )
        for index in given:
            span = self._by_rendering(index, tokens) or self._by_its_part(index)
            if span is not None and span[0] < span[1]:
                yield span

    def _by_rendering(self, index: int, tokens: Callable[[int, bool], Int32Array]) -> tuple[int, int] | None:
        try:
            asked, written = tokens(index, True), tokens(index + 1, False)
            start, shared = shared_length(asked, self.stream), shared_length(written, self.stream)
            # The prompt may open a thought that the message has not; and text may merge at the end of what is before.
            if start < len(asked) and start < len(tokens(index, False)):
                return None
        except TemplateRejectedError:
            return None
        if shared == len(written):
            return self._through_its_end(start, shared)
        # What comes after the message makes the template close it with another token, or leave a part of it out; or the
        # template writes more after the last message of all.
        closes = self._stops_in(shared, shared + 1) or self._stops_in(start, shared)[-1:]
        closes = closes or self._stops_in(shared, len(self.stream))[:1]
        return (start, closes[0] + 1) if closes else None

    def _by_its_part(self, index: int) -> tuple[int, int] | None:
        texts = texts_of(self.messages[index])
        start, stop = self.parts[index]
        header = _prompt_after(self.renderer, [_ASKED])
        shared = shared_length(header, self.stream[start:stop])
        if not texts or (len(header) and not shared):
            return None
        if texts[0].strip() not in self.renderer.text_of(self.stream[start:stop]):
            return None
        return self._through_its_end(start + shared, stop)

    def _through_its_end(self, start: int, stop: int) -> tuple[int, int]:
        """Through the last stop token, which may be the beginning of the next message; where there is none, all."""
        ends = self._stops_in(start, stop) or self._stops_in(stop, stop + 1)
        return start, ends[-1] + 1 if ends else stop

    def _stops_in(self, start: int, stop: int) -> list[int]:
        places: list[int] = (start + np.flatnonzero(np.isin(self.stream[start:stop], self.stops))).tolist()
        return places


def _prompt_after(renderer: Renderer, messages: Sequence[Message]) -> Int32Array:
    """(n,) int32, what the template writes to ask for a message after these; empty where it rejects them."""
    try:
        asked, unasked = renderer.whole_tokens(messages, True), renderer.whole_tokens(messages, False)
    except TemplateRejectedError:
        return EMPTY_TOKENS
    return asked[shared_length(asked, unasked) :]
