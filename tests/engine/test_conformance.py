"""Every tokenizer and template at hand, through every conversation of the doctor, against full-history rendering."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest

from chatenv_client.models import FidelityKind
from chatenv_server.doctor import Checkup, check
from chatenv_server.doctor.examination import Examination, Verdict
from chatenv_server.doctor.examine import examine
from chatenv_server.doctor.reference import Reference
from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.loading import load_tokenizer
from tests.conformance import CONFORMANCE, do_without, why_missing
from tests.engine.archetypes import ARCHETYPES, UNUSUAL_TOKENS
from tests.engine.own_tokenizers import own_pieces
from tests.engine.subjects import EMBEDDED

TOKENIZERS = sorted(path.name for path in CONFORMANCE.glob("tokenizers/*") if path.is_dir())
TEMPLATES = sorted(path.stem for path in CONFORMANCE.glob("templates/*.jinja"))
MORE_TEMPLATES = sorted(path.stem for path in CONFORMANCE.glob("templates_more/*.jinja"))

OWN_PIECES = "own_pieces"
VOCABULARIES = [EMBEDDED, OWN_PIECES, "phi3_5"]
"""The embedded one, and two that put spaces of their own between tokens and text: our own, and a recorded one."""
WRITE_SPACES = (OWN_PIECES, "phi3_5", "mistral_7b_v0_3")
if os.environ.get("HYPOTHESIS_PROFILE") == "deep":
    VOCABULARIES += ["gpt2", "mistral_7b_v0_3", "qwen2_5"]

needs_data = pytest.mark.skipif(not TEMPLATES, reason=f"no conformance data at {CONFORMANCE}")


@functools.cache
def vocabulary(name: str) -> Any:
    if name == EMBEDDED:
        return None
    if name == OWN_PIECES:
        return own_pieces(metaspace=False)
    if reason := why_missing(CONFORMANCE / "tokenizers" / name):
        do_without(reason)
    return load_tokenizer(str(CONFORMANCE / "tokenizers" / name))


@functools.cache
def check_tokenizer(name: str) -> Checkup:
    return check(name, load_tokenizer(str(CONFORMANCE / "tokenizers" / name)))


@functools.cache
def check_template(name: str) -> Checkup:
    folder = "templates_more" if name in MORE_TEMPLATES else "templates"
    source = (CONFORMANCE / folder / f"{name}.jinja").read_text(encoding="utf-8")
    return check(name, stand_in(source, vocabulary("gpt2")))


@functools.cache
def check_archetype(name: str, words: str = EMBEDDED) -> Checkup:
    if "▁" in ARCHETYPES[name] and words in WRITE_SPACES:
        pytest.skip("this vocabulary writes a space for the ▁ in the template's tokens")
    unusual = [text for text in UNUSUAL_TOKENS if text in ARCHETYPES[name]]
    return check(name, stand_in(ARCHETYPES[name], vocabulary(words), unusual))


def the(checkup: Checkup, scenario: str) -> Examination:
    return next(one for one in checkup.examinations if one.scenario == scenario)


def assert_honest(checkup: Checkup) -> None:
    """Every conversation is played, or the template's own words say why not; and nothing is wrong without a report."""
    assert {one.scenario: one.faults for one in checkup.examinations if one.verdict is Verdict.INEXACT} == {}
    assert all(one.steps > 0 or one.rejection for one in checkup.examinations)


@pytest.mark.law(5)
@needs_data
@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_step_on_a_recorded_tokenizer_is_exact_or_says_why_not(name: str) -> None:
    assert_honest(check_tokenizer(name))


@pytest.mark.law(5)
@needs_data
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_step_under_a_recorded_template_is_exact_or_says_why_not(name: str) -> None:
    assert_honest(check_template(name))


@needs_data
def test_conversations_that_were_played_before_can_be_played_again() -> None:
    """What is recorded of the first time meets renders in which something looks forged."""
    source = (CONFORMANCE / "templates" / "nemotron_3_nano.jinja").read_text(encoding="utf-8")
    tokenizer = stand_in(source, vocabulary("gpt2"))
    engine, reference = TokenEngine.load(tokenizer), Reference(tokenizer, None)
    first, again = (examine(engine, reference) for _ in range(2))
    assert [(one.scenario, one.verdict) for one in again] == [(one.scenario, one.verdict) for one in first]


@pytest.mark.law(18)
@needs_data
@pytest.mark.parametrize("name", [*TOKENIZERS, *TEMPLATES, *MORE_TEMPLATES])
def test_under_segment_history_is_never_rewritten_and_prompts_are_the_full_rendering(name: str) -> None:
    checkup = check_tokenizer(name) if name in TOKENIZERS else check_template(name)
    kinds = {report.kind for one in checkup.segmented for report in one.reports}
    assert FidelityKind.HISTORY_REWRITTEN not in kinds
    assert [(one.scenario, one.kinds, one.faults) for one in checkup.segmented if one.exact_steps < one.steps] == []


@pytest.mark.law(5)
@needs_data
def test_nothing_is_reported_about_a_stream_that_is_exact() -> None:
    checkups = [*map(check_tokenizer, TOKENIZERS), *map(check_template, TEMPLATES)]
    needless = [
        (one.name, each.scenario, each.needless) for one in checkups for each in one.examinations if each.needless
    ]
    assert needless == []


@pytest.mark.law(5)
@pytest.mark.parametrize("words", VOCABULARIES)
@pytest.mark.parametrize("name", ARCHETYPES)
def test_every_step_under_an_archetype_is_exact_or_says_why_not(name: str, words: str) -> None:
    assert_honest(check_archetype(name, words))


REWRITTEN, ALTERED = FidelityKind.HISTORY_REWRITTEN, FidelityKind.CONTENT_ALTERED
DROPPED, TRUNCATED = FidelityKind.MESSAGE_DROPPED, FidelityKind.TRUNCATED_TURN_CLOSED


@pytest.mark.parametrize(
    ("name", "scenario", "kinds"),
    [
        ("every turn is closed", "plain chat", ()),
        ("every turn is closed", "turn cut off", (TRUNCATED,)),
        ("a default system prompt, results of tools in one user turn", "tools over several turns", ()),
        ("a default system prompt, results of tools in one user turn", "parallel tools", ()),
        ("a date, trimmed texts, one call a turn, calls closed by another token", "tools over several turns", ()),
        (
            "a date, trimmed texts, one call a turn, calls closed by another token",
            "white space at the edges",
            (ALTERED,),
        ),
        ("system text in the first user turn, spaces at the boundaries", "system prompt", ()),
        ("thoughts in square brackets, a default system prompt", "reasoning_content", ()),
        ("roles are plain text", "plain chat", ()),
        ("no control token at all", "plain chat", ()),
        ("turns end where the next role begins", "tools over several turns", ()),
        ("turns end where the next role begins", "turn cut off", (TRUNCATED,)),
        ("the end of a text is written where nobody is asked", "plain chat", ()),
        ("control tokens are put together from roles", "plain chat", ()),
        ("rounds are numbered", "plain chat", ()),
        ("tool state is carried from message to message", "parallel tools", (DROPPED,)),
        ("content has to be a list of parts", "unicode and code", ()),
    ],
)
def test_an_archetype_is_exact(name: str, scenario: str, kinds: tuple[FidelityKind, ...]) -> None:
    one = the(check_archetype(name), scenario)
    assert (one.verdict, one.kinds) == (Verdict.EXACT, kinds)


@pytest.mark.parametrize(
    ("name", "scenario", "exact_steps"),
    [
        ("system text and tools in the last user turn, strict ids", "system prompt", 1),
        ("thoughts are stripped once a user has spoken", "reasoning_content", 1),
        ("every turn has to think, no thought is kept", "plain chat", 1),
        ("channels, and another token at the very end", "plain chat", 1),
        ("tool state is carried from message to message", "tools over several turns", 4),
        ("the last user is reminded", "plain chat", 1),
        ("the thought of an answer is kept until the next answer", "reasoning_content", 2),
        ("only the last rounds are written", "plain chat", 2),
        ("an empty thought is put before the answer", "plain chat", 1),
    ],
)
def test_an_archetype_rewrites_history_and_it_is_said_when(name: str, scenario: str, exact_steps: int) -> None:
    one = the(check_archetype(name), scenario)
    assert one.verdict is Verdict.REPORTED
    assert REWRITTEN in one.kinds
    assert one.exact_steps == exact_steps


@pytest.mark.parametrize(
    ("name", "scenario", "words"),
    [
        ("the assistant has another name, no system role", "system prompt", "System role not supported"),
        (
            "the assistant has another name, no system role",
            "two users in a row",
            "Conversation roles must alternate user/assistant/user/assistant/...",
        ),
        (
            "a date, trimmed texts, one call a turn, calls closed by another token",
            "parallel tools",
            "This model only takes single tool calls at once!",
        ),
    ],
)
def test_an_archetype_rejects_a_conversation_with_its_own_words(name: str, scenario: str, words: str) -> None:
    one = the(check_archetype(name), scenario)
    assert (one.verdict, one.rejection) == (Verdict.NOT_TAKEN, words)
