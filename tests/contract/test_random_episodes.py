"""Random sequences of reset, step, repeated step, refused step and close, against a plain model of an episode."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from chatenv_client import (
    ChatAction,
    ChatEnv,
    EpisodeClosedError,
    EpisodeDoneError,
    InvalidRequestError,
    Origin,
    ServerInfo,
    StepIndexMismatchError,
    StepResult,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.calls import error_from_rpc

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)
given_messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": texts}), min_size=1, max_size=2
)


class EpisodeMachine(RuleBasedStateMachine):
    """One client, one episode at a time, and beside it what has to be true of it."""

    channel: grpc.Channel
    info: ServerInfo

    def __init__(self) -> None:
        super().__init__()
        self.client = ChatEnv(self.channel)
        self.reader = ChatEnv(self.channel)
        self.stub = ChatEnvServiceStub(self.channel)
        self.live = False

    def teardown(self) -> None:
        self.client.close()

    @initialize(messages=given_messages)
    def begin(self, messages: list[dict[str, Any]]) -> None:
        self.reset(messages, None)

    @rule(messages=given_messages | st.just([]), max_steps=st.none() | st.integers(1, 4))
    def reset(self, messages: list[dict[str, Any]], max_steps: int | None) -> None:
        result = self.client.reset(messages=messages, max_steps=max_steps, system_prompt="")
        self.live, self.max_steps = True, max_steps
        self.steps, self.given = 0, list(messages)
        self.sampled: list[list[int]] = []
        self.last: StepResult = result
        self.last_request: pb.StepRequest | None = None

    @precondition(lambda self: self.live)
    @rule(messages=given_messages)
    def step_with_messages(self, messages: list[dict[str, Any]]) -> None:
        if self.take(messages):
            self.given += messages

    @precondition(lambda self: self.live)
    @rule(data=st.data(), stop=st.booleans())
    def step_with_tokens(self, data: st.DataObject, stop: bool) -> None:
        ids = st.lists(st.integers(0, self.info.vocabulary_size - 1), min_size=1, max_size=6)
        stops = self.info.stop_ids
        tokens = data.draw(ids) + stops[: int(stop)]
        prompt = self.last.observation.token_ids.tolist()
        if self.take(ChatAction(tokens=tokens)):
            self.sampled.append(tokens)
            stream = self.last.observation.token_ids.tolist()
            assert stream[: len(prompt) + len(tokens)] == prompt + tokens

    def take(self, action: Any) -> bool:
        request = self.client._session.step(action).request
        if self.done:
            with pytest.raises(EpisodeDoneError):
                self.client.step(action)
            return False
        self.last = self.client.step(action)
        self.last_request = request
        self.steps += 1
        return True

    @property
    def done(self) -> bool:
        return self.max_steps is not None and self.steps >= self.max_steps

    @precondition(lambda self: self.live and self.last_request is not None)
    @rule()
    def repeat_the_last_step(self) -> None:
        assert self.last_request is not None
        answer = self.stub.Step(self.last_request).observation
        assert answer.step_count == self.steps
        assert answer.prompt_fingerprint == self.last.observation.fingerprint()

    @precondition(lambda self: self.live)
    @rule(off=st.integers(-3, 3).filter(bool))
    def step_out_of_turn(self, off: int) -> None:
        if self.steps + off < 0:
            return
        message = pb.Message(role="user", content="out of turn")
        request = pb.StepRequest(
            episode_id=self.client.episode_id, messages=[message], step_index=self.steps + off, model_version=""
        )
        with pytest.raises(grpc.RpcError) as caught:
            self.stub.Step(request)
        assert isinstance(error_from_rpc(caught.value), StepIndexMismatchError)

    @precondition(lambda self: self.live and not self.done)
    @rule(
        bad=st.sampled_from([ChatAction(), ChatAction(tokens=[0, -1]), {"role": "user"}, {"role": "", "content": "a"}])
    )
    def step_that_is_refused(self, bad: Any) -> None:
        with pytest.raises(InvalidRequestError):
            self.client.step(bad)

    @precondition(lambda self: self.live)
    @rule()
    def take_it_up_with_another_client(self) -> None:
        self.client, self.reader = self.reader, self.client
        self.last = self.client.resume(self.last.observation.episode_id)

    @precondition(lambda self: self.live)
    @rule()
    def close(self) -> None:
        episode_id = self.client.episode_id
        self.stub.CloseEpisode(pb.CloseEpisodeRequest(episode_id=episode_id))
        with pytest.raises(EpisodeClosedError):
            self.client.step({"role": "user", "content": "too late"})
        self.live = False

    @invariant()
    def the_server_holds_what_the_model_says(self) -> None:
        if not self.live:
            return
        observation, state = self.last.observation, self.client.state()
        assert state.step_count == observation.step_count == self.steps
        assert state.history_messages == observation.messages
        assert [message for message in state.history_messages if message["role"] != "assistant"] == self.given
        assert state.token_ids.tolist() == observation.token_ids.tolist()
        assert state.prompt_fingerprint == observation.fingerprint()
        assert state.truncated == observation.truncated == self.done
        spans = [state.token_ids[t.start : t.stop].tolist() for t in state.turns if t.origin is Origin.SAMPLED]
        assert spans == self.sampled
        assert state.loss_mask.sum() == sum(map(len, self.sampled))


def test_any_sequence_of_calls_leaves_client_and_server_in_agreement(channel: grpc.Channel, info: ServerInfo) -> None:
    machine = type("Machine", (EpisodeMachine,), {"channel": channel, "info": info})
    # An example is some twenty steps with several calls each.
    run_state_machine_as_test(machine, settings=settings(max_examples=settings().max_examples // 5))
