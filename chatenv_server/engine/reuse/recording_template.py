"""A chat template that is rendered with traced texts, so that nothing it does with them goes unseen.

Jinja runs functions and operators of Python, some of which read a text without calling any of its methods. Each of them
is either known to be seen, or replaced here by one that is, or spoils the trace: what is not known is not trusted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sequence, ValuesView
from functools import lru_cache, partial, wraps
from types import GeneratorType
from typing import Any, Final

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from chatenv_server.engine.reuse.traced_text import (
    Trace,
    TracedLength,
    TracedText,
    joined,
    trace_of,
)
from chatenv_server.engine.template_language import configured, write_json

MOST_TEMPLATES: Final = 64
"""Templates that are kept compiled. A server has one or two."""
_SEEN_FILTERS: Final = frozenset(
    {"capitalize", "d", "default", "dictsort", "first", "items", "last", "list", "lower", "map"}
    | {"reject", "rejectattr", "select", "selectattr", "string", "upper"}
)
"""They ask a text through its methods, or not at all."""
_SEEN_TESTS: Final = frozenset(
    {"!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "eq", "equalto", "false", "float", "ge", "greaterthan"}
    | {"gt", "le", "lessthan", "lt", "mapping", "ne", "none", "string", "true", "undefined"}
)
_JINJAS_OWN: Final = frozenset({"_loop_vars", "_block_vars"})
"""Arguments that Jinja adds to every call."""
_RUN_THROUGH_ONCE: Final = (GeneratorType, ItemsView, KeysView, ValuesView)
"""Values that hide the texts that they hold until somebody takes them out."""
_SEEN_CALLS: Final = frozenset({dict, Namespace})
_SEEN_OWNERS: Final = (TracedText, list, dict, Namespace)
"""Types whose methods ask a text through its own."""


class _Recorder(CodeGenerator):
    """Writes calls of the environment for the operators that would read a text unseen."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - named by Jinja
        self.write("environment.concat([")
        for part in node.nodes:
            self.write("str(")
            self.visit(part, frame)
            self.write("), ")
        self.write("])")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802 - named by Jinja
        if len(node.ops) != 1 or node.ops[0].op not in ("in", "notin"):
            super().visit_Compare(node, frame)
            return
        self.write("environment.lacks(" if node.ops[0].op == "notin" else "environment.holds(")
        self.visit(node.expr, frame)
        self.write(", ")
        self.visit(node.ops[0].expr, frame)
        self.write(")")


class RecordingEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which whatever is done with a traced text is seen or spoils its trace."""

    code_generator_class = _Recorder
    intercepted_binops = frozenset({"%", "*"})
    concat = staticmethod(joined)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = _spoiling_but(_SEEN_FILTERS, self.filters)
        self.filters |= {"count": _length, "join": _join, "length": _length, "replace": _replace, "trim": _trim}
        plain: dict[str, Any] = dict(self.tests)
        self.tests = _spoiling_but(_SEEN_TESTS, plain)
        # They would count the letters of a text to find out, and all texts are sequences.
        self.tests |= {name: _is_or(TracedText, plain[name]) for name in ("iterable", "sequence")}
        self.tests |= {name: _is_or(TracedLength, plain[name]) for name in ("integer", "number")}
        self.tests["in"] = self.holds

    def holds(self, needle: Any, haystack: Any) -> bool:
        """The operator `in`."""
        found = needle in haystack
        if isinstance(needle, TracedText) and type(haystack) is str:
            return bool(needle.trace.result(operator.contains, (haystack, needle), found))
        return found

    def lacks(self, needle: Any, haystack: Any) -> bool:
        """The operator `not in`."""
        return not self.holds(needle, haystack)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call in a template."""
        args = tuple([*value] if isinstance(value, _RUN_THROUGH_ONCE) else value for value in args)
        given = {name: value for name, value in kwargs.items() if name not in _JINJAS_OWN}
        trace = trace_of((args, given))
        value = super().call(context, called, *args, **kwargs)
        if trace is None or isinstance(called, Macro) or called in _SEEN_CALLS:
            return value
        owner = getattr(called, "__self__", None)
        if type(owner) is str and not given and called.__name__ != "format":
            return trace.result(getattr(str, called.__name__), (owner, *args), value)
        if not isinstance(owner, _SEEN_OWNERS):
            trace.spoil()
        return value

    def call_binop(self, context: Context, operation: str, left: Any, right: Any) -> Any:
        """An operator between two values."""
        value = super().call_binop(context, operation, left, right)
        trace = trace_of((left, right))
        if trace is None or isinstance(left, TracedText):
            return value
        return trace.result(self.binop_table[operation], (left, right), value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandbox's own way to format, which reads the text unseen."""
        owner = getattr(value, "__self__", None)
        if isinstance(owner, TracedText) and value.__name__ in ("format", "format_map"):
            owner.trace.spoil()
            value = getattr(str.__str__(owner), value.__name__)
        return super().wrap_str_format(value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A subscript in a template."""
        if isinstance(argument, TracedText):
            argument.trace.spoil()
        return super().getitem(obj, argument)


class RecordingTemplate:
    """A chat template, compiled so that it can be rendered with traced texts. Safe for threads."""

    def __init__(self, source: str) -> None:
        self._template = _ENVIRONMENT.from_string(source)

    def render(
        self, trace: Trace, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], prompt: bool
    ) -> str | None:
        """The text of messages that hold the trace's texts; None where the template fails.

        Nothing tells that it would fail for other texts, too, or that an error here is not the tracing's own.
        """
        try:
            with trace.opened():
                return self._template.render({**variables, "messages": messages, "add_generation_prompt": prompt})
        except Exception:  # noqa: BLE001 - whatever failed, nothing is learnt from it
            return None


@lru_cache(maxsize=MOST_TEMPLATES)
def recording_template(source: str) -> RecordingTemplate:
    """The same for all who render a template; compiled when it is first asked for, which takes some 10 ms."""
    return RecordingTemplate(source)


def _spoiling_but(seen: frozenset[str], functions: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    return {name: function if name in seen else _spoiling(function) for name, function in functions.items()}


def _spoiling(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # keeps what Jinja noted on the function: which of its own arguments it wants first
    def asked(*arguments: Any, **options: Any) -> Any:
        trace = trace_of((arguments, options))
        if trace is not None:
            trace.spoil()
        return function(*arguments, **options)

    return asked


def _is_or(kind: type[Any], test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind) or test(value)


def _length(value: Any) -> Any:
    return TracedLength(value) if isinstance(value, TracedText) and value.trace.is_open else len(value)


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> Any:
    return _followed(str.replace, str(text), str(old), str(new), -1 if count is None else count)


def _trim(text: Any, characters: str | None = None) -> Any:
    return _followed(str.strip, str(text), characters)


def _followed(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a function that gives a text, whichever of its arguments is traced."""
    value, trace = function(*arguments), trace_of(arguments)
    return value if trace is None else trace.result(function, arguments, value)


def _join(items: Any, separator: str = "", attribute: Any = None) -> str:
    texts = [str(item if attribute is None else item[attribute]) for item in items]
    return joined([part for text in texts for part in (separator, text)][1:])


def _tojson(value: Any, *arguments: Any, **options: Any) -> str:
    text: str = _followed(partial(write_json, **options), value, *arguments)
    return text


_ENVIRONMENT = configured(RecordingEnvironment)
_ENVIRONMENT.filters["tojson"] = _tojson
