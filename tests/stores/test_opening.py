"""URLs of stores: which are known, and what is said of others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatenv_client.distribution import MissingExtraError
from chatenv_client.errors import StoreUnavailableError
from chatenv_server.stores.opening import open_store
from tests.stores.conftest import RedisServer, free_port
from tests.stores.model import begin


def test_memory_needs_no_store() -> None:
    assert open_store("memory") is None


@pytest.mark.parametrize("query", ["", "?synchronous=FULL", "?synchronous=NORMAL"])
def test_a_path_opens_a_sqlite_file(tmp_path: Path, query: str) -> None:
    store = open_store(f"sqlite://{tmp_path}/a%20b.db{query}")
    assert store is not None
    assert store.name == f"sqlite://{tmp_path}/a%20b.db"
    assert store.write([begin("a")]) == [True]
    assert (tmp_path / "a b.db").exists()
    store.close()


def test_full_asks_for_an_fsync_of_each_commit(tmp_path: Path) -> None:
    from chatenv_server.stores.sqlite import SqliteStore

    for wanted, number in (("NORMAL", 1), ("FULL", 2)):
        store = open_store(f"sqlite://{tmp_path}/e.db?synchronous={wanted}")
        assert isinstance(store, SqliteStore)
        assert store._writing is not None
        assert store._writing.execute("PRAGMA synchronous").fetchone() == (number,)
        assert store._writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        store.close()


@pytest.mark.parametrize("start", ["unix://", "redis+unix://"])
def test_a_socket_opens_a_redis_server(tmp_path: Path, start: str) -> None:
    server = RedisServer(tmp_path, "--unixsocket", str(tmp_path / "s"))
    store = open_store(f"{start}{tmp_path}/s?db=2")
    assert store is not None
    assert store.name == f"{start}{tmp_path}/s"
    assert store.write([begin("a")]) == [True]
    store.close()
    server.kill()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_rediss_is_tls_that_trusts_no_stranger(tmp_path: Path) -> None:
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=redis"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *files], check=True, capture_output=True)
    tls = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    server = RedisServer(tmp_path, "--tls-port", str(port), *tls)
    store = open_store(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
    assert store is not None
    assert store.write([begin("a")]) == [True]
    store.close()
    with pytest.raises(StoreUnavailableError, match=r"certificate verify failed.*; name the authority"):
        open_store(f"rediss://127.0.0.1:{port}/0")
    server.kill()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "a store is one of: memory, sqlite:///PATH"),
        ("postgres://host/db", "no such kind of store"),
        ("Memory", "no such kind of store"),
        ("/var/lib/e.db", "no such kind of store"),
        ("sqlite:", "sqlite:/// and then the path"),
        ("sqlite://", "sqlite:/// and then the path"),
        ("sqlite:///", "sqlite:/// and then the path"),
        ("sqlite://relative.db", "sqlite:/// and then the path"),
        ("sqlite:///a#b", "sqlite:/// and then the path"),
        ("sqlite:///a?synchronous=OFF", "synchronous=NORMAL or"),
        ("sqlite:///a?mode=ro", "and nothing else"),
        ("redis:", "no URL of a Redis server"),
        ("redis:///0", "no URL of a Redis server"),
        ("redis://host:port", "no URL of a Redis server"),
        ("redis://host/name", "no URL of a Redis server"),
        ("redis://:s3/cret@host", "no URL of a Redis server"),
        ("redis://:s3cret#@host:6379", "no URL of a Redis server"),
        ("redis://:12?s3cret@host:6379", "no URL of a Redis server"),
        ("redis://[s3cret", "no URL of a Redis server"),
        ("unix://", "no URL of a Redis server"),
        ("redis://host?s3cret=1", "takes no option"),
        ("redis://host?retry_on_timeout=yes", "takes no option 'retry_on_timeout'"),
        ("redis+cluster://host/1", "a cluster has no databases"),
    ],
)
def test_another_url_is_refused_with_what_it_may_be(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_store(url)
    assert "s3" not in str(caught.value).replace("s3cret'; it takes", "")


def test_the_package_that_redis_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chatenv-rl\[redis\]'"):
        open_store("redis://127.0.0.1:1")
