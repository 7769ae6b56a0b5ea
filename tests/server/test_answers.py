"""How the repetition of a step is known."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.models import ChatAction, ChatObservation, as_action
from chatenv_server.episodes.answers import Answer, digest_of
from chatenv_server.running.in_process import open_in_process

TOKENS: Final = [72, 105, 257]
SAMPLED: Final[dict[str, Any]] = {
    "tokens": [72, 106, 257],
    "logprobs": [0.0, -1.0, -0.0],
    "stop_reason": "length",
    "model_version": "step-2",
    "prompt_fingerprint": "b" * 32,
    "message": {"role": "assistant", "content": "Hi?"},
    "mask": [True, False, True],
    "model_version_runs": (("step-1", 1), ("step-2", 2)),
    "extras": {"experts": np.zeros((3, 2), dtype=np.int16)},
    "amended_extras": {"experts": np.zeros((1, 2), dtype=np.int16)},
}
"""Another value for each field of an action that samples."""
GIVEN: Final[dict[str, Any]] = {"messages": ({"role": "user", "content": "Hi "},), "replace_from": 0}
"""And of one that gives messages."""


def as_sent(action: ChatAction, **held: Any) -> ChatAction:
    """The action as a server reads it, of a caller that holds so much already."""
    request = pb.StepRequest()
    wire.write_step(request, action, episode_id="e", **held)
    return wire.action_from_proto(pb.StepRequest.FromString(request.SerializeToString()))


@pytest.mark.parametrize("field", SAMPLED)
def test_what_differs_in_one_field_asks_another_thing(field: str) -> None:
    plain: dict[str, Any] = {"tokens": TOKENS, "logprobs": [0.0, -1.0, 0.0]}
    assert digest_of("e", ChatAction(**plain)) != digest_of("e", ChatAction(**{**plain, field: SAMPLED[field]}))


@pytest.mark.parametrize("field", GIVEN)
def test_messages_that_differ_ask_another_thing(field: str) -> None:
    plain: dict[str, Any] = {"messages": ({"role": "user", "content": "Hi"},), "replace_from": None}
    assert digest_of("e", ChatAction(**plain)) != digest_of("e", ChatAction(**{**plain, field: GIVEN[field]}))


def test_every_field_of_an_action_is_compared() -> None:
    assert {field.name for field in fields(ChatAction)} == SAMPLED.keys() | GIVEN.keys()


@pytest.mark.parametrize("action", [ChatAction(**{**SAMPLED, "mask": None}), ChatAction(**GIVEN)])
def test_what_a_caller_holds_changes_nothing_of_what_it_asks(action: ChatAction) -> None:
    held = as_sent(action, step_index=3, known_tokens=9, known_messages=1)
    assert digest_of("e", held) == digest_of("e", as_sent(action)) == digest_of("e", action)


def test_the_same_step_of_another_episode_asks_another_thing() -> None:
    assert digest_of("e", ChatAction(tokens=TOKENS)) != digest_of("f", ChatAction(tokens=TOKENS))


def test_an_answer_tells_the_digest_of_its_action_or_the_one_that_was_kept() -> None:
    action = ChatAction(tokens=TOKENS)
    told = Answer(ChatObservation(episode_id="e"), action).digest
    assert told == digest_of("e", action)
    assert Answer(ChatObservation(), told).digest == told


def test_what_json_holds_too_deep_to_be_written_again_can_be_told_apart() -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    one, other = ({"role": "user", "content": "Hi", "more": more} for more in (deep, [deep]))
    assert digest_of("e", as_action(one)) != digest_of("e", as_action(other))


def test_a_step_that_is_done_again_is_answered_once(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    with open_in_process("bytes", store=store) as here, open_in_process("bytes", store=store) as there:
        one, other = ChatEnvServiceStub(here), ChatEnvServiceStub(there)
        one.Reset(pb.ResetRequest(episode_id="e", messages=[pb.Message(role="user", content="Hi")]))
        for elsewhere in (other, one):  # what the other process holds of the episode is outdated the second time
            elsewhere.Step(pb.StepRequest(episode_id="e", tokens=TOKENS))
        request = pb.StepRequest(episode_id="e", messages=[pb.Message(role="user", content="And?")])
        (result,) = other.BatchStep(pb.BatchStepRequest(steps=[request])).results
        shown, state = result.response.observation, one.GetState(pb.GetStateRequest(episode_id="e"))
        assert (shown.step_count, list(shown.tokens)) == (3, list(state.tokens))
        assert [message.content for message in shown.messages] == [message.content for message in state.messages]
