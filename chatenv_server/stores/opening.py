"""Opens the store that a URL names."""

from __future__ import annotations

from typing import Final, Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from chatenv_server.stores.redis import RedisStore
from chatenv_server.stores.redis_client import REDIS_SCHEMES
from chatenv_server.stores.sqlite import SqliteStore
from chatenv_server.stores.store import Store

KINDS: Final = (
    "memory, sqlite:///PATH (?synchronous=FULL: survives the machine, too), redis://HOST:PORT/DB, rediss://,"
    " redis+cluster://HOST:PORT, rediss+cluster://, unix:///PATH"
)
"""What a URL may be, for a person."""


def open_store(url: str) -> Store | None:
    """Open a store; None: `memory`, which needs none.

    Raises:
        ValueError: the URL names no kind of store, or has a part that its kind doesn't know.
        StoreUnavailableError: the store doesn't answer, or can't be written to.
        MissingExtraError: the packages that this kind of store needs are not installed.
    """
    if url == "memory":
        return None
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return _open_sqlite(url)
    if scheme in REDIS_SCHEMES:
        return RedisStore(url)
    raise ValueError(f"there is no such kind of store; a store is one of: {KINDS}")


def _open_sqlite(url: str) -> SqliteStore:
    parts = urlsplit(url)
    if parts.netloc or parts.fragment or not url.startswith("sqlite:///") or parts.path.endswith("/"):
        raise ValueError(
            "a SQLite store is sqlite:/// and then the path of a file from the root, with %23 for # and so on"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "NORMAL")
    if options or synchronous not in {"NORMAL", "FULL"}:
        raise ValueError("a SQLite store takes ?synchronous=NORMAL or ?synchronous=FULL, and nothing else")
    return SqliteStore(unquote(parts.path), cast(Literal["NORMAL", "FULL"], synchronous))
