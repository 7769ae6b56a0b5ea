"""What one conversation showed of a tokenizer and its template: exact, reported, not taken, or wrong, and how."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from chatenv_client.models import FidelityKind, FidelityReport


class Verdict(enum.Enum):
    """How a scenario went."""

    EXACT = "exact"
    """Every stream was the full-history tokenisation."""
    REPORTED = "reported"
    """Some were not, each with a report that explains it."""
    NOT_TAKEN = "not taken"
    """The template rejects the conversation, and so did the engine."""
    INEXACT = "inexact"
    """Something was wrong and nothing said so."""


class FaultKind(enum.Enum):
    """What can be wrong without a report."""

    SILENT = "silent"
    """A stream is not the full rendering, and no report explains it."""
    WRONG_TAIL = "wrong_tail"
    """A report explains the difference, but what was appended is not what the template writes after the turn."""
    REFUSED = "refused"
    """A step was refused although the template takes the conversation."""
    LET_IN = "let_in"
    """A step was taken although the template rejects the conversation."""
    BROKEN = "broken"
    """The engine failed, changed what was sampled, or masked other tokens than those."""


class Fault(NamedTuple):
    """One thing that is wrong without a report."""

    kind: FaultKind
    sentence: str


@dataclass
class Examination:
    """What one scenario showed."""

    scenario: str
    exact_steps: int = 0
    steps: int = 0
    """Prompts that were compared, the first one included."""
    reports: list[FidelityReport] = field(default_factory=list)
    rejection: str = ""
    """The template's own words, where it rejects the conversation."""
    faults: list[Fault] = field(default_factory=list)
    """What is wrong without a report."""
    needless: list[str] = field(default_factory=list)
    """Reports of inexactness about streams that are exact."""
    misread: list[str] = field(default_factory=list)
    """Sampled turns that were read as other messages than those they were written from."""

    @property
    def verdict(self) -> Verdict:
        """The worst of it."""
        if self.faults:
            return Verdict.INEXACT
        if self.rejection:
            return Verdict.NOT_TAKEN
        return Verdict.EXACT if self.exact_steps == self.steps else Verdict.REPORTED

    @property
    def kinds(self) -> tuple[FidelityKind, ...]:
        """Kinds of the reports, in the order of first appearance."""
        return tuple(dict.fromkeys(report.kind for report in self.reports))
