"""One tokenizer's check-up: what its template does, and how the scenarios went."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chatenv_client.models import FidelityKind
from chatenv_server.doctor.examination import Examination, Verdict
from chatenv_server.doctor.examine import examine, examine_segments
from chatenv_server.doctor.facts import TemplateFacts, read_facts
from chatenv_server.doctor.reference import Reference
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.doctor.task_checkup import TaskCheckup, check_task
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.template_check import NoChatTemplateError
from chatenv_server.tasks.choice import Tasks
from chatenv_server.tokenizer_files.loading import TokenizerError, load_tokenizer, read_chat_template

_BORROWED_VOCABULARY: Final = "gpt2"
"""Folder of the vocabulary that templates without a tokenizer are put on, where it is there."""


@dataclass(frozen=True)
class Checkup:
    """All that was found out."""

    name: str
    vocabulary_size: int
    tokenizer_fingerprint: str
    template_fingerprint: str
    exact_path: bool
    facts: TemplateFacts | None
    """None for a tokenizer that is only known by `apply_chat_template` and `decode`."""
    lacks_template: bool
    """Whether the tokenizer has no chat template, so that a plain one was examined."""
    examinations: list[Examination]
    segmented: list[Examination]
    """Those that were not exact throughout, once more under the policy `segment`."""
    refusal: str = ""
    """Why there was nothing to examine: the template is none."""

    @property
    def unplayable(self) -> bool:
        """Whether no conversation came as far as an answer, so that nothing is known of the streams."""
        return not any(one.steps > 1 for one in self.examinations)

    @property
    def kinds(self) -> tuple[FidelityKind, ...]:
        """Kinds of all reports, in the order of first appearance."""
        return tuple(dict.fromkeys(kind for one in self.examinations for kind in one.kinds))

    @property
    def exact_under_segment(self) -> tuple[int, int, int]:
        """How many prompts are the full rendering: under `append`, under `segment`, of how many."""
        again = {one.scenario: one for one in self.segmented}
        exact = sum(one.exact_steps for one in self.examinations)
        segmented = sum(again.get(one.scenario, one).exact_steps for one in self.examinations)
        return exact, segmented, sum(one.steps for one in self.examinations)

    @property
    def sound(self) -> bool:
        """Whether conversations were played, and nothing in them is inexact without a report."""
        return not self.unplayable and all(one.verdict is not Verdict.INEXACT for one in self.examinations)


def check(name: str, tokenizer: Any, chat_template: str | None = None) -> Checkup:
    """Examine a tokenizer, with its own chat template or another.

    Raises:
        TokenizerError: it is no tokenizer, or the template is not valid Jinja.
    """
    try:
        engine = _load(tokenizer, chat_template)
    except NoChatTemplateError as error:
        return _refused(name, str(error))
    chat_format, reference = engine.chat_format, Reference(tokenizer, chat_template)
    examinations = examine(engine, reference)
    return Checkup(
        name=name,
        vocabulary_size=engine.vocabulary_size,
        tokenizer_fingerprint=engine.tokenizer_fingerprint,
        template_fingerprint=engine.template_fingerprint,
        exact_path=engine.exact,
        facts=read_facts(chat_format) if chat_format is not None else None,
        lacks_template=engine.lacks_template,
        examinations=examinations,
        segmented=examine_segments(engine, reference, examinations),
    )


def check_task_on(
    name: str, tokenizer: Any, tasks: Tasks, task_args: Mapping[str, Any], chat_template: str | None = None
) -> TaskCheckup:
    """Play a task on a tokenizer, with its own chat template or another.

    Raises:
        TokenizerError: it is no tokenizer, or the template is none.
    """
    try:
        engine = _load(tokenizer, chat_template)
    except NoChatTemplateError as error:
        raise TokenizerError(str(error)) from error
    return check_task(engine, Reference(tokenizer, chat_template), tasks, name, task_args)


def _load(tokenizer: Any, chat_template: str | None) -> TokenEngine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a plain template is used; the report shows it
        try:
            return TokenEngine.load(tokenizer, chat_template=chat_template)
        except NoChatTemplateError:
            raise
        except (TypeError, ValueError) as error:
            raise TokenizerError(str(error)) from error


def _refused(name: str, why: str) -> Checkup:
    return Checkup(name, 0, "", "", True, None, False, [], [], refusal=why)


def check_folder(folder: Path, begun: Callable[[int, int, str], None] = lambda *_: None) -> Iterator[Checkup]:
    """Examine every tokenizer in FOLDER/tokenizers and every template in FOLDER/templates.

    Args:
        folder: where they are.
        begun: told before each of them which one of how many it is, from 1, and its name.

    Raises:
        TokenizerError: there is nothing to examine, or one of the folders is no tokenizer.
    """
    tokenizers = sorted(path for path in folder.glob("tokenizers/*") if path.is_dir())
    templates = sorted(folder.glob("templates/*.jinja"))
    if not tokenizers and not templates:
        raise TokenizerError(
            f"there is nothing to examine in {str(folder)!r}: put tokenizer folders into tokenizers/, "
            "or chat templates into templates/*.jinja"
        )
    count = len(tokenizers) + len(templates)
    for number, path in enumerate(tokenizers, start=1):
        begun(number, count, path.name)
        yield check(path.name, load_tokenizer(str(path)))
    borrowed = folder / "tokenizers" / _BORROWED_VOCABULARY
    vocabulary = load_tokenizer(str(borrowed)) if borrowed.is_dir() and templates else None
    for number, path in enumerate(templates, start=len(tokenizers) + 1):
        begun(number, count, path.stem)
        yield _check_template(path, vocabulary)


def _check_template(path: Path, vocabulary: Any) -> Checkup:
    try:
        tokenizer = stand_in(read_chat_template(str(path)), vocabulary)
    except ValueError as error:  # it is not valid Jinja, which is no reason to leave the others unexamined
        return _refused(path.stem, str(error))
    return check(path.stem, tokenizer)
