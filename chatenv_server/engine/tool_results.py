"""Results of tools that answer no call: a template renders them all the same, as if nothing were missing."""

from __future__ import annotations

from collections.abc import Sequence

from chatenv_client.models import FidelityKind, FidelityReport, Message


def unmatched_results(turn: Message, messages: Sequence[Message], first: int, *, by_id: bool) -> list[FidelityReport]:
    """A report for every result that answers no call of the assistant message before it.

    Args:
        turn: the sampled turn before the messages.
        messages: the messages.
        first: index of the first of them in the conversation.
        by_id: whether the template looks at the ids of results. Where it does not, any id will do.
    """
    reports = []
    calls = turn.get("tool_calls") or ()
    for index, message in enumerate(messages, start=first):
        if message.get("role") == "assistant":
            calls = message.get("tool_calls") or ()
        elif message.get("role") == "tool":
            answered = message.get("tool_call_id")
            ids = [call.get("id") for call in calls]
            if not calls:
                detail = "this result answers no call: the assistant's turn before it has none"
                reports.append(FidelityReport(FidelityKind.TOOL_RESULT_UNMATCHED, detail, message_index=index))
            elif by_id and answered is not None and None not in ids and answered not in ids:
                detail = "this result has the id of no call in the assistant's turn before it"
                reports.append(FidelityReport(FidelityKind.TOOL_RESULT_UNMATCHED, detail, message_index=index))
    return reports
