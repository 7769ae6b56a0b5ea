"""Which parts of a render are the template's own, told by rendering it once more with certain texts traced."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from chatenv_server.engine.controls import map_strings
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.reuse.recording_template import recording_template
from chatenv_server.engine.reuse.traced_text import Applied, Joined, Texts, Trace, expression_of, value_of
from chatenv_server.engine.template import ChatTemplate

_CUT_ENDS: Final = (str.strip, str.lstrip, str.rstrip)


def written_by_template(
    template: ChatTemplate,
    text: str,
    spans: Sequence[tuple[int, int]],
    suspects: Collection[str],
    messages: Sequence[PreparedMessage],
    variables: Mapping[str, Any],
    *,
    prompt: bool,
) -> set[tuple[int, int]] | None:
    """Those of some parts of a render in which no suspect takes part; None where nothing tells.

    Args:
        text: the render.
        spans: the parts of it.
        suspects: the strings that are traced wherever they stand.
        messages: what was rendered.
        variables: what the template saw beside the messages.
        prompt: whether it was rendered with the generation prompt.
    """
    texts = list(suspects)
    trace = Trace(texts)
    traced = dict(zip(texts, trace.texts, strict=True))

    def as_traced(own: str) -> str:
        return traced.get(own, own)

    watched = [
        {
            key: value if key == "role" and value in template.settled_roles else map_strings(value, as_traced)
            for key, value in message.items()
        }
        for message in messages
    ]
    seen = {name: map_strings(value, as_traced) for name, value in variables.items()}
    written = recording_template(template.source).render(trace, watched, seen, prompt)
    if written is None or not trace.is_complete or str.__ne__(written, text):
        return None
    literals = _literals(_pieces(expression_of(written), texts))
    return {(start, stop) for start, stop in spans if any(first <= start and stop <= last for first, last in literals)}


def _literals(pieces: Iterable[tuple[str, bool]]) -> list[tuple[int, int]]:
    """Where the template's own text stands, without a break."""
    found: list[tuple[int, int]] = []
    position = 0
    for piece, is_literal in pieces:
        start, position = position, position + len(piece)
        if is_literal and found and found[-1][1] == start:
            found[-1] = (found[-1][0], position)
        elif is_literal:
            found.append((start, position))
    return found


def _pieces(expression: Any, texts: Texts) -> Iterator[tuple[str, bool]]:
    """The text of an expression in pieces of (text, whether it is the template's own)."""
    if type(expression) is str:
        yield expression, True
    elif type(expression) is Joined:
        for part in expression.parts:
            yield from _pieces(part, texts)
    elif type(expression) is Applied and expression.function in _CUT_ENDS:
        yield from _cut_out(expression, texts)
    else:
        yield str(value_of(expression, texts)), False


def _cut_out(expression: Applied, texts: Texts) -> Iterator[tuple[str, bool]]:
    """The pieces of a text of which something was cut off at its ends."""
    whole = expression.arguments[0]
    kept = str(value_of(expression, texts))
    start = str(value_of(whole, texts)).find(kept)
    position = 0
    for piece, is_literal in _pieces(whole, texts):
        first, last = max(position, start), min(position + len(piece), start + len(kept))
        if first < last:
            yield piece[first - position : last - position], is_literal
        position += len(piece)
