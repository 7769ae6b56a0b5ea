"""Answers arrive as the environment gave them, and carry no more than the caller lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import (
    AuditReport,
    ChatObservation,
    ChatState,
    Failure,
    FailureKind,
    FidelityKind,
    FidelityReport,
    InvalidRequestError,
    Limits,
    Origin,
    ProtocolError,
    Rendered,
    RowCount,
    ServerInfo,
    SpecialToken,
    StopReason,
    Trajectory,
    Turn,
    Verdict,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.models import MessageSnapshot, segment_of
from chatenv_client.tokens import TokenSnapshot, as_token_ids
from chatenv_client.wire import (
    audit_from_proto,
    audit_to_proto,
    info_from_proto,
    info_to_proto,
    observation_from_proto,
    rendered_from_proto,
    rendered_to_proto,
    state_from_proto,
    state_to_proto,
    trajectory_from_proto,
    trajectory_to_proto,
    write_observation,
)

lengths = st.lists(st.tuples(st.sampled_from(Origin), st.integers(0, 6), st.booleans()), max_size=8)
token_lists = st.lists(st.integers(0, 2**31 - 1), max_size=30)
reports = st.lists(
    st.builds(
        FidelityReport,
        st.sampled_from(FidelityKind),
        st.just("why"),
        st.none() | st.integers(0, 9),
        st.none() | st.integers(0, 9),
    ),
    max_size=3,
).map(tuple)

numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64).filter(str.isprintable)
named_rewards = st.dictionaries(names, numbers, max_size=3)
failures = st.builds(Failure, st.sampled_from(FailureKind), st.text(st.characters(codec="utf-8"), max_size=9))


def observation(committed: list[int], tail: list[int], messages: int, **rest: Any) -> ChatObservation:
    conversation = [{"role": "user", "content": str(index)} for index in range(messages)]
    stream = TokenSnapshot(as_token_ids(committed), as_token_ids(tail))
    return ChatObservation("e", 3, stream, MessageSnapshot(conversation, messages), **rest)  # type: ignore[arg-type]


def encoded_of(observation: ChatObservation, **known: int) -> pb.Observation:
    encoded = pb.Observation()
    write_observation(encoded, observation, **known)
    return encoded


@given(token_lists, token_lists, st.integers(0, 70), st.integers(0, 70), st.integers(0, 5), st.integers(0, 9))
def test_what_is_held_and_what_is_answered_make_the_whole(
    committed: list[int], tail: list[int], known: int, held: int, known_messages: int, held_messages: int
) -> None:
    whole = observation(committed, tail, 5, held_tokens=held, held_messages=held_messages)
    encoded = encoded_of(whole, known_tokens=known, known_messages=known_messages)
    delta = observation_from_proto(pb.Observation.FromString(encoded.SerializeToString()))
    told = delta.observation
    assert told.held_tokens <= min(known, held)
    assert told.held_messages <= min(known_messages, held_messages)
    assert [*whole.token_ids[: told.held_tokens], *delta.tokens] == [*committed, *tail]
    assert [*whole.messages[: told.held_messages], *delta.messages] == whole.messages


@given(reports, st.none() | st.floats(allow_nan=False), st.booleans(), st.booleans())
def test_the_result_of_a_step_arrives_as_it_was(
    fidelity: tuple[FidelityReport, ...], reward: float | None, terminated: bool, truncated: bool
) -> None:
    given_result = {
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "fidelity": fidelity,
        "metadata": {"a": [1, None]},
        "generation_prompt_length": 2,
        "prompt_fingerprint": "f" * 32,
    }
    delta = observation_from_proto(encoded_of(observation([1], [2], 1, **given_result)))
    assert {key: getattr(delta.observation, key) for key in given_result} == given_result


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "rewards": named_rewards,
            "turns_left": st.integers(0, 2**32 - 1),
            "tokens_left": st.integers(0, 2**32 - 1),
            "turn_open": st.booleans(),
            "failure": failures,
            "segment": st.integers(0, 9),
        },
    )
)
def test_what_a_task_says_of_a_step_arrives_as_it_was(said: dict[str, Any]) -> None:
    whole = observation([1], [2], 1, reward=0.5, **said)
    told = observation_from_proto(pb.Observation.FromString(encoded_of(whole).SerializeToString())).observation
    for name in ("reward", "rewards", "turns_left", "tokens_left", "turn_open", "failure", "segment", "done"):
        assert getattr(told, name) == getattr(whole, name), name


def test_none_left_is_not_any_number() -> None:
    told = observation_from_proto(encoded_of(observation([], [], 0, turns_left=0, tokens_left=0))).observation
    assert (told.turns_left, told.tokens_left) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        pb.Observation(reward=1.0, rewards=[pb.NamedReward(name="", value=1.0)]),
        pb.Observation(failure=pb.Failure(reason="it has no kind")),
        pb.Observation(failure=pb.Failure(kind=99)),  # type: ignore[arg-type]
    ],
)
def test_a_reward_or_a_failure_that_is_none_cannot_be_read(answer: pb.Observation) -> None:
    with pytest.raises(InvalidRequestError):
        observation_from_proto(answer)


def test_an_answer_to_a_caller_who_holds_the_history_is_no_larger_for_a_longer_history() -> None:
    def size(history: int) -> int:
        whole = observation([7] * history, [8] * 20, history // 100, held_tokens=history, held_messages=history)
        whole.prompt_fingerprint = "f" * 32
        return encoded_of(whole, known_tokens=history, known_messages=history).ByteSize()

    assert size(50_000) <= size(1_000) + 8  # a varint or two


def test_metadata_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="JSON"):
        encoded_of(observation([], [], 0, metadata={"a": object()}))


def turns_of(parts: list[tuple[Origin, int, bool]]) -> tuple[Turn, ...]:
    turns, start = [], 0
    for step, (origin, length, with_logprobs) in enumerate(parts):
        sampled = origin is Origin.SAMPLED
        stop_reason = StopReason.LENGTH if sampled else None
        rewards = {"found": 0.5, "short": 0.0} if sampled else {}
        given = sampled and with_logprobs
        turns.append(Turn(origin, start, length, step, step, 1, stop_reason, "v1", 0.5, given, rewards=rewards))
        start += length
    return tuple(turns)


def trajectory(turns: tuple[Turn, ...], failure: Failure | None = None) -> Trajectory:
    length = turns[-1].stop if turns else 0
    logprobs = np.full(length, np.nan, np.float32)
    for turn in turns:
        if turn.has_logprobs:
            logprobs[turn.start : turn.stop] = np.float32(-0.1) * np.arange(turn.length, dtype=np.float32)
    given_logprobs = logprobs[~np.isnan(logprobs)]
    segment = segment_of(np.arange(length, dtype=np.int32), turns, given_logprobs, ())
    return Trajectory("e", (segment,), truncated=True, failure=failure)


@given(lengths, st.none() | failures)
def test_a_trajectory_arrives_as_it_was(parts: list[tuple[Origin, int, bool]], failure: Failure | None) -> None:
    sent = trajectory(turns_of(parts), failure)
    encoded = trajectory_to_proto(sent).SerializeToString()
    received = trajectory_from_proto(pb.GetTrajectoryResponse.FromString(encoded))
    assert (received.turns, received.failure) == (sent.turns, failure)
    for name in ("tokens", "loss_mask", "logprobs", "turn"):
        assert getattr(received, name).dtype == getattr(sent, name).dtype
        assert getattr(received, name).tobytes() == getattr(sent, name).tobytes()


def test_a_segment_travels_without_the_tokens_that_the_one_before_has() -> None:
    turns = turns_of([(Origin.TEMPLATE, 4, False), (Origin.SAMPLED, 2, False)])
    streams = [np.array(ids, np.int32) for ids in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9], [1, 2, 0, 0, 8, 9])]
    none = np.empty(0, np.float32)
    segments = [
        segment_of(stream, turns, none, (), shared_length=shared)
        for stream, shared in zip(streams, (0, 3, 2), strict=True)
    ]
    encoded = trajectory_to_proto(Trajectory("e", tuple(segments)))
    assert [list(segment.tokens) for segment in encoded.segments] == [[1, 2, 3, 4, 5, 6], [7, 8, 9], [0, 0, 8, 9]]
    received = trajectory_from_proto(encoded)
    assert [segment.tokens.tolist() for segment in received.segments] == [stream.tolist() for stream in streams]
    encoded.segments[1].shared_tokens = 7
    with pytest.raises(ProtocolError, match="shares"):
        trajectory_from_proto(encoded)


@pytest.mark.parametrize(
    "damage",
    [{"tokens": [1]}, {"loss_mask_runs": [1]}, {"logprobs": [0.5]}, {"turns": [pb.Turn(origin=1, length=1)]}],  # type: ignore[arg-type]
)
def test_a_trajectory_whose_lengths_do_not_agree_is_refused(damage: dict[str, Any]) -> None:
    encoded = trajectory_to_proto(trajectory(turns_of([(Origin.TEMPLATE, 2, False), (Origin.SAMPLED, 3, True)])))
    encoded.segments[0].MergeFrom(pb.Segment(**damage))
    with pytest.raises(ProtocolError, match="cover"):
        trajectory_from_proto(encoded)


@given(reports, st.none() | st.integers(1, 9), st.none() | st.integers(-5, 5), st.none() | failures, st.booleans())
def test_a_state_arrives_as_it_was(
    fidelity: tuple[FidelityReport, ...], limit: int | None, seed: int | None, failure: Failure | None, is_open: bool
) -> None:
    sent = ChatState(
        episode_id="e",
        step_count=4,
        history_messages=[{"role": "user", "content": "a"}],
        message_spans=((0, 3),),
        token_ids=np.arange(5, dtype=np.int32),
        turns=turns_of([(Origin.TEMPLATE, 3, False), (Origin.SAMPLED, 2, False)]),
        fidelity=fidelity,
        generation_prompt_length=1,
        prompt_fingerprint="f" * 32,
        terminated=True,
        max_steps=limit,
        max_tokens=limit,
        max_turns=limit,
        max_sampled_tokens=limit,
        turn_count=limit or 0,
        turn_open=is_open,
        turns_left=limit,
        tokens_left=0 if is_open else limit,
        failure=failure,
        task="gsm" if is_open else "",
        seed=seed,
        metadata={"task": 3},
        clock_unix_seconds=1_700_000_000.25,
    )
    received = state_from_proto(pb.GetStateResponse.FromString(state_to_proto(sent).SerializeToString()))
    assert received.token_ids.tolist() == sent.token_ids.tolist()
    assert vars(received) | {"token_ids": None} == vars(sent) | {"token_ids": None}


@pytest.mark.parametrize(
    "report", [AuditReport(Verdict.EXACT, None, ""), AuditReport(Verdict.TEXT_DIFFERS, 0, "at 0", (1, 3))]
)
def test_an_audit_arrives_as_it_was(report: AuditReport) -> None:
    assert audit_from_proto(audit_to_proto(report)) == report


def test_a_rendering_arrives_as_it_was() -> None:
    sent = Rendered(3, np.array([1, 2], np.int32), (FidelityReport(FidelityKind.CONTENT_ALTERED, "why"),))
    received = rendered_from_proto(rendered_to_proto(sent))
    assert (received.tokens_offset, received.tokens.tolist(), received.fidelity) == (3, [1, 2], sent.fidelity)


def test_a_servers_description_arrives_as_it_was() -> None:
    sent = ServerInfo(
        version="1",
        tokenizer_name="bytes",
        tokenizer_fingerprint="a",
        chat_template_fingerprint="b",
        vocabulary_size=259,
        token_id_limit=260,
        special_tokens=(SpecialToken(257, "<|im_end|>", stops=True),),
        features=("tools", "exact"),
        turn_parser="hermes",
        limits=Limits(max_episodes=3, max_turns=4, max_sampled_tokens=5, max_message_bytes=9, idle_timeout_seconds=0.5),
        uptime_seconds=1.5,
        live_episodes=1,
        live_tokens=2**40,
        tasks=("calc", "gsm"),
        row_counts=(RowCount("gsm", "train", 7473), RowCount("", "test", 2**32 - 1)),
    )
    assert info_from_proto(info_to_proto(sent)) == sent


@pytest.mark.parametrize(
    "answer",
    [
        pb.GetStateResponse(fidelity=[pb.FidelityReport()]),
        pb.GetStateResponse(fidelity=[pb.FidelityReport(kind=99)]),  # type: ignore[arg-type]
        pb.GetStateResponse(turns=[pb.Turn()]),
    ],
)
def test_an_enum_that_is_never_sent_is_refused(answer: pb.GetStateResponse) -> None:
    with pytest.raises(ProtocolError, match="update the older"):
        state_from_proto(answer)


def test_an_audit_without_a_verdict_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Verdict"):
        audit_from_proto(pb.AuditEpisodeResponse())
