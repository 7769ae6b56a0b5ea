"""Control tokens in a render that no text spells by itself: put together of several, or made by the template's filters.

Theory of operation. Texts are marked where they spell a control token (`controls.py`), so one that stands unmarked in a
render should be the template's own. It is not where texts side by side spell one (`<|im_` and `end|>`), where the
template makes one of a text (`<|IM_END|>` in small letters), and where it cut a mark off. `suspects.py` looks for signs
of that. A render that shows one is made again with the suspects traced (`provenance.py`), which tells what of it is the
template's own. What is not is marked, and so encoded as text, or refused under the policy `reject`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Final

from chatenv_client.errors import InvalidRequestError, TemplateRejectedError
from chatenv_client.models import ControlTokenPolicy
from chatenv_client.reasons import Reason
from chatenv_server.engine.bound_template import BoundTemplate
from chatenv_server.engine.controls import map_strings, mark_spans, strings_in
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.provenance import written_by_template
from chatenv_server.engine.suspects import Span

FORGED: Final = "texts side by side, or changed by the chat template, spelt control tokens, which were encoded as text"
"""What is reported where some were found."""
_HARMLESS: Final = "Zq7x"


class Forgeries:
    """Looks for forged control tokens in the renders of one bound template. Safe for threads."""

    def __init__(self, template: BoundTemplate) -> None:
        self._template = template
        self._source = template.chat_format.template
        self._controls = template.chat_format.controls
        self._policy = template.options.control_token_policy
        self._roles = self._source.settled_roles
        self._suspects = template.chat_format.suspects
        self._given: dict[bool, tuple[str, ...]] = {}

    def may_join(self, before: str, after: str) -> bool:
        """Whether a text between these two may become a part of a control token."""
        return self._suspects.may_join(before, after)

    def suspicious(self, messages: Iterable[PreparedMessage]) -> list[tuple[str, ...]]:
        """Of each message, the texts that may have a part in a forged control token, in whichever render it stands.

        Looked for once, they spare a render of many messages a look at all their texts.
        """
        if self._policy is ControlTokenPolicy.ALLOW:
            return [() for _ in messages]
        may_be = cache(self._suspects.may_be)  # keys and short texts come again and again
        return [tuple(filter(may_be, self._texts([message]))) for message in messages]

    def escaped(
        self,
        text: str,
        start: int,
        messages: Sequence[PreparedMessage],
        *,
        prompt: bool,
        local: bool,
        suspicious: Iterable[Sequence[str]] | None = None,
    ) -> str:
        """A render with every forged control token marked that stands after its first `start` characters.

        Args:
            text: what was rendered.
            start: what stands before it is left as it is.
            messages: what it was rendered from.
            prompt: whether it was rendered with the generation prompt.
            local: whether it was rendered by `render_local`, not by `render_opening`.
            suspicious: what `suspicious` gives of the messages, where that is known.

        Raises:
            InvalidRequestError: it holds forged ones and the policy is `reject`, or nothing tells which they are.
        """
        if self._policy is ControlTokenPolicy.ALLOW:
            return text
        spans = [(first + start, last + start) for first, last in self._controls.unmarked_in(text[start:])]
        if not spans:
            return text
        suspects = self._suspects_of(text, spans, messages, suspicious, local=local)
        if not suspects:
            return text
        if type(text) is not str:
            # A tail that is being recorded: what is forged in it may be none in another one, so it is not recorded.
            raise TemplateRejectedError("this render may hold forged control tokens", field="messages")
        forged = self._forged(text, spans, suspects, messages, prompt=prompt, local=local)
        if not forged:
            return text
        if self._policy is ControlTokenPolicy.REJECT:
            raise _refusal("texts side by side, or changed by the chat template, spell a control token")
        return mark_spans(text, forged)

    def _suspects_of(
        self,
        text: str,
        spans: Sequence[Span],
        messages: Sequence[PreparedMessage],
        suspicious: Iterable[Sequence[str]] | None,
        *,
        local: bool,
    ) -> set[str]:
        """The texts that may have made one of the control tokens."""
        if not self._suspects.are_known(text, spans):
            # Control tokens in a form that a normaliser undoes may have come from anywhere: hardly ever.
            every = chain(self._texts(messages), strings_in(self._template.given(local=local)))
            return set(filter(None, every))
        texts = self._texts(messages) if suspicious is None else chain.from_iterable(suspicious)
        return self._suspects.of(text, spans, {*texts, *self._suspicious_given(local=local)})

    def _suspicious_given(self, *, local: bool) -> tuple[str, ...]:
        """What `suspicious` gives of all that the template sees beside the messages, which stays as it is."""
        if local not in self._given:
            given = strings_in(self._template.given(local=local))
            self._given[local] = tuple(filter(self._suspects.may_be, given))
        return self._given[local]

    def _texts(self, messages: Iterable[PreparedMessage]) -> Iterator[str]:
        for message in messages:
            for key, value in message.items():
                if key != "role" or value not in self._roles:
                    yield key
                    yield from strings_in(value)

    def _forged(
        self,
        text: str,
        spans: Sequence[Span],
        suspects: Collection[str],
        messages: Sequence[PreparedMessage],
        *,
        prompt: bool,
        local: bool,
    ) -> list[Span]:
        """Those of the control tokens that are not the template's own."""
        variables = self._template.variables(local=local)
        own = written_by_template(self._source, text, spans, suspects, messages, variables, prompt=prompt)
        if own is not None:
            return [span for span in spans if span not in own]
        # Nothing shows where they come from. Are there as many where the suspects say something harmless?
        render = self._template.render_local if local else self._template.render_opening
        try:
            harmless = render([*self._harmless(messages, suspects)], prompt)
        except TemplateRejectedError:
            harmless = ""
        if len(self._controls.unmarked_in(harmless)) >= len(self._controls.unmarked_in(text)):
            return []
        raise _refusal("texts side by side, or changed by the chat template, may spell a control token")

    def _harmless(self, messages: Iterable[PreparedMessage], suspects: Collection[str]) -> Iterator[PreparedMessage]:
        def changed(text: str) -> str:
            return _HARMLESS if text in suspects else text

        for message in messages:
            yield {key: value if key == "role" else map_strings(value, changed) for key, value in message.items()}


def _refusal(problem: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{problem}; change the texts, or choose another control_token_policy",
        reason=Reason.CONTROL_TOKEN_IN_TEXT,
        field="messages",
    )
