"""A Redis server that fails: an error in bounded time, nothing half done, and recovery by the same store."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from chatenv_client.errors import EpisodeDamagedError, StoreUnavailableError
from chatenv_server.stores.redis import RedisStore
from chatenv_server.stores.store import Place, Standing, Totals
from tests.stores.conftest import RedisServer
from tests.stores.model import append, begin, finish
from tests.stores.stalling_proxy import StallingProxy
from tests.stores.writer import acknowledged, start_writer

BOUND_S = 4.0
"""A second to connect, and one and a half to answer, on a busy machine."""


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[RedisStore]:
    store = RedisStore(redis_server.url)
    yield store
    store.close()


@contextmanager
def fails(words: str) -> Iterator[pytest.ExceptionInfo[StoreUnavailableError]]:
    """What is done within fails in bounded time, and says why."""
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=words) as caught:
        yield caught
    assert time.monotonic() - started < BOUND_S


def every_call(store: RedisStore) -> list[Callable[[], object]]:
    return [
        lambda: store.write([append("a", 1, b"1")]),
        lambda: store.standing("a"),
        lambda: store.load("a"),
        store.totals,
        lambda: store.listed("", "", 9),
        lambda: store.idle_since(9.0, 9),
        store.check,
    ]


def test_a_server_that_is_stopped_fails_each_call_and_works_when_it_goes_on(
    store: RedisStore, redis_server: RedisServer
) -> None:
    store.write([begin("a", b"0")])
    redis_server.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(7) as threads:
        for outcome in [threads.submit(call) for call in every_call(store)]:
            with fails("Timeout.*; see that it runs"):
                outcome.result()
    redis_server.process.send_signal(signal.SIGCONT)
    standing = store.standing("a")
    assert standing is not None
    version = standing.place.version  # what was sent before the stop may take place after it
    assert version in {1, 2}
    assert store.write([append("a", version, b"last")]) == [True]


def test_a_server_that_is_killed_and_started_again_loses_nothing_that_was_acknowledged(
    store: RedisStore, redis_server: RedisServer
) -> None:
    store.write([begin("a", b"0", held=7)])
    redis_server.kill()
    for call in every_call(store):
        with fails("see that it runs"):
            call()
    redis_server.start()
    assert store.standing("a") == Standing(Place("run", 1), 1.0)
    assert store.write([append("a", 1, b"1", held=9)]) == [True]
    assert store.totals() == Totals(1, 9)


def test_a_restart_between_two_calls_is_not_noticed(store: RedisStore, redis_server: RedisServer) -> None:
    store.write([begin("a", b"0")])
    redis_server.kill()
    redis_server.start()
    assert store.write([append("a", 1, b"1")]) == [True]


def test_an_append_whose_answer_is_lost_is_an_error_and_never_refused(redis_server: RedisServer) -> None:
    proxy = StallingProxy(redis_server.port)
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}")
    store.write([begin("a", b"0")])
    proxy.passes_answers = False
    with fails("Timeout"):
        store.write([append("a", 1, b"1")])
    proxy.passes_answers = True
    assert store.standing("a") == Standing(Place("run", 2), 1.0)
    store.close()
    proxy.close()


def test_a_connection_that_hangs_is_an_error(redis_server: RedisServer) -> None:
    proxy = StallingProxy(redis_server.port)
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}")
    store.write([begin("a", b"0")])
    proxy.passes_requests = False
    for call in every_call(store)[:2]:  # on the open connection, and on a new one
        with fails("Timeout"):
            call()
    proxy.passes_requests = True
    assert store.standing("a") is not None
    store.close()
    proxy.close()


def test_nothing_that_listens_stops_the_start(redis_server: RedisServer) -> None:
    redis_server.kill()
    with fails(rf"redis://127.0.0.1:{redis_server.port}/0 fails: .*refused; see that it runs"):
        RedisStore(redis_server.url)


def test_a_replica_is_an_error_until_it_is_the_primary(store: RedisStore, redis_server: RedisServer) -> None:
    store.write([begin("a", b"0")])
    redis_server("REPLICAOF", "127.0.0.1", 1)
    with fails("give the address of the primary"):
        store.write([append("a", 1, b"1")])
    with fails("give the address of the primary"):
        store.check()
    redis_server("REPLICAOF", "NO", "ONE")
    assert store.write([append("a", 1, b"1")]) == [True]


def test_a_server_without_memory_refuses_the_whole_write_and_still_ends_episodes(
    store: RedisStore, redis_server: RedisServer
) -> None:
    store.write([begin("a", b"0", held=1), begin("b", held=2)])
    redis_server("CONFIG", "SET", "maxmemory", 1)
    with fails("give it more memory, or end episodes"):
        store.write([append("a", 1, b"1", held=5), begin("c")])
    with fails("give it more memory, or end episodes"):
        store.check()
    assert store.totals() == Totals(2, 3)
    assert store.standing("a") == Standing(Place("run", 1), 1.0)
    assert store.write([finish("b")]) == [True]
    redis_server("CONFIG", "SET", "maxmemory", 0)
    assert store.write([append("a", 1, b"1", held=5)]) == [True]
    assert store.totals() == Totals(1, 5)


def test_a_server_that_forgot_its_scripts_is_told_them_again(store: RedisStore, redis_server: RedisServer) -> None:
    store.write([begin("a", b"0")])
    redis_server("SCRIPT", "FLUSH")
    assert store.write([append("a", 1, b"1")]) == [True]


def test_a_user_without_rights_is_told_which(redis_server: RedisServer) -> None:
    redis_server("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-evalsha", "-eval")
    with fails("let its user run scripts"):
        RedisStore(f"redis://reader:secret@127.0.0.1:{redis_server.port}")


def test_a_password_is_in_no_name_and_no_error(redis_server: RedisServer) -> None:
    redis_server("CONFIG", "SET", "requirepass", "s3cret!")
    place = f"127.0.0.1:{redis_server.port}"
    store = RedisStore(f"redis://:s3cret%21@{place}/3")
    assert store.name == f"redis://{place}/3"
    store.close()
    for url, words in (
        (f"redis://:wr0ng-s3cret@{place}", "give the right user and password"),
        (f"redis://{place}", "uthentication"),
        (f"rediss://:s3cret%21@{place}", "see that it runs"),
    ):
        with fails(words) as caught:
            RedisStore(url)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "command",
    [
        ("LSET", "journal", 1, b"\x00\x00\x00\x00altered"),
        ("LSET", "journal", 1, b""),
        ("LPOP", "journal"),
        ("RPOP", "journal"),
        ("RPUSH", "journal", b"more"),
        ("DEL", "journal"),
        ("HSET", "episode", "version", 2),
        ("HSET", "episode", "version", "x"),
        ("HSET", "episode", "run", "other"),
        ("HDEL", "episode", "figures"),
    ],
)
def test_a_damaged_record_is_an_error_and_is_left_as_it_is(
    shared_redis: RedisServer, command: tuple[str | int, ...]
) -> None:
    shared_redis("FLUSHALL")
    store = RedisStore(shared_redis.url)
    store.write([begin("a", b"000", b"1111", b"22222"), begin("b", b"fine")])
    name, kind, *rest = command
    shared_redis(name, f"chatenv:1:{{0}}:{kind}:a", *rest)
    for _ in range(2):
        with pytest.raises(EpisodeDamagedError, match="record of episode a is damaged, and left as it is"):
            store.load("a")
    assert store.load("b") is not None
    assert "b" in [one.episode_id for one in store.listed("", "", 9)[0]]
    assert store.totals().episodes == 2
    store.close()


def test_an_episode_that_redis_evicted_leaves_the_lists(shared_redis: RedisServer) -> None:
    shared_redis("FLUSHALL")
    store = RedisStore(shared_redis.url)
    store.write([begin("a", b"0"), begin("b", b"0")])
    shared_redis("DEL", "chatenv:1:{0}:episode:a", "chatenv:1:{0}:journal:a")
    assert store.idle_since(9.0, 1) == []
    assert store.idle_since(9.0, 1) == [("b", "run")]
    assert store.totals().episodes == 1
    store.close()


def test_writes_that_wait_are_sent_together(store: RedisStore, redis_server: RedisServer) -> None:
    store.write([begin("a")])
    redis_server("CONFIG", "RESETSTAT")
    redis_server.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(8) as threads:
        written = threads.map(lambda n: store.write([begin(f"e{n}")]), range(8))
        time.sleep(0.3)
        redis_server.process.send_signal(signal.SIGCONT)
        assert list(written) == [[True]] * 8
    stats = redis_server("INFO", "commandstats")
    assert isinstance(stats, dict)
    assert stats["cmdstat_evalsha"]["calls"] == 2  # the first, and all that waited for it


@pytest.mark.parametrize("victim", ["writer", "server"])
def test_a_kill_loses_nothing_that_was_acknowledged(store: RedisStore, redis_server: RedisServer, victim: str) -> None:
    writer = start_writer(redis_server.url)
    time.sleep(0.3)
    (writer.kill if victim == "writer" else redis_server.kill)()
    written = acknowledged(writer)
    if victim == "server":
        redis_server.start()
    journal = store.load("a")
    assert journal is not None
    assert written <= journal.place.version <= written + 1
    assert journal.entries == [b"%d" % version * 300 for version in range(journal.place.version)]
    assert store.totals() == Totals(1, journal.place.version)


def test_an_end_expires(shared_redis: RedisServer) -> None:
    shared_redis("FLUSHALL")
    store = RedisStore(shared_redis.url)
    store.write([begin("a", b"0"), finish("a"), begin("b"), finish("b"), begin("b")])
    assert shared_redis("TTL", "chatenv:1:{0}:episode:a") == 24 * 3600
    assert shared_redis("TTL", "chatenv:1:{0}:episode:b") == -1
    assert shared_redis("DBSIZE") == 4  # use, totals, and both episodes: of their journals nothing is left
    store.close()
