"""Tails of one plain message behind one plain turn, put together without rendering.

What a template writes around two texts that it only passes through is the same for all texts that answer its
questions alike (`tracing.py`). It is learnt from the render of one such exchange and used for the next ones, in all
episodes that share a renderer. Anything out of the ordinary is rendered.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from chatenv_server.engine.isolated_texts import IsolatedText
from chatenv_server.engine.tracing import Question, Trace, TracedText

MOST_LESSONS: Final = 16
"""Renders of one shape that are looked at. A template that asks something else every time is left alone."""
MOST_SHAPES: Final = 64
"""Shapes that are looked at. Callers choose roles, so there must be a bound."""
_SHORTEST_TELLING_TEXT: Final = 8
"""Characters. A shorter one may stand in a render by chance."""


class Shape(NamedTuple):
    """What a frame depends on beside the two texts."""

    role: str
    """Who speaks behind the turn."""
    stop_id: int
    """Stop token of the turn."""
    close: str
    """What the turn itself holds of its close."""
    prompted: bool


class Exchange(NamedTuple):
    """A sampled turn that is nothing but text, and the one message behind it that is nothing but text."""

    shape: Shape
    said: str
    """Text of the turn, not empty."""
    given: str
    """Text of the message, not empty."""


class Frame(NamedTuple):
    """What stands around the text of an exchange's message, and for which exchanges."""

    before: str
    """From the turn's close on."""
    after: str
    message_start: int
    """First token of the message's part, counted from the tail's beginning."""
    generation_prompt_length: int
    said: tuple[Question, ...]
    """What the template asks of the turn's text."""
    given: tuple[Question, ...]
    """What it asks of the message's text."""
    enclosure: IsolatedText | None = None
    """The same as ids, as far as these never depend on the message's text."""

    def fits(self, exchange: Exchange) -> bool:
        """Whether the template writes this frame in this exchange."""
        return _are_answered_alike(self.said, exchange.said) and _are_answered_alike(self.given, exchange.given)


def _are_answered_alike(questions: tuple[Question, ...], text: str) -> bool:
    return not questions or all(question.is_answered_alike(text) for question in questions)


class Lesson:
    """An exchange whose texts note what a template asks of them; to be rendered once."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._asked_of_said, self._asked_of_given = Trace(), Trace()
        self.said = TracedText.of(exchange.said, self._asked_of_said)
        self.given = TracedText.of(exchange.given, self._asked_of_given)

    def around_given(self, whole: str, literal_text: str) -> tuple[str, str] | None:
        """What stands before and after the message's text, from the turn's close on; None where that cannot be told.

        Args:
            whole: the render.
            literal_text: what the template can write by itself.
        """
        _, said, given = self._exchange
        if not (self._asked_of_said.is_complete and self._asked_of_given.is_complete):
            return None
        for text in (said.strip(), given.strip()):
            if len(text) < _SHORTEST_TELLING_TEXT or text in literal_text or whole.count(text) != 1:
                return None
        before, _, after = whole.partition(said)[2].removeprefix(self._exchange.shape.close).partition(given)
        return before, after

    def frame(self, around: tuple[str, str], message_start: int, generation_prompt_length: int) -> Frame:
        """What was learnt."""
        questions = tuple(self._asked_of_said.questions), tuple(self._asked_of_given.questions)
        return Frame(*around, message_start, generation_prompt_length, *questions)


class Frames:
    """What was learnt about the plain tails of one renderer. Safe for threads: at worst something is learnt twice."""

    def __init__(self) -> None:
        self._frames: dict[Shape, tuple[Frame, ...]] = {}
        self._lessons: Counter[Shape] = Counter()

    def find(self, exchange: Exchange) -> Frame | None:
        """The frame of an exchange, if it is known."""
        for frame in self._frames.get(exchange.shape, ()):
            if frame.fits(exchange):
                return frame
        return None

    def lesson(self, exchange: Exchange) -> Lesson | None:
        """An exchange to learn from; None where enough was tried."""
        is_new = exchange.shape not in self._lessons
        if (is_new and len(self._lessons) >= MOST_SHAPES) or self._lessons[exchange.shape] >= MOST_LESSONS:
            return None
        self._lessons[exchange.shape] += 1
        return Lesson(exchange)

    def add(self, exchange: Exchange, frame: Frame) -> None:
        """Keep what was learnt from an exchange."""
        self._frames[exchange.shape] = (*self._frames.get(exchange.shape, ()), frame)
