"""Snapshots that were cut off, altered or made up: refused, or an episode that goes on. Nothing else comes of them."""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from chatenv_client import ChatAction, ChatEnvError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError, TokenizerMismatchError
from chatenv_client.reasons import Reason
from chatenv_client.tokens import fingerprint_of
from chatenv_client.wire import state_to_proto, trajectory_to_proto
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.engine.episodes import CALL, TOOL
from tests.environment.conftest import END, QUESTION, said
from tests.environment.taken_elsewhere import Counting, shown, snapshot_bytes
from tests.schema import is_repeated

CALLING = '<tool_call>\n{"name": "lookup", "arguments": {"key": "x"}}\n</tool_call>'


@functools.cache
def engine() -> TokenEngine:
    return TokenEngine.load(ByteTokenizer())


def eventful() -> ChatEnvironment:
    """An episode with something of everything: two segments, calls, columns, masks, runs, rewards."""
    env = ChatEnvironment(engine(), transform=Counting(moody=False), history_policy="segment")
    env.reset(messages=[QUESTION], tools=[TOOL], metadata={"a": 1}, episode_id="e", clock=0.0, max_steps=100)
    env.step(said(CALLING, logprobs=np.zeros(len(CALLING) + 1)))
    env.step({"role": "tool", "content": "It is y.", "tool_call_id": CALL["id"]})
    env.step(ChatAction(tokens=[*b"Cut "], extras={"value": np.ones((4, 2))}, model_version_runs=(("a", 1), ("b", 3))))
    env.step(ChatAction(tokens=[*b"off", END], mask=[True, False, True, True], amended_extras={"value": np.zeros(2)}))
    env.step([{"role": "user", "content": "And?"}, {"role": "user", "content": "More?"}])
    env.step({"role": "user", "content": "<|im_start|>?"}, replace_from=5)
    env.step(said("Well.", message={"role": "assistant", "content": "Well", "own": [1.5]}, model_version="v"))
    env.step([{"role": "user", "content": "Say it again."}], replace_from=3)
    env.step({"role": "user", "content": "Please."})
    env.step(said("It.", stop_reason="length", extras={"value": np.ones((4, 2))}))
    return env


def prefilled() -> ChatEnvironment:
    env = ChatEnvironment(engine())
    begun = {"role": "assistant", "content": "It is"}
    env.reset(messages=[QUESTION, begun], continue_final_message=True, episode_id="p", clock=0.0)
    env.step(ChatAction(tokens=[*b" five"]))
    env.step(said("."))
    return env


def waiting() -> ChatEnvironment:
    """An episode whose prefill nobody went on with yet."""
    env = ChatEnvironment(engine())
    begun = {"role": "assistant", "content": "It is"}
    env.reset(messages=[QUESTION, begun], continue_final_message=True, episode_id="w", clock=0.0)
    env.step([], replace_from=2)
    return env


@functools.cache
def known() -> tuple[bytes, ...]:
    made = [env.snapshot() for env in (eventful(), prefilled(), waiting())]
    return tuple(one.SerializeToString(deterministic=True) for one in made)


def is_refused_or_goes_on(snapshot: bytes) -> None:
    env = ChatEnvironment(engine())
    env.reset(messages=[QUESTION], clock=0.0)
    before = snapshot_bytes(env)
    refused = reason_of(lambda: env.restore(snapshot))
    assert refused in (None, Reason.BAD_SNAPSHOT, Reason.TOKENIZER_MISMATCH)
    if refused is not None:
        assert snapshot_bytes(env) == before
        return
    shows_everything(env)
    for act in ACTS:
        reason_of(functools.partial(act, env))
        shows_everything(env)


def reason_of(act: Callable[[], Any]) -> Reason | str | None:
    """Why a call is refused; None: it is not. An error of ours that is the server's fault is none that may come."""
    try:
        act()
    except ChatEnvError as error:
        if error.code == "INTERNAL":
            raise
        return error.reason
    return None


ACTS: list[Callable[[ChatEnvironment], Any]] = [
    lambda env: env.render([QUESTION]),
    lambda env: env.step(said("On.", extras={"value": np.ones((4, 2))}, amended_extras={"value": np.zeros(2)})),
    lambda env: env.step(QUESTION),
    lambda env: env.step(ChatAction(tokens=[*b"x"])),
    lambda env: env.step([QUESTION], replace_from=env.message_count // 2),
    lambda env: env.step([], replace_from=0),
]


def shows_everything(env: ChatEnvironment) -> None:
    state, trajectory = env.state, env.trajectory()
    state_to_proto(state)
    trajectory_to_proto(trajectory)
    for row in trajectory.samples():
        assert len(row.loss_mask) == len(row.tokens)
        for column in row.extras.values():
            assert len(column.spread(len(row.tokens))) == len(row.tokens)
    env.audit()
    again = ChatEnvironment(env.engine)
    again.restore(env.snapshot())
    assert snapshot_bytes(again) == snapshot_bytes(env)


# -- altered messages ----------------------------------------------------------------------------------


def slots(message: Any) -> Iterator[tuple[Any, FieldDescriptor]]:
    """Every field of a message and of those within it."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is not None and _is_there(message, field):
            value = getattr(message, field.name)
            for one in value if is_repeated(field) else [value]:
                yield from slots(one)


def _is_there(message: Any, field: FieldDescriptor) -> bool:
    return bool(getattr(message, field.name)) if is_repeated(field) else message.HasField(field.name)


_numbers = st.sampled_from([0, 1, 2, 3, 5, 100, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, -1, -(2**31)])
_others = st.sampled_from(
    ["", "x", "user", "tool", "assistant", "{}", "[]", "[[1, 2]]", "null", '{"a":NaN}', "[" * 5000, '{"a":1}', "\x00"]
)
_reals = st.sampled_from([float("nan"), float("inf"), 0.0, -1.5])


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    return {
        FieldDescriptor.CPPTYPE_STRING: _others if field.type == field.TYPE_STRING else _others.map(str.encode),
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_DOUBLE: _reals,
        FieldDescriptor.CPPTYPE_FLOAT: _reals,
    }.get(field.cpp_type, _numbers)


def alter(draw: Callable[[st.SearchStrategy[Any]], Any], whole: Any) -> None:
    """Change one thing somewhere in a message."""
    message, field = draw(st.sampled_from(list(slots(whole))))
    value, repeated = getattr(message, field.name), is_repeated(field)
    how = draw(st.sampled_from(["clear", "set", "set", "swap", "drop", "double"]))
    if how == "clear":
        message.ClearField(field.name)
    elif repeated and how in ("swap", "drop", "double") and len(value):
        entries = list(value)
        i, j = (draw(st.integers(0, len(entries) - 1)) for _ in range(2))
        if how == "swap":
            entries[i], entries[j] = entries[j], entries[i]
        elif how == "drop":
            del entries[i]
        else:
            entries.insert(j, entries[i])
        message.ClearField(field.name)
        getattr(message, field.name).extend(entries)
    elif field.message_type is not None:
        (value.add() if repeated else value).SetInParent()
    else:
        drawn = draw(_scalar(field))
        try:
            if repeated:
                value.insert(draw(st.integers(0, len(value))), drawn)
            else:
                setattr(message, field.name, drawn)
        except (ValueError, TypeError):  # the field takes no such number
            message.ClearField(field.name)


def put_right(snapshot: pb.EpisodeSnapshot) -> None:
    """Write down the fingerprint that the stream has, as somebody would who means harm."""
    stream, tail = list[int](), list[int]()
    for entry in snapshot.entries:
        if entry.HasField("sampled"):
            stream, tail = [*stream, *tail, *entry.sampled.tokens], []
            entry.prompt_fingerprint = fingerprint_of(np.array(stream, dtype=np.int32))
        else:
            before = tail
            if entry.went_on.begins_segment:
                before, stream = [*stream, *tail], []
            tail = [*before[: entry.went_on.shared_tokens], *entry.went_on.tokens]
    for entry in snapshot.entries[-1:]:
        entry.prompt_fingerprint = fingerprint_of(np.array([*stream, *tail], dtype=np.int32))


@given(st.data())
def test_an_altered_snapshot_is_refused_or_goes_on(data: st.DataObject) -> None:
    snapshot = pb.EpisodeSnapshot.FromString(data.draw(st.sampled_from(known())))
    for _ in range(data.draw(st.sampled_from([1, 1, 2, 3]))):
        alter(data.draw, snapshot)
    if data.draw(st.booleans()):
        put_right(snapshot)
    is_refused_or_goes_on(snapshot.SerializeToString())


@given(st.data())
def test_entries_of_several_episodes_put_together_are_refused_or_go_on(data: st.DataObject) -> None:
    snapshots = [pb.EpisodeSnapshot.FromString(one) for one in known()]
    made = data.draw(st.sampled_from(snapshots))
    entries = [entry for one in snapshots for entry in one.entries]
    taken = data.draw(st.lists(st.sampled_from(entries), max_size=6))
    kept = data.draw(st.integers(0, len(made.entries)))
    del made.entries[kept:]
    made.entries.extend(taken)
    put_right(made)
    is_refused_or_goes_on(made.SerializeToString())


def test_a_snapshot_that_lacks_its_last_entries_is_refused_or_an_earlier_step() -> None:
    whole, refused = eventful(), 0
    for step in range(whole.step_count):
        snapshot = whole.snapshot()
        del snapshot.entries[step + 1 :]
        env = ChatEnvironment(engine())
        try:
            env.restore(snapshot)
        except InvalidRequestError as error:
            refused += error.reason is Reason.BAD_SNAPSHOT
        else:
            assert shown(env) == shown(whole.fork(step))
    assert refused >= whole.step_count - 2  # all but where a segment ends


def test_a_snapshot_with_another_stream_is_refused() -> None:
    for one in known():
        snapshot = pb.EpisodeSnapshot.FromString(one)
        for entry in snapshot.entries:
            if entry.sampled.tokens:
                entry.sampled.tokens[0] ^= 1
                with pytest.raises(InvalidRequestError, match="another one than was written"):
                    ChatEnvironment(engine()).restore(snapshot)
                entry.sampled.tokens[0] ^= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("tokenizer_fingerprint", "x"), ("chat_template_fingerprint", "x"), ("token_id_limit", 7)],
)
def test_a_snapshot_that_another_tokenizer_wrote_is_refused_as_such(field: str, value: Any) -> None:
    snapshot = pb.EpisodeSnapshot.FromString(known()[0])
    setattr(snapshot, field, value)
    with pytest.raises(TokenizerMismatchError):
        ChatEnvironment(engine()).restore(snapshot)


# -- altered bytes -------------------------------------------------------------------------------------


@given(st.data())
def test_altered_bytes_are_refused_or_go_on(data: st.DataObject) -> None:
    one, other = (data.draw(st.sampled_from(known())) for _ in range(2))
    at, to = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(other)))
    made = data.draw(
        st.sampled_from([one[:at], one[:at] + other[to:], one + other, one[:at] + b"\xff" + one[at + 1 :], other[to:]])
    )
    is_refused_or_goes_on(made)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    env = ChatEnvironment(engine())
    with pytest.raises(InvalidRequestError) as raised:
        env.restore(data)
    assert raised.value.reason is Reason.BAD_SNAPSHOT


@pytest.mark.parametrize("number", [2**31 - 1, 2**32 - 1])
def test_no_number_takes_more_memory_than_its_snapshot_has_bytes(number: int) -> None:
    for one in known():
        count = len(list(slots(pb.EpisodeSnapshot.FromString(one))))
        for index in range(count):
            snapshot = pb.EpisodeSnapshot.FromString(one)
            message, field = list(slots(snapshot))[index]
            if field.cpp_type not in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_INT32):
                continue
            try:
                getattr(message, field.name).append(number) if is_repeated(field) else setattr(
                    message, field.name, number
                )
            except ValueError:
                continue
            tracemalloc.start()
            reason_of(functools.partial(ChatEnvironment(engine()).restore, snapshot))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2_000_000, (field.full_name, peak)
