"""Clients of Redis servers by URL: short timeouts, nothing tried twice, and what their failures mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qs, urlsplit

from chatenv_client.distribution import needing
from chatenv_client.errors import StoreUnavailableError

if TYPE_CHECKING:
    from redis import Redis, RedisCluster

CONNECT_TIMEOUT_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 1.5
"""With `CONNECT_TIMEOUT_S`: a server that hangs is an error after two or three seconds."""

_IDLE_S: Final = 30
"""Seconds after which a connection that nobody used is tried before it is trusted."""

REDIS_SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "redis+unix": "unix",
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
}
"""Of our URLs, and what the client calls them."""

_OPTIONS: Final = frozenset(
    {"db", "password", "username", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)

_ADVICE: Final = {
    "certificate": "name the authority of its certificate by ?ssl_ca_certs=PATH",
    "Timeout": "see that it runs, and that the network between lets it through",
    "Connection": "see that it runs, and that the network between lets it through",
    "Error while reading": "see that it runs, and that the network between lets it through",
    "connecting to": "see that it runs, and that the network between lets it through",
    "loading": "it starts: try again",
    "read only replica": "give the address of the primary",
    "maxmemory": "give it more memory, or end episodes",
    "MISCONF": "it can't save: free space on its disk",
    "RDB snapshots": "it can't save: free space on its disk",
    "AOF": "it can't save: free space on its disk",
    "uthentication": "give the right user and password",
    "username-password": "give the right user and password",
    "permission": "let its user run scripts and use all keys of chatenv:*",
    "CLUSTERDOWN": "see why the cluster is down",
    "luster": "see that it is a cluster, and that all its slots are served",
}
"""What to do about what the server or the client says."""


def check_installed() -> None:
    """See that there is a client.

    Raises:
        MissingExtraError: the package `redis` is not installed.
    """
    with needing("redis", "a Redis store"):
        import redis  # noqa: F401


class Address(NamedTuple):
    """Where a server or a cluster is."""

    url: str
    """As the client wants it; with its password."""
    name: str
    """For a person; without a password."""
    is_cluster: bool


def address(url: str) -> Address:
    """Read a URL.

    Raises:
        ValueError: it is none of a Redis server. No part of it is told: what is wrong may be a piece of a password.
    """
    try:
        parts = urlsplit(url)
        place = _place(parts)
    except ValueError:
        raise ValueError(
            "this is no URL of a Redis server: it is redis://USER:PASSWORD@HOST:PORT/DB, or unix:///PATH, and what is"
            " special in a user or a password is percent-encoded"
        ) from None
    if unknown := sorted(parse_qs(parts.query, keep_blank_values=True).keys() - _OPTIONS):
        raise ValueError(f"a Redis store takes no option {unknown[0]!r}; it takes {', '.join(sorted(_OPTIONS))}")
    is_cluster = parts.scheme.endswith("+cluster")
    if is_cluster and parts.path.strip("/0"):
        raise ValueError("a cluster has no databases: leave out what follows the port")
    client_url = REDIS_SCHEMES[parts.scheme] + url[len(parts.scheme) :]
    return Address(client_url, f"{parts.scheme}://{place}", is_cluster)


def _place(parts: SplitResult) -> str:
    """What follows the scheme, without a user, a password and options."""
    if REDIS_SCHEMES[parts.scheme] == "unix":
        if not parts.path.strip("/"):
            raise ValueError
        return parts.path
    if not parts.hostname or (parts.path.strip("/") != "" and not parts.path.strip("/").isdecimal()):
        raise ValueError
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or 6379}{parts.path.rstrip('/')}"


def open_client(where: Address) -> Redis | RedisCluster:
    """Make a client; it connects when it is used, and again after a failure.

    No command is tried twice: one that took place though its answer was lost would be refused the second time.
    """
    from redis import Redis, RedisCluster
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "health_check_interval": _IDLE_S,
    }
    return RedisCluster.from_url(where.url, **options) if where.is_cluster else Redis.from_url(where.url, **options)


@contextmanager
def told_as_unavailable(name: str) -> Iterator[None]:
    """Have the client's errors raised as StoreUnavailableError, with what to do."""
    from redis.exceptions import RedisClusterException, RedisError

    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        if isinstance(error, StoreUnavailableError):
            raise
        said = str(error)
        advice = next((advice for words, advice in _ADVICE.items() if words in said), "try again")
        raise StoreUnavailableError(f"the store {name} fails: {said.rstrip('.')}; {advice}") from error
