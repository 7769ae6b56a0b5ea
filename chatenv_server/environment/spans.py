"""Sampled spans of actions, as a log takes them.

Each is checked against what is on record: the prompt that it was sampled from, and the columns of the tokens before it.
"""

from __future__ import annotations

from chatenv_client.errors import PromptMismatchError
from chatenv_client.models import ChatAction, as_stop_reason, own_message
from chatenv_client.tokens import runs_of_mask
from chatenv_server.engine import EpisodeLog
from chatenv_server.engine.conversation import NO_NOTES, SpanNotes
from chatenv_server.environment.columns import checked_columns
from chatenv_server.environment.journal import Sampled


def sampled_span(action: ChatAction, log: EpisodeLog) -> Sampled:
    """The span of an action, as its episode's log takes it.

    Raises:
        PromptMismatchError: it was sampled from another prompt.
        InvalidRequestError: its columns do not fit the segment.
    """
    if action.prompt_fingerprint and action.prompt_fingerprint != log.fingerprint():
        raise PromptMismatchError(
            "these tokens were sampled from another prompt than the one on record; read the state and sample again",
            details={
                "expected_fingerprint": log.fingerprint(),
                "received_fingerprint": action.prompt_fingerprint,
            },
        )
    notes = SpanNotes(action.model_version) if action.model_version else NO_NOTES
    if action.mask is not None or action.model_version_runs:
        notes = _notes_with_runs(action)
    if action.extras or action.amended_extras:
        notes = notes._replace(columns=checked_columns(action, log))
    return Sampled(
        action.tokens,
        action.logprobs if len(action.tokens) else None,
        None if action.stop_reason is None else as_stop_reason(action.stop_reason),
        notes,
        None if action.message is None else own_message(action.message),
    )


def _notes_with_runs(action: ChatAction) -> SpanNotes:
    """What an action says of its span, with the last of its versions as that of the whole."""
    runs = action.model_version_runs
    sampled = () if action.mask is None or action.mask.all() else runs_of_mask(action.mask)
    return SpanNotes(runs[-1][0] if runs else action.model_version, runs, sampled)
