"""A text that writes down how a chat template uses it.

While a template is rendered, every text that is computed from a traced one is traced, too: it knows the expression that
made it. Every answer that is no text (does it start with `/`? how many parts has it?) is noted as a condition. So a
render shows what the template would write for all texts that meet the same conditions. The method is that of tracing
compilers: expressions for what flows through, conditions for what is decided (Frostig, Johnson, Leary 2018, "Compiling
machine learning programs via high-level tracing"). Knows nothing of messages or tokens.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from chatenv_server.values import value

Texts = Sequence[str]
"""The texts that a trace began with, in order, or others in their place."""


MOST_CONDITIONS: Final = 512
"""Conditions of a trace, and parts of a text. Whoever sends a text decides how often a template loops over it."""
MOST_PIECES: Final = 16
"""Texts that one is taken apart into: for each of them it is taken apart anew."""


@value
class Input:
    """One of the texts themselves."""

    place: int

    def of(self, texts: Texts) -> str:
        """Its value for other texts."""
        return texts[self.place]


@value
class Applied:
    """A function without side effects, and its arguments: plain values, or expressions."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def of(self, texts: Texts) -> Any:
        """Its value for other texts."""
        # As `value_of`, without a call for each argument: a step tests many conditions.
        return self.function(*[one.of(texts) if type(one) in _EXPRESSIONS else one for one in self.arguments])


@value
class Joined:
    """Texts one after another."""

    parts: tuple[Any, ...]
    """Strings, and expressions of strings; no two strings side by side."""

    def of(self, texts: Texts) -> str:
        """Its value for other texts."""
        return "".join([part if type(part) is str else part.of(texts) for part in self.parts])


@value
class Structure:
    """A list, tuple or mapping that holds expressions, such as the arguments of a call that is written as JSON."""

    kind: type[Any]
    keys: tuple[Any, ...]
    """Of a mapping."""
    items: tuple[Any, ...]

    def of(self, texts: Texts) -> Any:
        """Its value for other texts."""
        values = [value_of(item, texts) for item in self.items]
        return dict(zip(self.keys, values, strict=True)) if self.kind is dict else self.kind(values)


Expression = Input | Applied | Joined | Structure
_EXPRESSIONS: Final = frozenset({Input, Applied, Joined, Structure})


def value_of(argument: Any, texts: Texts) -> Any:
    """What an expression gives for other texts; any other value as it is."""
    return argument.of(texts) if type(argument) in _EXPRESSIONS else argument


@value
class Condition:
    """What an expression gave, where that decided something."""

    expression: Expression
    answer: Any

    def is_met(self, texts: Texts) -> bool:
        """Whether it gives the same for other texts. May raise: that counts as no."""
        return bool(self.expression.of(texts) == self.answer)


class Trace:
    """What was done with some texts while it was open."""

    def __init__(self, texts: Texts) -> None:
        self.texts = [TracedText.made(text, self, Input(place)) for place, text in enumerate(texts)]
        """The texts, traced, in order."""
        self.conditions: list[Condition] = []
        self.is_complete = True
        """Whether everything that was done can be done with other texts."""
        self._is_open = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While it lasts, what is done with the texts counts. Before and after, they are texts like any others."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether what is done with the texts counts now."""
        return self._is_open and self.is_complete

    def spoil(self) -> None:
        """Note that something was done with the texts that cannot be done with others unseen."""
        if self._is_open:
            self.is_complete = False

    def note(self, expression: Expression, answer: Any) -> None:
        """Note an answer that may decide something."""
        condition = Condition(expression, answer)
        if condition in self.conditions:
            return
        self.conditions.append(condition)
        if len(self.conditions) > MOST_CONDITIONS:
            self.spoil()

    def told(self, question: Callable[..., bool], *arguments: Any) -> bool:
        """What a function without side effects answers, which decides something outside of a render."""
        answer = question(*arguments)
        if trace_of(arguments) is not None:
            self.note(Applied(question, tuple(map(expression_of, arguments))), answer)
        return answer

    def result(self, function: Callable[..., Any], arguments: tuple[Any, ...], value: Any) -> Any:
        """The value that a function gave for arguments, some of them traced: traced where it is text, else noted."""
        if not self.is_open or value is NotImplemented:
            return value
        expression = Applied(function, tuple(map(expression_of, arguments)))
        if isinstance(value, str):
            return TracedText.made(value, self, expression)
        if value is None or isinstance(value, (bool, int)):
            self.note(expression, value)
            return value
        if (
            isinstance(value, (list, tuple))
            and len(value) <= MOST_PIECES
            and all(isinstance(item, str) for item in value)
        ):
            self.note(Applied(len, (expression,)), len(value))
            return type(value)(
                TracedText.made(item, self, Applied(operator.getitem, (expression, place)))
                for place, item in enumerate(value)
            )
        self.spoil()
        return value


class TracedText(str):
    """A text that notes in its trace what is done with it. It compares and reads like the text that it is."""

    __slots__ = ("expression", "trace")

    expression: Expression
    trace: Trace

    @classmethod
    def made(cls, text: str, trace: Trace, expression: Expression) -> TracedText:
        """A text that an expression gives."""
        traced = cls(text)
        traced.trace = trace
        traced.expression = expression
        return traced

    def __str__(self) -> str:
        return self

    def __add__(self, right: str) -> str:
        return joined([self, right])

    def __radd__(self, left: str) -> str:
        return joined([left, self])

    def __bool__(self) -> bool:
        return bool(self.trace.result(bool, (self,), str.__len__(self) > 0))

    def __hash__(self) -> int:
        self.trace.spoil()
        return str.__hash__(self)

    def __repr__(self) -> str:
        # A list or mapping that is written puts its items' texts together unseen.
        self.trace.spoil()
        return str.__repr__(self)

    def __iter__(self) -> Iterator[str]:
        # Only a first element wanted counts: to ask whether a text can be iterated makes an iterator and drops it.
        self.trace.spoil()
        yield from str.__iter__(self)


class TracedLength:
    """How long a traced text is: compared, that is a condition; for anything else the very number is one.

    No integer, since functions of Python would read that unseen.
    """

    __slots__ = ("_of",)

    def __init__(self, text: TracedText) -> None:
        self._of = text

    @property
    def trace(self) -> Trace:
        """The text's."""
        return self._of.trace

    def __index__(self) -> int:
        return len(self._of)

    __int__ = __index__

    def __str__(self) -> str:
        return str(int(self))

    __repr__ = __str__

    def __hash__(self) -> int:
        return hash(int(self))

    def __bool__(self) -> bool:
        return bool(self._of)


def _comparing(name: str) -> Callable[[TracedLength, Any], Any]:
    compare = getattr(operator, name)

    def of_length(text: str, other: Any) -> Any:
        return compare(str.__len__(text), other)

    def method(self: TracedLength, other: Any) -> Any:
        value = compare(str.__len__(self._of), other)
        return self._of.trace.result(of_length, (self._of, other), value)

    return method


def _counting(name: str) -> Callable[[TracedLength, Any], Any]:
    return lambda self, other: getattr(int(self), name)(other)


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(TracedLength, _name, _comparing(_name))
for _name in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__mod__", "__floordiv__"):
    setattr(TracedLength, _name, _counting(_name))


def joined(texts: Iterable[str]) -> str:
    """Texts one after another, as `"".join` puts them together; traced where one of them is."""
    parts: list[Any] = []
    given = list(texts)
    trace = trace_of(given)
    if trace is None or not trace.is_open:
        return "".join([str.__str__(text) for text in given])
    for text in given:
        expression = expression_of(text)
        for part in expression.parts if type(expression) is Joined else (expression,):
            if type(part) is str and parts and type(parts[-1]) is str:
                parts[-1] += part
            elif part != "":
                parts.append(part)
    whole = "".join([str.__str__(text) for text in given])
    if len(parts) > MOST_CONDITIONS:
        trace.spoil()
    return TracedText.made(whole, trace, parts[0] if len(parts) == 1 else Joined(tuple(parts)))


def expression_of(value: Any) -> Any:
    """The expression of a traced text, or of what holds some; any other value as it is.

    A length becomes a number, and that a condition: kept as it is, it would be that of the old text for ever.
    """
    if isinstance(value, TracedText):
        return value.expression
    if isinstance(value, TracedLength):
        return int(value)
    if isinstance(value, slice):
        return slice(*map(expression_of, (value.start, value.stop, value.step)))
    if trace_of(value) is None:
        return value
    if isinstance(value, Mapping):
        return Structure(dict, tuple(value), tuple(map(expression_of, value.values())))
    return Structure(tuple if isinstance(value, tuple) else list, (), tuple(map(expression_of, value)))


def trace_of(value: Any) -> Trace | None:
    """The trace of a text or length, or of the first that a list or mapping holds; None where there is none."""
    if isinstance(value, (TracedText, TracedLength)):
        return value.trace
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            if (trace := trace_of(item)) is not None:
                return trace
    return None


def _traced(name: str) -> Callable[..., Any]:
    plain = getattr(str, name)

    def method(self: TracedText, *arguments: Any, **options: Any) -> Any:
        try:
            value = plain(self, *arguments, **options)
        except TypeError:
            raise  # says the same of any text
        except Exception:
            self.trace.spoil()
            raise
        if options:
            self.trace.spoil()
            return value
        return self.trace.result(plain, (self, *arguments), value)

    method.__name__ = name
    return method


_AS_THEY_ARE: Final = ("__new__", "__getattribute__", "__doc__", "__getnewargs__", "maketrans")

for _name in vars(str):
    if _name not in _AS_THEY_ARE and _name not in vars(TracedText):
        setattr(TracedText, _name, _traced(_name))
