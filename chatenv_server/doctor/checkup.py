"""One tokenizer's check-up: what its template does, and how the scenarios went."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chatenv_server.doctor.examination import Examination, Verdict
from chatenv_server.doctor.examine import examine
from chatenv_server.doctor.facts import TemplateFacts, read_facts
from chatenv_server.doctor.reference import Reference
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
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
    examinations: list[Examination]

    @property
    def sound(self) -> bool:
        """Whether nothing is inexact without a report."""
        return all(one.verdict is not Verdict.INEXACT for one in self.examinations)


def check(name: str, tokenizer: Any, chat_template: str | None = None) -> Checkup:
    """Examine a tokenizer, with its own chat template or another.

    Raises:
        TokenizerError: it is no tokenizer, or the template is not valid Jinja.
    """
    engine = _load(tokenizer, chat_template)
    chat_format = engine.chat_format
    return Checkup(
        name=name,
        vocabulary_size=engine.vocabulary_size,
        tokenizer_fingerprint=engine.tokenizer_fingerprint,
        template_fingerprint=engine.template_fingerprint,
        exact_path=engine.exact,
        facts=read_facts(chat_format) if chat_format is not None else None,
        examinations=examine(engine, Reference(tokenizer, chat_template)),
    )


def _load(tokenizer: Any, chat_template: str | None) -> TokenEngine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a plain template is used; the report shows it
        try:
            return TokenEngine.load(tokenizer, chat_template=chat_template)
        except (TypeError, ValueError) as error:
            raise TokenizerError(str(error)) from error


def check_folder(folder: Path, begun: Callable[[int, int, str], None] = lambda *_: None) -> Iterator[Checkup]:
    """Examine every tokenizer in FOLDER/tokenizers and every template in FOLDER/templates.

    Args:
        folder: where they are.
        begun: told before each of them which one of how many it is, from 1, and its name.

    Raises:
        TokenizerError: there is nothing to examine.
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
        yield check(path.stem, stand_in(read_chat_template(str(path)), vocabulary))
