"""What the tails of a chat template depend on under one episode's options, as the probe found it out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What has to be rendered before the last turn for its tail to come out right. Immutable."""

    system: bool
    """Whether a tail depends on the system prompt."""
    tools: bool
    """Whether a tail depends on the tools."""
    clock: bool
    """Whether a tail depends on the time that the template sees."""
    skeleton: bool
    """Whether a tail depends on the roles and calls before the last assistant turn."""
    skeleton_under_system: bool
    """Whether it does so where the conversation begins with a system prompt."""
    texts: bool
    """Whether it depends on what those messages say, beyond the texts that the template is seen to look for."""
    rounds_are_alike: bool
    """Whether further questions and answers of plain text change no tail after two in a row. False where no skeleton is
    needed: nobody asks."""
    forgets: bool
    """Whether the template writes an assistant turn differently once later turns have come."""
    forgets_late: bool
    """Whether it does so even where a user has answered the turn already."""
