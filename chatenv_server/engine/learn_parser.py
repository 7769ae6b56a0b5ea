"""Learns the reader of sampled turns from the template's own renders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from chatenv_server.engine.parsing import TurnParser, learn_reader
from chatenv_server.engine.probe_messages import HEAD_TEXT, SENTINEL, assistant, user


def without_close(text: str, message: Mapping[str, Any], stop_texts: Sequence[str]) -> str:
    """A rendered last turn without what closes it: from the first stop token after all that the message says.

    A template may write the beginning of the next turn after it.
    """
    said = max((text.rfind(leaf) + len(leaf) for leaf in _texts_in(message) if leaf in text), default=None)
    if said is None:  # the template leaves all of it out
        bare = text.rstrip()
        return next((bare.removesuffix(stop) for stop in stop_texts if bare.endswith(stop)), text)
    ends = [found for stop in stop_texts if (found := text.find(stop, said)) >= 0]
    return text[: min(ends)] if ends else text


_TELLING: Final = 4
"""Characters from which on a text is not found in a template's own by chance."""


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in a message that a turn may show as they are."""
    if isinstance(value, str):
        if len(value) >= _TELLING:
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("role", "type"):
                yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def learn_parser(
    render: Callable[[Sequence[Mapping[str, Any]], bool], str | None], stop_texts: Sequence[str]
) -> TurnParser:
    """The parser for sampled turns.

    Args:
        render: (messages, add_generation_prompt) -> text, None where the template rejects them.
        stop_texts: texts of the tokens that may close a turn.
    """
    closed = _after_user(render([user(), assistant(SENTINEL)], False) or "").rpartition(SENTINEL)[2]
    before_stop = min((closed.partition(stop)[0] for stop in stop_texts if stop in closed), key=len, default="")

    def write(message: Mapping[str, Any]) -> str | None:
        whole = render([user(), message], False)
        if whole is None:
            return None
        # A turn is read without all of its close, and not only without the stop token.
        return without_close(_after_user(whole), message, stop_texts).removesuffix(before_stop)

    # Where no stop token ends a turn, what closes a plain one closes one of calls, too: no model samples it there.
    close = "" if any(stop in closed for stop in stop_texts) else closed
    return learn_reader(write, _after_user(render([user()], True) or ""), close)


def _after_user(text: str) -> str:
    """What stands after the user's text; what stands before it may depend on who speaks last."""
    return text.rpartition(HEAD_TEXT)[2]
