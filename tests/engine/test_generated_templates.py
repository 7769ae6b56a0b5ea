"""The laws over chat templates and conversations that nobody thought of, each held against transformers' rendering."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatenv_server.doctor.examine import play
from chatenv_server.doctor.reference import Reference
from chatenv_server.doctor.scenarios import Scenario
from chatenv_server.engine import TokenEngine
from tests.engine.generated_conversations import said_texts, scenarios
from tests.engine.generated_templates import Traits, loaded, source_of, traits

pytestmark = pytest.mark.timeout(0)  # each example loads a template; the deep profile has thousands
_EXAMPLES = settings.default.max_examples if settings.default else 100
_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
law = settings(max_examples=max(20, _EXAMPLES * 2 // 3), suppress_health_check=_SLOW)
part_of_a_law = settings(max_examples=max(10, _EXAMPLES // 3), suppress_health_check=_SLOW)
_several = st.lists(scenarios(), min_size=2, max_size=4)


def _loaded(template: Traits) -> tuple[TokenEngine, Reference]:
    engine, tokenizer = loaded(source_of(template))
    return engine, Reference(tokenizer)


@pytest.mark.law(5)
@given(traits, _several)
@law
def test_every_step_under_a_generated_template_is_exact_or_says_why_not(
    template: Traits, conversations: Sequence[Scenario]
) -> None:
    engine, reference = _loaded(template)
    for conversation in conversations:
        assert play(engine, reference, conversation).faults == []


@pytest.mark.law(5)
@given(traits, st.lists(scenarios(tools=False, texts=said_texts), min_size=2, max_size=4))
@part_of_a_law
def test_nothing_is_reported_under_a_generated_template_about_a_stream_that_is_exact(
    template: Traits, conversations: Sequence[Scenario]
) -> None:
    engine, reference = _loaded(template)
    for conversation in conversations:
        assert play(engine, reference, conversation).needless == []


# Where a line ends turns, what is sampled here may run on into the next turn.
@pytest.mark.law(12)
@given(
    traits.filter(lambda drawn: drawn.close != "line"), st.lists(scenarios(texts=said_texts), min_size=2, max_size=4)
)
@part_of_a_law
def test_what_is_read_under_a_generated_template_is_what_was_meant(
    template: Traits, conversations: Sequence[Scenario]
) -> None:
    engine, reference = _loaded(template)
    # Without a prompt the model writes the header itself, and may go on as far as into the next.
    for conversation in (each for each in conversations if each.add_generation_prompt):
        assert play(engine, reference, conversation).misread == []
