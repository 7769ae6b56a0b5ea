"""The language of chat templates: Jinja as transformers sets it up, in a sandbox of a given kind."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chatenv_server.engine.controls import with_marks_as_they_are

_Sandbox = TypeVar("_Sandbox", bound=ImmutableSandboxedEnvironment)


def configured(sandbox: type[_Sandbox]) -> _Sandbox:
    """An environment of that kind, with all that chat templates may use."""
    environment = sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = write_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote, for masks; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance-wide set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def write_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`, as transformers has it."""
    # Jinja's own filter escapes HTML, which would change what the model reads.
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return with_marks_as_they_are(text) if ensure_ascii else text
