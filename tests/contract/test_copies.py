"""Episodes forked, exported, imported and listed: the same from every client and in-process, whatever the store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client import (
    AsyncChatEnv,
    ChatAction,
    ChatEnv,
    ChatObservation,
    EpisodeExistsError,
    EpisodeSnapshot,
    EpisodeUnknownError,
    InvalidRequestError,
    TokenizerMismatchError,
    VectorChatEnv,
)
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from tests.contract.conftest import start_server

Serving = Callable[..., AbstractContextManager[str]]

HELLO: Any = {"role": "user", "content": "Hello!"}
CLOCK = 1_700_000_000.0
OPENING: dict[str, Any] = {"messages": [HELLO], "clock": CLOCK, "seed": 7, "metadata": {"task": 3}}
SCRIPT: list[Any] = [
    ChatAction(tokens=[72, 105], logprobs=[-0.5, -0.25], model_version="v1"),
    {"role": "user", "content": "And again?"},
    [{"role": "tool", "content": "42"}, {"role": "user", "content": "so"}],
    ChatAction(tokens=[79, 107, 33], logprobs=[-1.0, -2.0, -3.0], model_version="v2"),
    {"role": "user", "content": "Thanks."},
]
OTHERWISE: list[Any] = [{"role": "user", "content": "No, wait."}, ChatAction(tokens=[110, 111]), HELLO]


# The faces of an episode.


class Awaited:
    """An AsyncChatEnv whose calls block."""

    def __init__(self, env: AsyncChatEnv, run: Callable[[Any], Any]) -> None:
        self.env = env
        self.run = run

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **keywords: self.run(getattr(self.env, name)(*values, **keywords))

    @property
    def observation(self) -> ChatObservation:
        return self.env.observation

    def fork(self, *values: Any, **keywords: Any) -> list[Awaited]:
        return [Awaited(env, self.run) for env in self.run(self.env.fork(*values, **keywords))]


class InProcess:
    """A ChatEnvironment with the names of a client."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def reset(self, **options: Any) -> None:
        self.env.reset(**options)

    def step(self, action: Any) -> None:
        self.env.step(action)

    @property
    def observation(self) -> ChatObservation:
        observation: ChatObservation = self.env.observation
        return observation

    def state(self) -> Any:
        return self.env.state

    def trajectory(self) -> Any:
        return self.env.trajectory()

    def fork(self, n: int = 1, *, at_step: int | None = None) -> list[InProcess]:
        return [InProcess(self.env.fork(at_step)) for _ in range(n)]

    def export(self) -> EpisodeSnapshot:
        snapshot: EpisodeSnapshot = self.env.snapshot()
        return snapshot

    def import_episode(self, snapshot: EpisodeSnapshot | bytes) -> None:
        self.env.restore(snapshot)


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a store."""
    if request.param == "redis":
        redis = pytest.importorskip("tests.stores.conftest").RedisServer(tmp_path_factory.mktemp("redis"))
        yield redis.url
        redis.kill()
    else:
        yield "memory" if request.param == "memory" else f"sqlite:///{tmp_path_factory.mktemp('store')}/episodes.db"


@pytest.fixture(scope="module")
def address(store: str) -> Iterator[str]:
    """A server on that store."""
    with start_server({"store": store}) as address:
        yield address


@pytest.fixture(params=["blocking", "async", "in-process"])
def open_face(request: pytest.FixtureRequest, address: str) -> Iterator[Callable[[], Any]]:
    """Opens an episode's face of one kind."""
    if request.param == "in-process":
        if "memory" not in request.node.callspec.id:
            pytest.skip("in-process there is no store")
        server = pytest.importorskip("chatenv_server")
        tokenizer = pytest.importorskip("chatenv_server.tokenizer_files.byte_tokenizer").ByteTokenizer()
        yield lambda: InProcess(server.ChatEnvironment(tokenizer))
    elif request.param == "blocking":
        with grpc.insecure_channel(address) as channel:
            yield lambda: ChatEnv(channel)
    else:
        loop = asyncio.new_event_loop()

        async def open_channel() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(address)

        run: Any = loop.run_until_complete
        opened_channel = run(open_channel())
        yield lambda: Awaited(run(opened(opened_channel)), run)
        run(opened_channel.close())
        loop.close()


async def opened(channel: grpc.aio.Channel) -> AsyncChatEnv:
    return AsyncChatEnv(channel)


def shown(env: Any) -> tuple[Any, ...]:
    """What an episode shows, but for its name."""
    observation = env.observation
    return (
        observation.token_ids.tolist(),
        observation.fingerprint(),
        observation.messages,
        observation.step_count,
        observation.done,
        observation.seed,
        observation.metadata,
        observation.segment,
    )


def recorded(env: Any) -> tuple[Any, ...]:
    """What an episode has on record, but for its name."""
    state, trajectory = env.state(), env.trajectory()
    return (
        state.history_messages,
        state.token_ids.tolist(),
        state.turns,
        [(segment.tokens.tolist(), segment.logprobs.tobytes(), segment.turns) for segment in trajectory.segments],
        state.prompt_fingerprint,
    )


def played(env: Any, script: list[Any]) -> list[Any]:
    """What an episode shows after its opening and after each step of a script."""
    env.reset(**OPENING)
    moments = [shown(env)]
    for action in script:
        env.step(action)
        moments.append(shown(env))
    return moments


# Forks.


def test_a_fork_at_every_step_is_the_episode_as_it_was_then_and_ends_as_one_that_never_forked(
    open_face: Callable[[], Any],
) -> None:
    env = open_face()
    moments = played(env, SCRIPT)
    for step, moment in enumerate(moments):
        (fork,) = env.fork(at_step=step)
        assert shown(fork) == moment
        assert tuple(fork.state().forked_from) == (env.observation.episode_id, step)
        alone = open_face()
        played(alone, SCRIPT[:step])
        assert recorded(fork) == recorded(alone)
        for action in OTHERWISE:
            fork.step(action)
            alone.step(action)
            assert shown(fork) == shown(alone)
        assert recorded(fork) == recorded(alone)


def test_forks_go_their_own_way_and_leave_the_episode_as_it_is(open_face: Callable[[], Any]) -> None:
    env = open_face()
    played(env, SCRIPT)
    before = shown(env), recorded(env)
    one, other = env.fork(2)
    assert shown(one) == shown(other) == shown(env)
    one.observation.metadata["mine"] = True
    one.step(ChatAction(tokens=[1, 2]))
    assert shown(other) == before[0]
    other.step({"role": "user", "content": "Mine."})
    for fork in (one, other):
        assert fork.observation.messages == fork.state().history_messages
    assert shown(one) != shown(other)
    assert (shown(env), recorded(env)) == before
    env.step(ChatAction(tokens=[1, 2]))
    assert shown(env) == shown(one)


def test_a_fork_is_forked_as_any_episode_is(open_face: Callable[[], Any]) -> None:
    env = open_face()
    moments = played(env, SCRIPT)
    (child,) = env.fork(at_step=4)
    (grandchild,) = child.fork(at_step=2)
    (latest,) = child.fork()
    assert (shown(grandchild), shown(latest)) == (moments[2], moments[4])
    assert grandchild.state().forked_from.episode_id == child.observation.episode_id
    grandchild.step(SCRIPT[2])
    assert shown(grandchild) == moments[3]


def test_a_fork_of_a_later_segment_shows_that_segment(open_face: Callable[[], Any]) -> None:
    env = open_face()
    env.reset(**OPENING, history_policy="segment")
    for action in SCRIPT[:4]:
        env.step(action)
    env.step(ChatAction(messages=({"role": "user", "content": "Anew."},), replace_from=0))
    assert env.observation.segment == 1
    (now,) = env.fork()
    (then,) = env.fork(at_step=4)
    assert (shown(now), recorded(now)) == (shown(env), recorded(env))
    assert then.observation.segment == 0
    for fork in (now, then):
        fork.step(ChatAction(tokens=[65]))
        assert fork.state().token_ids.tolist() == fork.observation.token_ids.tolist()


def test_an_episode_that_nobody_has_spoken_in_is_copied_as_any_other(open_face: Callable[[], Any]) -> None:
    env, copy = open_face(), open_face()
    env.reset()
    (fork,) = env.fork()
    snapshot = env.export()
    if hasattr(env, "close"):
        env.close()
    copy.import_episode(snapshot)
    for each in (fork, copy):
        assert shown(each)[0] == []
        each.step(ChatAction(tokens=[65, 66]))
        assert each.observation.token_ids.tolist() == [65, 66]


@pytest.mark.parametrize("step", [6, -1, 2**31])
def test_a_step_that_was_not_taken_is_none_to_fork_at(open_face: Callable[[], Any], step: int) -> None:
    env = open_face()
    played(env, SCRIPT)
    before = shown(env), recorded(env)
    with pytest.raises(InvalidRequestError) as caught:
        env.fork(at_step=step)
    assert (caught.value.reason, caught.value.field) == ("BAD_AT_STEP", "at_step")
    assert (shown(env), recorded(env)) == before


def test_a_fork_outlives_the_episode_and_ends_with_its_own_client(address: str) -> None:
    with ChatEnv(address) as env:
        env.reset(**OPENING)
        one, other = env.fork(2)
    ids = [one.episode_id, other.episode_id]
    with one:
        one.step(HELLO)
    other.step(HELLO)
    with ChatEnv(address) as reader:
        assert [each.episode_id for each in reader.episodes() if each.episode_id in ids] == ids[1:]
        other.close()
        assert [each.episode_id for each in reader.episodes() if each.episode_id in ids] == []


def test_the_last_client_of_a_channel_closes_it(address: str) -> None:
    env = ChatEnv(address)
    env.reset(**OPENING)
    (fork,) = env.fork()
    channel = env._connection.channel
    env.close()
    fork.server_info()
    fork.close()
    with pytest.raises(ValueError, match="closed"):
        ChatEnv(channel).server_info()


def test_a_fork_under_given_ids_may_be_asked_for_again_until_it_goes_its_way(address: str) -> None:
    with ChatEnv(address) as env:
        env.reset(**OPENING)
        ids = [f"{env.episode_id}.a", f"{env.episode_id}.b"]
        one, other = env.fork(episode_ids=ids)
        again = env.fork(episode_ids=ids)
        assert [each.episode_id for each in again] == ids
        assert len(list(env.episodes(f"{env.episode_id}."))) == 2
        one.step(HELLO)
        with pytest.raises(EpisodeExistsError):
            env.fork(episode_ids=ids)
        assert one.step(HELLO).observation.step_count == 2
        assert other.step(HELLO).observation.step_count == 1
        one.close()
        other.close()


def test_a_fork_whose_answer_was_lost_is_found_by_the_next(address: str) -> None:
    with ChatEnv(address) as env:
        env.reset(**OPENING)
        lost = env._session.fork(2, None, None)
        with grpc.insecure_channel(address) as channel:
            ChatEnvServiceStub(channel).ForkEpisode(lost.request)
        forks = env.fork(2)
        assert [fork.episode_id for fork in forks] == list(lost.request.fork_ids)
        assert not {fork.episode_id for fork in env.fork(2)} & set(lost.request.fork_ids)
        assert len(list(env.episodes(lost.request.fork_ids[0][:32]))) == 2


def test_where_one_fork_cannot_be_made_there_is_none(address: str) -> None:
    with ChatEnv(address) as env, ChatEnv(address) as stranger:
        env.reset(**OPENING)
        taken = stranger.reset(**OPENING).observation.episode_id
        before = recorded(stranger)
        with pytest.raises(EpisodeExistsError):
            env.fork(episode_ids=[f"{taken}.a", taken, f"{taken}.b"])
        with pytest.raises(InvalidRequestError):
            env.fork(episode_ids=[f"{taken}.a", "no id"])
        assert [each.episode_id for each in env.episodes(taken)] == [taken]
        assert recorded(stranger) == before


def test_a_fork_that_was_there_stays_where_another_cannot_be_made(address: str) -> None:
    with ChatEnv(address) as env:
        taken = env.reset(**OPENING).observation.episode_id
        (there,) = env.fork(episode_ids=[f"{taken}.a"])
        with pytest.raises(EpisodeExistsError):
            env.fork(episode_ids=[f"{taken}.a", taken])
        assert there.step(HELLO).observation.step_count == 1
        there.close()


def test_a_fork_of_an_episode_that_was_started_anew_is_another_one(address: str) -> None:
    with ChatEnv(address) as env:
        taken = env.reset(**OPENING).observation.episode_id
        (there,) = env.fork(episode_ids=[f"{taken}.a"])
        before = recorded(there)
        env.reset(episode_id=taken, messages=[{"role": "user", "content": "Quite another question?"}])
        with pytest.raises(EpisodeExistsError):
            env.fork(episode_ids=[f"{taken}.a"])
        assert recorded(there) == before
        there.close()


def test_callers_that_ask_for_the_same_forks_at_once_all_get_them(address: str) -> None:
    with ChatEnv(address) as env:
        env.reset(**OPENING)
        ids = [f"{env.episode_id}.{number}" for number in range(12)]

        def ask(turn: int) -> list[str]:
            with grpc.insecure_channel(address) as channel:
                caller = ChatEnv(channel)
                caller.resume(str(env.episode_id))
                asked = ids[turn:] + ids[:turn] if turn % 2 else list(reversed(ids))
                return [str(fork.episode_id) for fork in caller.fork(episode_ids=asked)]

        with ThreadPoolExecutor(8) as threads:
            for answered in threads.map(ask, range(16)):
                assert sorted(answered) == sorted(ids)
        assert sorted(each.episode_id for each in env.episodes(f"{env.episode_id}.")) == sorted(ids)
        for fork in env.fork(episode_ids=ids):
            assert shown(fork) == shown(env)
            fork.close()


def test_what_was_copied_before_a_restart_is_known_after_it(serving: Serving, tmp_path: Path) -> None:
    settings = {"store": f"sqlite:///{tmp_path}/episodes.db"}
    with serving(settings) as target, grpc.insecure_channel(target) as channel:
        env = ChatEnv(channel)
        moments = played(env, SCRIPT)
        snapshot, origin = env.export(), str(env.episode_id)
        (fork,) = env.fork(episode_ids=["fork"], at_step=2)
        before = recorded(fork)
    with serving(settings) as target, grpc.insecure_channel(target) as channel:
        env, copy = ChatEnv(channel), ChatEnv(channel)
        copy.import_episode(snapshot)
        with pytest.raises(EpisodeExistsError):
            ChatEnv(channel).import_episode(snapshot, "fork")
        env.resume(origin)
        assert shown(env)[:4] == moments[-1][:4]
        (fork,) = env.fork(episode_ids=["fork"], at_step=2)
        assert (shown(fork), recorded(fork)) == (moments[2], before)
        assert [each.episode_id for each in env.episodes("fork")] == ["fork"]


def test_copies_are_the_same_from_every_server_of_a_store(store: str, address: str, serving: Serving) -> None:
    if store == "memory":
        pytest.skip("no other server knows what it holds")
    with serving({"store": store}) as elsewhere, ChatEnv(address) as env, ChatEnv(elsewhere) as other:
        env.reset(**OPENING)
        name = f"{env.episode_id}.fork"
        (here,) = env.fork(episode_ids=[name])
        other.resume(str(env.episode_id))
        (there,) = other.fork(episode_ids=[name])
        assert there.step(HELLO).observation.step_count == 1
        with pytest.raises(EpisodeExistsError):
            env.fork(episode_ids=[name])
        there.close()
        (again,) = env.fork(episode_ids=[name])
        assert again.step(SCRIPT[0]).observation.step_count == 1
        with pytest.raises(EpisodeExistsError):
            ChatEnv(elsewhere).import_episode(env.export(), name)
        assert [each.step_count for each in other.episodes(name)] == [1]
        assert here.episode_id == name
        again.close()


def test_the_id_of_an_episode_that_has_ended_is_free(address: str, serving: Serving) -> None:
    now = [0.0]
    with (
        serving({"idle_timeout": 10.0}, clock=lambda: now[0]) as target,
        ChatEnv(address) as env,
        ChatEnv(target) as other,
    ):
        env.reset(**OPENING)
        (fork,) = env.fork(episode_ids=[f"{env.episode_id}.a"])
        fork.step(HELLO)
        fork.close()
        (fork,) = env.fork(episode_ids=[f"{env.episode_id}.a"])
        assert fork.observation.step_count == 0
        fork.close()
        other.reset(episode_id="expired", messages=[HELLO])
        now[0] = 20.0
        other.import_episode(env.export(), "expired")
        assert shown(other) == shown(env)


def test_an_episode_that_is_over_is_forked_where_it_was_not(address: str) -> None:
    with ChatEnv(address) as env:
        env.reset(messages=[HELLO], max_steps=2)
        env.step(HELLO)
        assert env.step(HELLO).done
        over, before = (*env.fork(), *env.fork(at_step=1))
        assert over.observation.truncated
        assert not before.observation.done
        assert before.step(HELLO).done


# Groups.


def test_each_episode_of_a_vector_becomes_a_group_that_shares_its_past(address: str) -> None:
    with VectorChatEnv(address, 3) as env:
        env.reset([{"messages": [{"role": "user", "content": text}]} for text in "abc"], seed=5)
        env.step([ChatAction(tokens=[65 + index]) for index in range(3)])
        shared = [observation.token_ids.tolist() for observation in env.observations]
        with env.fork_groups(4) as groups:
            assert len(groups) == 12
            assert [one.token_ids.tolist() for one in groups.observations] == [s for s in shared for _ in range(4)]
            results = groups.step([ChatAction(tokens=[index]) for index in range(12)])
            for index, (result, trajectory) in enumerate(zip(results, groups.trajectories(), strict=True)):
                past = shared[index // 4]
                assert result.observation.token_ids[: len(past) + 1].tolist() == [*past, index]
                assert trajectory.tokens.tolist() == result.observation.token_ids.tolist()
        assert [observation.token_ids.tolist() for observation in env.observations] == shared
        env.step([HELLO] * 3)


def test_a_vector_that_cannot_fork_all_episodes_forks_none(serving: Serving) -> None:
    with serving({"max_episodes": 5}) as target, VectorChatEnv(target, 2) as env, ChatEnv(target) as reader:
        env.reset(messages=[HELLO])
        with pytest.raises(Exception, match="as many as this server allows"):
            env.fork_groups(2)
        assert len(list(reader.episodes())) == 2
        with env.fork_groups(1) as groups:
            groups.step([HELLO, HELLO])


# Exports and imports.


def test_an_exported_episode_goes_on_as_if_it_had_never_left(open_face: Callable[[], Any]) -> None:
    for steps in range(len(SCRIPT) + 1):
        env, copy = open_face(), open_face()
        played(env, SCRIPT[:steps])
        snapshot, before = env.export(), (shown(env), recorded(env))
        assert EpisodeSnapshot.FromString(snapshot.SerializeToString()) == snapshot
        if hasattr(env, "close"):
            env.close()
        copy.import_episode(snapshot.SerializeToString())
        assert (shown(copy), recorded(copy)) == before
        assert copy.observation.episode_id == snapshot.episode_id
        alone = open_face()
        played(alone, SCRIPT[:steps])
        for action in OTHERWISE:
            copy.step(action)
            alone.step(action)
        assert (shown(copy), recorded(copy)) == (shown(alone), recorded(alone))


def test_an_episode_moves_to_another_server(address: str, serving: Serving) -> None:
    with ChatEnv(address) as env, serving() as elsewhere:
        played(env, SCRIPT)
        with ChatEnv.from_snapshot(elsewhere, env.export()) as moved:
            assert (shown(moved), recorded(moved)) == (shown(env), recorded(env))
            for each in (env, moved):
                each.step(ChatAction(tokens=[65, 66]))
            assert (shown(moved), recorded(moved)) == (shown(env), recorded(env))
            (fork,) = moved.fork(at_step=1)
            with ChatEnv.from_snapshot(address, fork.export(), episode_id="back") as back:
                assert shown(back) == shown(fork)
                assert back.state().forked_from == fork.state().forked_from
            fork.close()


def test_an_episode_that_went_on_is_not_taken_back_to_its_snapshot_while_it_is_live(address: str) -> None:
    with ChatEnv(address) as env:
        played(env, SCRIPT)
        saved = env.export()
        with ChatEnv(address) as same:
            same.import_episode(saved)  # nothing has happened to it since
            env.step(ChatAction(tokens=[65, 66]))
            with pytest.raises(EpisodeExistsError):
                ChatEnv.from_snapshot(address, saved)
            with ChatEnv.from_snapshot(address, saved, episode_id="a-copy") as copy:
                assert copy.observation.step_count == env.observation.step_count - 1
    with ChatEnv.from_snapshot(address, saved) as again:
        assert again.observation.step_count == len(SCRIPT)


def test_an_import_is_forked_at_every_step_as_its_original_was(address: str, serving: Serving) -> None:
    with serving() as elsewhere, ChatEnv(elsewhere) as env, ChatEnv(address) as copy:
        env.reset(**OPENING, history_policy="segment")
        moments = [shown(env)]
        for action in [*SCRIPT, ChatAction(messages=(HELLO,), replace_from=0), *SCRIPT]:
            env.step(action)
            moments.append(shown(env))
        copy.import_episode(env.export())
        for step, moment in enumerate(moments):
            (fork,) = copy.fork(at_step=step)
            assert shown(fork) == moment
            assert recorded(fork) == recorded(*env.fork(at_step=step))
            fork.close()


def test_an_import_may_be_repeated_and_takes_no_other_episodes_place(address: str) -> None:
    with ChatEnv(address) as env:
        played(env, SCRIPT)
        snapshot = env.export()
        name = f"{env.episode_id}.copy"
        copy, again = ChatEnv(address), ChatEnv(address)
        assert copy.import_episode(snapshot, name).observation.step_count == len(SCRIPT)
        again.import_episode(snapshot, name)
        copy.step(HELLO)
        with pytest.raises(EpisodeExistsError):
            ChatEnv(address).import_episode(snapshot, name)
        assert copy.step(HELLO).observation.step_count == len(SCRIPT) + 2
        assert len(list(env.episodes(name))) == 1
        copy.close()


def test_another_tokenizers_episode_is_refused(address: str, serving: Serving, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}")
    with ChatEnv(address) as env, serving({"chat_template": str(template)}) as target, ChatEnv(target) as other:
        played(env, SCRIPT)
        other.reset()
        before = other.episode_id
        with pytest.raises(TokenizerMismatchError):
            other.import_episode(env.export(), f"{env.episode_id}.moved")
        with pytest.raises(EpisodeUnknownError):
            other.resume(f"{env.episode_id}.moved")
        assert before


def damaged(snapshot: EpisodeSnapshot) -> Iterator[tuple[str, EpisodeSnapshot | bytes]]:
    """Snapshots that are none any more."""
    yield "no bytes", b""
    yield "other bytes", b"\xff\xff\xff"
    for index, field in itertools.product(range(len(snapshot.entries)), ("sampled", "went_on")):
        altered = pb.EpisodeSnapshot.FromString(snapshot.SerializeToString())
        if altered.entries[index].HasField(field) and (tokens := getattr(altered.entries[index], field).tokens):
            tokens[0] += 1
            yield f"another token in entry {index}", altered
    for index in range(len(snapshot.entries)):
        cut = pb.EpisodeSnapshot.FromString(snapshot.SerializeToString())
        del cut.entries[index]
        yield f"without entry {index}", cut
        short = pb.EpisodeSnapshot.FromString(snapshot.SerializeToString())
        del short.entries[index:]
        yield f"cut off before entry {index}", short
    newer = pb.EpisodeSnapshot.FromString(snapshot.SerializeToString())
    newer.format += 1
    yield "a newer format", newer


def test_a_damaged_snapshot_is_refused_and_nothing_is_there(address: str) -> None:
    with ChatEnv(address) as env, ChatEnv(address) as copy:
        played(env, SCRIPT)
        name = f"{env.episode_id}.copy"
        for what, snapshot in damaged(env.export()):
            with pytest.raises(InvalidRequestError) as caught:
                copy.import_episode(snapshot, name)
            assert (caught.value.reason, caught.value.field) == ("BAD_SNAPSHOT", "snapshot"), what
            assert copy.episode_id is None
        assert list(env.episodes(name)) == []


def test_a_snapshot_that_ends_where_an_earlier_segment_did_is_refused_as_cut_off(address: str) -> None:
    with ChatEnv(address) as env, ChatEnv(address) as copy:
        played(env, SCRIPT)
        for action in (
            ChatAction(messages=(HELLO,), replace_from=0),
            *SCRIPT,
            ChatAction(messages=(HELLO,), replace_from=1),
        ):
            env.step(action)
        assert env.state().segment == 2
        whole = env.export()
        for count in range(len(whole.entries)):
            short = pb.EpisodeSnapshot.FromString(whole.SerializeToString())
            del short.entries[count:]
            with pytest.raises(InvalidRequestError) as caught:
                copy.import_episode(short, f"{env.episode_id}.copy")
            assert caught.value.reason == "BAD_SNAPSHOT"
        copy.import_episode(whole, f"{env.episode_id}.copy")
        for each in (env, copy):
            each.step(ChatAction(tokens=[65, 66]))
        assert (shown(copy), recorded(copy)) == (shown(env), recorded(env))
        for step in range(len(whole.entries)):
            (fork,) = copy.fork(at_step=step)
            with ChatEnv.from_snapshot(address, fork.export(), episode_id=f"{env.episode_id}.{step}") as again:
                assert shown(again) == shown(fork)
            fork.close()


# Lists.


def test_a_list_shows_every_live_episode_once_newest_use_first(address: str) -> None:
    with VectorChatEnv(address, 7) as env, ChatEnv(address) as reader:
        env.reset([{"episode_id": f"list-{index}", "messages": [HELLO]} for index in range(7)], metadata={"a": 1})
        for index in (3, 0):
            env.step([HELLO if each == index else None for each in range(7)])
        for size in (1, 2, 3, 6, 7, 1000, 0):
            listed = list(reader.episodes("list-", page_size=size))
            names = [each.episode_id for each in listed]
            assert names[:2] == ["list-0", "list-3"]
            assert sorted(names) == [f"list-{index}" for index in range(7)]
            assert listed == sorted(listed, key=lambda each: -each.last_used_unix_seconds)
        first = next(reader.episodes("list-"))
        assert (first.step_count, first.message_count, first.metadata) == (1, 2, {"a": 1})
        assert first.token_count == len(env.observations[0].token_ids)
        assert first.created_unix_seconds <= first.last_used_unix_seconds
        assert [each.episode_id for each in reader.episodes("list-4")] == ["list-4"]
        assert list(reader.episodes("list-none")) == []


def test_an_episode_that_nobody_uses_is_listed_once_while_others_are_used(address: str) -> None:
    with VectorChatEnv(address, 9) as env, ChatEnv(address) as reader:
        env.reset([{"episode_id": f"busy-{index}"} for index in range(9)])
        seen = []
        for each in reader.episodes("busy-", page_size=2):
            seen.append(each.episode_id)
            env.step([HELLO, *[None] * 8])
        assert sorted(set(seen)) == [f"busy-{index}" for index in range(9)] or sorted(set(seen)) == [
            f"busy-{index}" for index in range(1, 9)
        ]
        assert all(seen.count(f"busy-{index}") == 1 for index in range(1, 9))


def test_the_async_client_lists_as_the_other_does(address: str) -> None:
    async def names() -> list[str]:
        async with AsyncChatEnv(address) as reader:
            return [each.episode_id async for each in reader.episodes("async-", page_size=1)]

    with VectorChatEnv(address, 3) as env:
        env.reset([{"episode_id": f"async-{index}"} for index in range(3)])
        with ChatEnv(address) as reader:
            assert asyncio.run(names()) == [each.episode_id for each in reader.episodes("async-")]


@pytest.mark.parametrize("size", [-1, 1001, 2**33])
def test_a_page_of_no_size_is_refused(address: str, size: int) -> None:
    with ChatEnv(address) as reader, pytest.raises(InvalidRequestError) as caught:
        list(reader.episodes(page_size=size))
    assert (caught.value.reason, caught.value.field) == ("BAD_PAGE", "page_size")
