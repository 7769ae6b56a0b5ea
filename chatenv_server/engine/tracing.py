"""Sees what a chat template asks of a text while it is rendered.

Most templates only pass a message's text through. Where they look at it (`'</think>' in content`, `content | trim`),
what they write depends on a few answers. A text that takes note of the questions tells for which other texts a
template writes the same around it. Knows nothing of messages or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from jinja2 import nodes


class Question(NamedTuple):
    """A method of `str` that was called, and what it answered."""

    method: str
    arguments: tuple[Any, ...]
    answer: bool | int | None
    """None: the text itself, unchanged."""

    def is_answered_alike(self, text: str) -> bool:
        """Whether another text gives the same answer."""
        answer = getattr(text, self.method)(*self.arguments)
        return bool(answer == (text if self.answer is None else self.answer))


class Trace:
    """What was asked of one text."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.is_complete = True
        """Whether nothing else was done with the text but to write it as it is."""

    def note(self, method: str, arguments: tuple[Any, ...], answer: bool | int | None) -> None:
        """Note a question, if another text can be asked the same."""
        if all(map(_is_plain, arguments)):
            self.questions.append(Question(method, arguments, answer))
        else:
            self.is_complete = False


def _is_plain(argument: Any) -> bool:
    if type(argument) is tuple:
        return all(map(_is_plain, argument))
    return argument is None or type(argument) in (str, int, bool)


class TracedText(str):
    """A text, not empty, that notes in its trace what is asked of it.

    Whatever is put together with it is traced too, but may not be asked anything.
    """

    __slots__ = ("_is_whole", "_trace")

    _is_whole: bool
    _trace: Trace

    @classmethod
    def of(cls, text: str, trace: Trace) -> TracedText:
        """The text, traced."""
        return cls._made(text, trace, is_whole=True)

    @classmethod
    def _made(cls, text: str, trace: Trace, *, is_whole: bool) -> TracedText:
        traced = cls(text)
        traced._trace = trace
        traced._is_whole = is_whole
        return traced

    def spoil(self) -> None:
        """Note that something was done with the text that no other text can be asked about."""
        self._trace.is_complete = False

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        return True

    def __add__(self, right: str) -> str:
        return self._put_together(str.__add__(self, right), right)

    def __radd__(self, left: str) -> str:
        return self._put_together(str.__add__(left, self), left)

    def _put_together(self, text: str, other: str) -> str:
        if isinstance(other, TracedText):
            # Whoever asks about the whole asks about both, which only one of them would note.
            other.spoil()
            self.spoil()
        return self._made(text, self._trace, is_whole=False)

    def __iter__(self) -> Iterator[str]:
        # Only a first element wanted is a question: `is iterable` makes an iterator and drops it.
        self.spoil()
        yield from str.__iter__(self)


def _asking(name: str) -> Callable[..., Any]:
    def ask(self: TracedText, *arguments: Any) -> Any:
        answer = getattr(str, name)(self, *arguments)
        if self._is_whole and isinstance(answer, int):
            self._trace.note(name, arguments, answer)
        else:
            self.spoil()
        return answer

    return ask


def _trimming(name: str) -> Callable[..., str]:
    def trim(self: TracedText, *arguments: Any) -> str:
        trimmed: str = getattr(str, name)(self, *arguments)
        if self._is_whole and len(trimmed) == str.__len__(self):
            self._trace.note(name, arguments, None)
            return self
        self.spoil()
        return trimmed

    return trim


def _spoiling(name: str) -> Callable[..., Any]:
    def spoil(self: TracedText, *arguments: Any, **options: Any) -> Any:
        self.spoil()
        return getattr(str, name)(self, *arguments, **options)

    return spoil


_ASKED: Final = ("__contains__", "__eq__", "__ne__", "startswith", "endswith", "find", "count", "isspace")
_TRIMMED: Final = ("strip", "lstrip", "rstrip")
_LEFT_ALONE: Final = ("__new__", "__getattribute__", "__doc__", "maketrans")

for _name in vars(str):
    if _name in _ASKED:
        setattr(TracedText, _name, _asking(_name))
    elif _name in _TRIMMED:
        setattr(TracedText, _name, _trimming(_name))
    elif _name not in _LEFT_ALONE and _name not in vars(TracedText):
        setattr(TracedText, _name, _spoiling(_name))
TracedText.__hash__ = _spoiling("__hash__")  # type: ignore[method-assign]


# -- which templates can be traced --------------------------------------------------------------------

_UNSEEN: Final = (nodes.AssignBlock, nodes.CallBlock, nodes.FilterBlock)
"""They make plain text of a traced one, which the template could then ask unseen."""
_FILTERS: Final = frozenset(
    {"count", "d", "default", "first", "items", "last", "length", "list", "lower", "rejectattr", "selectattr"}
    | {"string", "tojson", "trim", "upper"}
)
_TESTS: Final = frozenset(
    {"==", "boolean", "defined", "eq", "equalto", "false", "iterable", "mapping", "ne", "none", "number", "sequence"}
    | {"string", "true", "undefined"}
)
_FUNCTIONS: Final = frozenset({"dict", "namespace", "raise_exception", "range", "strftime_now"})
_TEXT_METHODS: Final = frozenset(
    {*_TRIMMED, "count", "endswith", "find", "lower", "replace", "split", "startswith", "upper"}
)
_CONTAINER_METHODS: Final = frozenset({"append", "get", "items", "keys", "pop", "update", "values"})


def is_traceable(tree: nodes.Template) -> bool:
    """Whether a template can do nothing with a traced text that goes unseen.

    Jinja's filters are Python functions, some of which read a text without calling any of its methods; so only
    what is known to be seen counts.
    """
    written = set(map(id, _written(tree)))
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    return (
        next(tree.find_all(_UNSEEN), None) is None
        # A macro's result and `a ~ b` are plain text, too: not to be asked, only to be written.
        and all(id(node) in written for node in tree.find_all(nodes.Concat))
        and all(
            id(call) in written if _name_of(call) in macros else _is_seen(call) for call in tree.find_all(nodes.Call)
        )
        and all(map(_is_known, tree.find_all(nodes.Filter)))
        and all(node.name in _TESTS for node in tree.find_all(nodes.Test))
        and all(map(_asks_the_right, tree.find_all(nodes.Compare)))
    )


def _written(tree: nodes.Template) -> Iterator[nodes.Node]:
    """The expressions that are written as they are, and the parts they are put together from."""
    waiting = [node for output in tree.find_all(nodes.Output) for node in output.nodes]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, nodes.Add):
            waiting += [node.left, node.right]
        elif isinstance(node, nodes.Concat):
            waiting += node.nodes
        elif isinstance(node, nodes.CondExpr):
            waiting += [node.expr1, *([node.expr2] if node.expr2 is not None else [])]


def _name_of(call: nodes.Call) -> str:
    return call.node.name if isinstance(call.node, nodes.Name) else ""


def _is_known(node: nodes.Filter) -> bool:
    if node.name in ("rejectattr", "selectattr") and len(node.args) > 1:
        test = node.args[1]
        return isinstance(test, nodes.Const) and test.value in _TESTS
    return node.name in _FILTERS


def _is_seen(call: nodes.Call) -> bool:
    if _name_of(call) in _FUNCTIONS:
        return True
    if not isinstance(call.node, nodes.Getattr):
        return False
    if call.node.attr in _TEXT_METHODS:
        # A traced text that is an argument is not asked itself.
        return all(isinstance(argument, nodes.Const) for argument in call.args)
    return call.node.attr in _CONTAINER_METHODS


def _asks_the_right(compare: nodes.Compare) -> bool:
    """Whether no text on the left of `in` is looked for in another text."""
    literals = (nodes.List, nodes.Tuple, nodes.Dict)
    return all(
        operand.op not in ("in", "notin") or isinstance(compare.expr, nodes.Const) or isinstance(operand.expr, literals)
        for operand in compare.ops
    )
