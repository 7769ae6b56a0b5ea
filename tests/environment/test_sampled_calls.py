"""Whatever a model samples for a call, the step is applied and can be answered: what no JSON spells stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import FidelityKind, wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.wire.json_fields import MAX_JSON_CHARACTERS, MAX_JSON_DEPTH
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.parsing.cursor import MAX_NESTING
from chatenv_server.engine.turn_reader import MAX_CALL_CHARACTERS
from tests.environment.conftest import said


def sampled(engine: TokenEngine, arguments: str) -> tuple[list[str], set[FidelityKind]]:
    """The calls that come back over the wire of a sampled call with these arguments, as JSON, and what is reported."""
    env = ChatEnvironment(engine)
    env.reset()
    text = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    observation = env.step(said(text))
    encoded = pb.Observation()
    wire.write_observation(encoded, observation)
    wire.state_to_proto(env.state)
    (message,) = wire.observation_from_proto(pb.Observation.FromString(encoded.SerializeToString())).messages
    assert message == env.state.history_messages[0]
    assert message.get("tool_calls") or text in str(message["content"])
    return [call.arguments_json for call in encoded.messages[0].tool_calls], {
        each.kind for each in observation.fidelity
    }


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    "value",
    ["1e400", "NaN", "-Infinity", "9" * 5000, '"\\ud800"', nested(MAX_JSON_DEPTH), f'"{"a" * MAX_JSON_CHARACTERS}"'],
    ids=lambda value: value[:20],
)
def test_a_call_that_no_answer_could_carry_stays_text_and_is_reported(engine: TokenEngine, value: str) -> None:
    calls, reported = sampled(engine, f'{{"a":{value}}}')
    assert calls == []
    assert FidelityKind.TOOL_CALL_MALFORMED in reported


@pytest.mark.parametrize(
    "arguments",
    ["{}", nested(MAX_JSON_DEPTH - 2), f'{{"a":"{"a" * (MAX_JSON_CHARACTERS - 8)}"}}'],
    ids=lambda text: text[:20],
)
def test_a_call_up_to_the_limits_of_an_answer_is_read(engine: TokenEngine, arguments: str) -> None:
    assert sampled(engine, arguments)[0] == [arguments]


def test_numbers_that_grow_beyond_the_limit_are_seen(engine: TokenEngine) -> None:
    growing = "[" + ",".join(["1e15"] * (MAX_JSON_CHARACTERS // 18)) + "]"
    assert sampled(engine, f'{{"a":{growing}}}')[0] == []


def test_the_limits_of_a_call_are_those_of_the_wire() -> None:
    assert (MAX_CALL_CHARACTERS, MAX_NESTING) == (MAX_JSON_CHARACTERS, MAX_JSON_DEPTH)


pieces = st.sampled_from(
    [*'{}[]",:\\ ', "1", "-", "e9", ".5", "null", "NaN", "\\u", "d8", "00", "a", "\x00", "é", "\n"]
)


@given(st.lists(pieces, max_size=30).map("".join))
def test_whatever_is_sampled_can_be_answered(engine: TokenEngine, arguments: str) -> None:
    sampled(engine, arguments)
