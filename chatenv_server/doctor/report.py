"""What the doctor says: for a person, and as JSON for a program."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

from chatenv_client.viewing.meanings import MEANINGS
from chatenv_server.doctor.checkup import Checkup
from chatenv_server.doctor.examination import Examination, Verdict
from chatenv_server.doctor.facts import TemplateFacts

_PLAIN: Final = (
    "This tokenizer has no chat template. A plain one was examined, which no model was trained on: each role and a "
    "colon, the text, an empty line. The server uses it, too, unless it is started with --require-template."
)

_SIGNS: Final = {
    Verdict.EXACT: "exact",
    Verdict.REPORTED: "reported",
    Verdict.NOT_TAKEN: "not taken",
    Verdict.INEXACT: "INEXACT",
}


def as_text(checkup: Checkup) -> str:
    """The report on one tokenizer, for a person."""
    if checkup.refusal:
        return f"{checkup.name}: {_conclusion(checkup)}\n"
    lines = [
        f"{checkup.name}: {checkup.vocabulary_size:,} tokens, template {checkup.template_fingerprint[:12] or '(none)'}"
    ]
    if checkup.lacks_template:
        lines += ["", *textwrap.wrap(_PLAIN, 100)]
    if checkup.facts is not None:
        lines += ["", "The template", *_facts(checkup.facts)]
    lines += ["", "Against full-history apply_chat_template", *_scenarios(checkup.examinations)]
    if checkup.kinds:
        lines += ["", "What the reports mean for training"]
        lines += [line for kind in checkup.kinds for line in _item(kind.value, MEANINGS[kind].plain)]
    return "\n".join([*lines, "", _gain(checkup), _conclusion(checkup), ""])


def as_json(checkup: Checkup) -> dict[str, Any]:
    """The same facts as a JSON object."""
    return {
        "tokenizer": checkup.name,
        "vocabulary_size": checkup.vocabulary_size,
        "tokenizer_fingerprint": checkup.tokenizer_fingerprint,
        "template_fingerprint": checkup.template_fingerprint,
        "exact_path": checkup.exact_path,
        "lacks_template": checkup.lacks_template,
        "refusal": checkup.refusal,
        "template": None if checkup.facts is None else dataclasses.asdict(checkup.facts),
        "scenarios": [_scenario_json(one) for one in checkup.examinations],
        "counts": counts(checkup),
        "meanings": {kind.value: MEANINGS[kind]._asdict() for kind in checkup.kinds},
        "segments": _segments_json(checkup),
        "sound": checkup.sound,
    }


def as_rows(checkups: Sequence[Checkup]) -> str:
    """One row each, for a person."""
    header = ("", "exact", "reported", "not taken", "inexact", "parser", "reports")
    rows: list[tuple[str, ...]] = [header]
    for checkup in checkups:
        numbers = counts(checkup)
        parser = checkup.facts.turn_parser if checkup.facts else "verbatim"
        figures = [str(numbers[verdict.value]) for verdict in Verdict]
        rows.append((checkup.name, *figures, parser, _listed((kind.value for kind in checkup.kinds), "")))
    wrong = [checkup for checkup in checkups if not checkup.sound]
    sentences = [f"{checkup.name}: {_why_unsound(checkup)}" for checkup in wrong]
    return "\n".join([*_table(rows), "", *(sentences or ["Every step is exact, or says why not."]), ""])


def counts(checkup: Checkup) -> dict[str, int]:
    """How many scenarios went which way."""
    return {verdict.value: sum(one.verdict is verdict for one in checkup.examinations) for verdict in Verdict}


def _scenario_json(one: Examination) -> dict[str, Any]:
    return {
        "name": one.scenario,
        "verdict": one.verdict.value,
        "steps": one.steps,
        "exact_steps": one.exact_steps,
        "reports": [kind.value for kind in one.kinds],
        "rejection": one.rejection,
        "faults": [{"kind": fault.kind.value, "sentence": fault.sentence} for fault in one.faults],
        "needless_reports": one.needless,
        "misread_turns": one.misread,
    }


def _facts(facts: TemplateFacts) -> list[str]:
    shown = [
        (
            "generation prompt",
            repr(facts.generation_prompt) + (", which opens a thought" if facts.opens_a_thought else ""),
        ),
        ("turns end in", _listed(map(repr, facts.stop_tokens))),
        ("closes turns with", _listed(map(repr, facts.closers), "no token: a turn ends where the next role begins")),
        ("reads turns as", "text, verbatim" if facts.turn_parser == "verbatim" else facts.turn_parser),
        ("takes", _listed(facts.takes)),
        ("content", f"a list of parts for {_listed(facts.content_as_parts)}" if facts.content_as_parts else "a string"),
        ("call arguments", "JSON text" if facts.arguments_as_text else "an object"),
        ("default prompt", repr(facts.default_system) if facts.default_system else "none"),
        ("date", "depends on the day; give the episode a clock" if facts.tells_the_time else "does not matter"),
        ("trims the text of", _listed(facts.trims, "nobody")),
        ("a tail depends on", _listed(facts.depends_on, "the turn before it alone")),
        ("looks in texts for", _listed(map(repr, facts.looks_for))),
        ("arguments", _listed(facts.arguments, "none")),
    ]
    lines = [line for label, words in shown for line in _item(label, words)]
    lines += [
        line for index, words in enumerate(facts.rewrites) for line in _item("" if index else "in history", words)
    ]
    return lines + [line for shape, words in facts.rejects.items() for line in _item(f"rejects {shape}", f'"{words}"')]


def _scenarios(examinations: Sequence[Examination]) -> list[str]:
    rows = []
    for one in examinations:
        words = (
            f'"{one.rejection}"'
            if one.verdict is Verdict.NOT_TAKEN
            else _listed((kind.value for kind in one.kinds), "")
        )
        rows.append((one.scenario, _SIGNS[one.verdict], f"{one.exact_steps}/{one.steps}", words))
    lines = _table([("scenario", "verdict", "exact", "reports"), *rows])
    for one in examinations:
        for fault in one.faults:
            lines += _item(f"{one.scenario}: INEXACT", fault.sentence)
        for sentence in dict.fromkeys(one.misread):
            lines += _item(f"{one.scenario}: misread", sentence)
        for sentence in dict.fromkeys(one.needless):
            lines += _item(f"{one.scenario}: needless report", sentence)
    return lines


def _conclusion(checkup: Checkup) -> str:
    numbers = counts(checkup)
    figures = ", ".join(f"{number} {verdict}" for verdict, number in numbers.items() if number)
    if checkup.sound:
        return f"{figures}. Every step is exact, or says why not."
    return f"{figures}. Do not train on this: {_why_unsound(checkup)}.".removeprefix(". ")


def _why_unsound(checkup: Checkup) -> str:
    if checkup.refusal:
        return checkup.refusal
    if checkup.unplayable:
        return "no conversation comes as far as an answer, so nothing is known of the streams"
    return "a stream is not what the template writes, and nothing says so"


def _gain(checkup: Checkup) -> str:
    """What the policy `segment` gains."""
    appended, segmented, steps = checkup.exact_under_segment
    if appended == segmented:
        return "history_policy 'segment' gains nothing here: 'append' gives the same prompts."
    return (
        f"history_policy 'segment' gains {segmented - appended} prompts: {segmented} of {steps} are the full "
        f"rendering, and {appended} under 'append'."
    )


def _segments_json(checkup: Checkup) -> dict[str, int]:
    appended, segmented, steps = checkup.exact_under_segment
    return {"prompts": steps, "exact_under_append": appended, "exact_under_segment": segmented}


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    width = max(80, shutil.get_terminal_size((120, 24)).columns)
    return [line if len(line) <= width else line[: width - 3] + "..." for line in lines]


def _item(label: str, words: str) -> list[str]:
    width = max(80, min(120, shutil.get_terminal_size((120, 24)).columns))
    lead = f"  {label.ljust(22)}  "
    return textwrap.wrap(words, width, initial_indent=lead, subsequent_indent=" " * 26, break_on_hyphens=False)


def _listed(words: Iterable[str], none: str = "none") -> str:
    return ", ".join(words) or none
