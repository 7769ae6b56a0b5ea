"""Episodes in Redis: they survive the servers of chatenv, and any number of those share them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any, Final, NamedTuple

from chatenv_server.stores.checksum import checksum
from chatenv_server.stores.damage import damaged
from chatenv_server.stores.group_commit import Apply, GroupCommit
from chatenv_server.stores.paging import MOST_LOOKED_AT, Use, chosen, use_after
from chatenv_server.stores.redis_client import address, check_installed, open_client, told_as_unavailable
from chatenv_server.stores.redis_scripts import LOAD, LOOK, LOSE, WRITE
from chatenv_server.stores.store import (
    ANSWERS_KEPT_S,
    Append,
    Begin,
    Change,
    End,
    Finish,
    Journal,
    Listed,
    Place,
    Standing,
    Summary,
    Totals,
)

REMEMBERED_S: Final = 24 * 3600
"""Seconds for which an end is remembered: some 200 bytes for each."""

CLUSTER_BUCKETS: Final = 16
"""A cluster spreads episodes over as many hash slots; what one transaction writes lies in one slot."""


class RedisStore:
    """Journals in Redis, 7.0 or later. Safe to use from many threads and processes.

    What was acknowledged survives what the server's own `appendfsync` and replication say. It must not evict
    (`maxmemory-policy noeviction`). Each `write` is one script, one round trip: it takes place wholly or not at all.

    In a cluster, episodes lie in `CLUSTER_BUCKETS` buckets, each with its list and its totals. There a `write` is one
    script for each bucket, and one of them may fail without the others; totals and lists ask every bucket in turn, so
    they are of slightly different moments. All else is as with one server. A store that is opened for a cluster doesn't
    find what one for a single server wrote, nor the other way around.

    A store that was opened before a `fork()` must not be used after it: open one in the child.
    """

    keeps = True

    def __init__(self, url: str) -> None:
        """Connect to the server at `redis://`, `rediss://`, `unix://`, or of the cluster at `redis+cluster://`.

        Raises:
            ValueError: the URL is none.
            StoreUnavailableError: the server doesn't answer, or can't be written to.
            MissingExtraError: the package `redis` is not installed.
        """
        check_installed()
        where = address(url)
        self.name = where.name
        self._open: Callable[[], Any] = lambda: open_client(where)
        self._kept_client: Any = None
        self._buckets = [_Bucket(number) for number in range(CLUSTER_BUCKETS if where.is_cluster else 1)]
        self._group = GroupCommit(self._transaction)
        self.check()

    def write(self, changes: Sequence[Change]) -> list[bool]:
        """As the protocol says."""
        return self._group.write(changes)

    def standing(self, episode_id: str) -> Standing | None:
        """As the protocol says."""
        key = self._bucket(episode_id).episode(episode_id)
        with self._client() as client:
            found = client.hmget(key, "run", "version", "last_used", "end")
        run, version, last_used, end = (field and field.decode() for field in found)
        if run is None:
            return None
        return Standing(Place(run, int(version)), float(last_used), End(end) if end else None)

    def load(self, episode_id: str) -> Journal | None:
        """As the protocol says."""
        bucket = self._bucket(episode_id)
        keys = [bucket.episode(episode_id), bucket.journal(episode_id)]
        with self._client() as client:
            found, kept = _run(client, LOAD, keys)
        try:
            head = _head(found)
        except ValueError as error:
            raise damaged(episode_id, str(error)) from error
        if head is None:
            return None
        if len(kept) != head.place.version:
            raise damaged(episode_id, f"{head.place.version} entries were written, {len(kept)} are left")
        entries = [entry[_CHECKSUM_BYTES:] for entry in kept]
        for before, entry in enumerate(entries):
            if _with_checksum(head.place.run, before, entry) != kept[before]:
                raise damaged(episode_id, f"entry {before + 1} of {len(kept)} is not as it was written")
        return Journal(head.place, entries, head.summary)

    def answer(self, episode_id: str) -> bytes:
        """As the protocol says."""
        bucket = self._bucket(episode_id)
        with self._client() as client:
            found, kept = _run(client, LOAD, [bucket.episode(episode_id), bucket.journal(episode_id)])
        return bytes(kept[0]) if found[-1] is not None and kept else b""

    def totals(self) -> Totals:
        """As the protocol says."""
        with self._client() as client:
            found = [client.hmget(bucket.totals, "episodes", "held_tokens") for bucket in self._buckets]
        return Totals(sum(int(episodes or 0) for episodes, _ in found), sum(int(held or 0) for _, held in found))

    def listed(self, prefix: str, after: str, limit: int) -> tuple[Sequence[Listed], str]:
        """As the protocol says."""
        looked_at = MOST_LOOKED_AT if prefix else min(limit, MOST_LOOKED_AT)
        start = use_after(after)
        with self._client() as client:
            uses = [use for bucket in self._buckets for use in _uses(client, bucket, start, looked_at + 1)]
            page, following = chosen(sorted(uses, reverse=True), prefix, limit)
            heads = self._look(client, [use.episode_id for use in page])
        return [Listed(use.episode_id, head.summary) for use, head in zip(page, heads, strict=True) if head], following

    def idle_since(self, moment: float, limit: int) -> Sequence[tuple[str, str]]:
        """As the protocol says."""
        before = f"({moment!r}"
        with self._client() as client:
            uses: list[tuple[float, str]] = []
            for bucket in self._buckets:
                found = client.zrangebyscore(bucket.use, "-inf", before, start=0, num=limit, withscores=True)
                uses += [(at, episode_id.decode()) for episode_id, at in found]
            ids = [episode_id for _, episode_id in sorted(uses)[:limit]]
            heads = self._look(client, ids)
        return [(episode_id, head.place.run) for episode_id, head in zip(ids, heads, strict=True) if head]

    def check(self) -> None:
        """As the protocol says: writes totals anew."""
        self.write(())

    def close(self) -> None:
        """As the protocol says."""
        if self._kept_client is not None:
            self._kept_client.close()

    def _bucket(self, episode_id: str) -> _Bucket:
        return self._buckets[zlib.crc32(episode_id.encode()) % len(self._buckets)]

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with told_as_unavailable(self.name):
            if self._kept_client is None:
                self._kept_client = self._open()
            yield self._kept_client

    @contextmanager
    def _transaction(self) -> Iterator[Apply]:
        with self._client() as client:
            yield lambda changes: self._make(client, changes)

    def _make(self, client: Any, changes: Sequence[Change]) -> list[bool]:
        """Make changes, bucket by bucket."""
        done = [False] * len(changes)
        of_bucket: dict[_Bucket, list[int]] = {} if changes else {self._buckets[0]: []}
        for number, change in enumerate(changes):
            of_bucket.setdefault(self._bucket(change.episode_id), []).append(number)
        for bucket, numbers in of_bucket.items():
            keys, arguments = [bucket.use, bucket.totals], list[_Argument]()
            for number in numbers:
                change = changes[number]
                keys += bucket.episode(change.episode_id), bucket.journal(change.episode_id)
                arguments += _arguments(change)
            for number, took_place in zip(numbers, _run(client, WRITE, keys, arguments), strict=True):
                done[number] = took_place == 1
        return done

    def _look(self, client: Any, episode_ids: Sequence[str]) -> list[_Head | None]:
        """Where listed episodes stand; those that are gone are taken from the list."""
        heads = dict[str, _Head | None]()
        for bucket in self._buckets:
            ids = [episode_id for episode_id in episode_ids if self._bucket(episode_id) is bucket]
            found = _run(client, LOOK, [bucket.episode(episode_id) for episode_id in ids]) if ids else []
            for episode_id, fields in zip(ids, found, strict=True):
                heads[episode_id] = _head_if_whole(fields)
                if fields[0] is None:
                    _run(client, LOSE, [bucket.use, bucket.totals, bucket.episode(episode_id)], [episode_id])
        return [heads[episode_id] for episode_id in episode_ids]


class _Bucket:
    """The keys of the episodes of one hash slot. The number in them is that of their layout."""

    def __init__(self, number: int) -> None:
        self._start = f"chatenv:1:{{{number}}}"
        self.use = f"{self._start}:use"
        self.totals = f"{self._start}:totals"

    def episode(self, episode_id: str) -> str:
        return f"{self._start}:episode:{episode_id}"

    def journal(self, episode_id: str) -> str:
        return f"{self._start}:journal:{episode_id}"


_Argument = str | bytes | int

_CHECKSUM_BYTES: Final = 4


def _with_checksum(run: str, version: int, entry: bytes) -> bytes:
    return checksum(run, version, entry).to_bytes(_CHECKSUM_BYTES, "big") + entry


def _arguments(change: Change) -> list[_Argument]:
    """Of the script that makes changes."""
    if isinstance(change, Append):
        run, version = change.follows
        entry = _with_checksum(run, version, change.entry)
        return ["append", change.episode_id, run, version, int(change.continues), entry, *_fields(change.summary)]
    if isinstance(change, Begin):
        entries = [_with_checksum(change.run, version, entry) for version, entry in enumerate(change.entries)]
        head = ["begin", change.episode_id, change.run, int(change.replaces), *_fields(change.summary)]
        return [*head, len(entries), *entries]
    if isinstance(change, Finish):
        as_read = "" if change.version is None else str(change.version)
        head = ["finish", change.episode_id, change.run, repr(change.unused_since), as_read, change.end.value]
        return [*head, REMEMBERED_S, change.answer, int(ANSWERS_KEPT_S)]
    return ["touch", change.episode_id, change.run, repr(change.last_used)]


def _fields(summary: Summary) -> tuple[_Argument, ...]:
    """A summary as Redis keeps it. Figures are one short text, so that a hash stays in Redis's compact form."""
    counts = f"{summary.step_count} {summary.token_count} {summary.message_count}"
    figures = f"{counts} {summary.created!r} {int(summary.terminated)} {int(summary.truncated)} {int(summary.failed)}"
    return repr(summary.last_used), summary.held_tokens, figures, summary.metadata_json


class _Head(NamedTuple):
    """A live episode without its entries."""

    place: Place
    summary: Summary


def _head(fields: Sequence[bytes | None]) -> _Head | None:
    """What the scripts answer of an episode; None: it isn't live."""
    if fields[0] is None or fields[-1] is not None:
        return None
    run, version, last_used, held, figures, metadata = ((field or b"").decode() for field in fields[:-1])
    steps, tokens, messages, created, terminated, truncated, failed = figures.split()
    summary = Summary(
        step_count=int(steps),
        token_count=int(tokens),
        held_tokens=int(held),
        message_count=int(messages),
        created=float(created),
        last_used=float(last_used),
        terminated=terminated == "1",
        truncated=truncated == "1",
        failed=failed == "1",
        metadata_json=metadata,
    )
    return _Head(Place(run, int(version)), summary)


def _head_if_whole(fields: Sequence[bytes | None]) -> _Head | None:
    """None also of an episode whose record is broken: a list goes on without it."""
    try:
        return _head(fields)
    except ValueError:
        return None


def _run(client: Any, script: str, keys: Sequence[str], arguments: Sequence[_Argument] = ()) -> Any:
    """Run a script by its digest; a server that doesn't know it has done nothing, and gets its text."""
    from redis.exceptions import NoScriptError

    try:
        return client.evalsha(_digest(script), len(keys), *keys, *arguments)
    except NoScriptError:
        return client.eval(script, len(keys), *keys, *arguments)


@cache
def _digest(script: str) -> str:
    """By which Redis knows a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _uses(client: Any, bucket: _Bucket, start: Use, most: int) -> list[Use]:
    """At most so many uses of a bucket after one of them, in order. Those of its very moment are passed over first."""
    found: list[Use] = []
    for offset in count(0, most):
        some = client.zrevrangebyscore(bucket.use, start.at, "-inf", start=offset, num=most, withscores=True)
        found += [use for episode_id, at in some if (use := Use(at, episode_id.decode())) < start]
        if len(found) >= most or len(some) < most:
            return found[:most]
    raise AssertionError
