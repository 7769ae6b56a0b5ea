"""What fidelity reports mean for whoever trains: to pages, to the doctor, and to docs/tokens.md (`make docs`)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from chatenv_client.models import FidelityKind


class Meaning(NamedTuple):
    """What a report says to whoever trains."""

    happened: str
    training: str
    """What it means for training."""
    advice: str
    """What to do."""

    @property
    def plain(self) -> str:
        """All of it in sentences, without Markdown."""
        said = f"{self.happened}. For training: {self.training}. What to do: {self.advice}."
        without_links = re.sub(r" \(\[[^]]*\]\([^)]*\)\)", "", said)
        return without_links[0].upper() + without_links[1:].replace("`", "")


MEANINGS: Final = {
    FidelityKind.HISTORY_REWRITTEN: Meaning(
        "the template would now write an earlier turn differently, or the header between two turns was never sampled",
        "the stream stays on-policy: it is what the model saw. A server that renders the history anew shows "
        "it something else",
        'accept it, choose template arguments that keep history, or `history_policy="segment"` '
        '([segments.md](segments.md)) or `"strict"`',
    ),
    FidelityKind.CONTENT_ALTERED: Meaning(
        "the template changed a given message's text, for example trimmed it",
        "none for sampled tokens; the model reads the altered text",
        "send the text as the template wants it",
    ),
    FidelityKind.MESSAGE_DROPPED: Meaning(
        "a message, its calls, its reasoning or the tools are not in the render",
        "the model answers what it never read",
        "another template or another message",
    ),
    FidelityKind.BOUNDARY_MERGE: Meaning(
        "encoding prompt and span together would merge text across the edge of a span",
        "re-tokenising the episode elsewhere gives other ids there",
        "keep to the ids; never re-tokenise",
    ),
    FidelityKind.CONTROL_TOKEN_ESCAPED: Meaning(
        "a text spelt a control token, by itself or with others, and was encoded as plain text",
        "nobody ends a turn from inside a message",
        'nothing, or `control_token_policy="reject"`',
    ),
    FidelityKind.NONCANONICAL_STOP: Meaning(
        "the span ends in another stop token than the template's, whose closer was left out",
        "the context holds the token that was sampled",
        "check the sampler's stop tokens",
    ),
    FidelityKind.TRUNCATED_TURN_CLOSED: Meaning(
        "the span has no stop token; the close was written as template tokens",
        "the close is masked out: the model is not taught to stop there",
        "raise the sampler's limit if it is frequent",
    ),
    FidelityKind.STOP_STRING_OVERLAP: Meaning(
        "the sampled text already held a part of the close",
        "that part stands once, as sampled",
        "nothing",
    ),
    FidelityKind.UNDECODABLE_TOKENS: Meaning(
        "the span is no valid text",
        "tokens are kept; the message shows U+FFFD",
        "nothing, or filter such episodes",
    ),
    FidelityKind.KWARG_UNUSED: Meaning(
        "the template never reads a template argument",
        "the argument has no effect",
        "check its spelling",
    ),
    FidelityKind.TOOL_CALL_MALFORMED: Meaning(
        "a call could not be read; it stays in `content`",
        "the tokens are untouched",
        "reward or punish it as the task wants",
    ),
    FidelityKind.TEXT_AFTER_STOP: Meaning(
        "the span goes on after a token that ends a turn, with a made-up user turn for instance",
        "it is in the stream and trained on; calls in it are not read",
        "give the sampler its stop tokens",
    ),
    FidelityKind.TOOL_RESULT_UNMATCHED: Meaning(
        "a tool's result answers no call of the assistant message before it: none was read there, or none has its id",
        "the template may leave the result out, or ask nobody to go on",
        "give the parsed message with the tokens; give the result the call's id",
    ),
}
"""By kind of report, in Markdown."""
