"""A filled template that renders as little as it can: what an earlier render showed is put together anew.

Two conversations have the same shape if they differ in nothing but texts. The second one of a shape is rendered with
traced texts (`traced_text.py`), which leaves a recording: the conditions that the template tested, and what it wrote as
literal pieces and expressions. A later one that meets the conditions is written off the recording, in microseconds. The
law: with everything recorded, every render is what it would be without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from chatenv_server.engine.reuse.recording import Recording, shape_of, with_texts
from chatenv_server.engine.reuse.recording_template import recording_template
from chatenv_server.engine.reuse.recordings import Recordings
from chatenv_server.engine.reuse.traced_text import Texts, Trace, TracedText
from chatenv_server.engine.template import ChatTemplate, FilledTemplate

MOST_MESSAGES: Final = 64
"""Messages of a conversation that is recorded; a longer one is seldom met twice."""


class ReusingTemplate:
    """A chat template with its variables, as `FilledTemplate`. Safe for threads."""

    def __init__(self, template: ChatTemplate, variables: Mapping[str, Any]) -> None:
        self._rendered = FilledTemplate(template, variables)
        self._source = template.source
        self._variables = variables
        self._recordings: Recordings[Recording] = Recordings()

    def render(self, messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
        """The text of a conversation, with the generation prompt or without. Raises TemplateRejectedError."""
        if len(messages) > MOST_MESSAGES:
            return self._rendered.render(messages, prompt)
        texts: list[str] = []
        known = self._recordings.of((prompt, *[shape_of(message, texts) for message in messages]))
        for recording in known.recordings:
            written = recording.written_for(texts)
            if written is not None:
                return written
        text = self._rendered.render(messages, prompt)
        known.learn(lambda: self._record(messages, prompt, texts, text))
        return text

    def reuses(self, messages: Sequence[Mapping[str, Any]], prompt: bool) -> bool:
        """Whether what the template writes for such messages can be put together anew. Raises TemplateRejectedError."""
        texts: list[str] = []
        for message in messages:
            shape_of(message, texts)
        return self._record(messages, prompt, texts, self._rendered.render(messages, prompt)) is not None

    def _record(self, messages: Sequence[Mapping[str, Any]], prompt: bool, texts: Texts, text: str) -> Recording | None:
        trace = Trace(texts)
        remaining = iter(trace.texts)
        traced = [with_texts(message, remaining) for message in messages]
        written = recording_template(self._source).render(trace, traced, self._variables, prompt)
        if written is None or not trace.is_complete or str.__ne__(written, text):
            return None
        return Recording(tuple(trace.conditions), written.expression if isinstance(written, TracedText) else text)
