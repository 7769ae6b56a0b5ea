"""Binds a server to its addresses, with TLS where the settings have it, and so that no second server shares one."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc

from chatenv_server.settings.errors import BindError
from chatenv_server.settings.settings import Settings, wrong_setting

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared with, not bound to


class Listeners:
    """The addresses of a server. It binds to all of them, or to none.

    Raises:
        BindError: one of them cannot be bound.
        SettingError: the certificates do not work.
    """

    def __init__(self, server: grpc.Server, settings: Settings) -> None:
        self._sockets: list[UnixSocket] = []
        credentials = _credentials(settings)
        bound: list[str] = []
        try:
            for address in settings.listen:
                if address.startswith("unix:"):
                    path = Path(address.removeprefix("unix://"))
                    self._sockets.append(UnixSocket(server, path, settings.socket_mode))
                    bound.append(address)
                else:
                    bound.append(_bind_tcp(server, address, credentials))
        except BaseException:
            self.close()
            raise
        self.addresses = tuple(bound)
        """As they are bound, with real ports."""

    def close(self) -> None:
        """Remove the sockets that are still this server's own. gRPC itself closes all."""
        for unix_socket in self._sockets:
            unix_socket.remove()


class UnixSocket:
    """A Unix socket that a server is bound to.

    gRPC binds it under another name, which it removes at the server's end; the name that was asked for is a second one
    for the same socket. By then another server may have that name, and gRPC would remove it without a look.
    """

    def __init__(self, server: grpc.Server, path: Path, mode: int) -> None:
        _refuse_live_socket(path)
        # No longer than the path, as far as that can be: the system takes some hundred bytes.
        name = path.with_name(f".{secrets.token_hex(8)}"[: max(9, len(path.name))])
        with _umask(0o777 & ~mode):  # never open wider than asked, not even for a moment
            try:
                server.add_insecure_port(f"unix://{name}")
            except RuntimeError as error:
                raise BindError(
                    f"cannot serve on the socket {path}: see that its folder exists and may be written, "
                    "and that its path is no longer than some hundred bytes"
                ) from error
        self._path = path
        self._identity = _file_identity(name)
        name.replace(path)

    def remove(self) -> None:
        """Remove it, if nobody has taken its place."""
        with contextlib.suppress(OSError):
            if _file_identity(self._path) == self._identity:
                self._path.unlink()


def _file_identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def reachable(address: str) -> str:
    """The address as a client on this machine names it."""
    host, colon, port = address.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}{colon}{port}"


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if not settings.tls_certificate:
        return None
    _check_certificates(settings)
    client_ca = Path(settings.tls_client_ca).read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(Path(settings.tls_key).read_bytes(), Path(settings.tls_certificate).read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _check_certificates(settings: Settings) -> None:
    """Have the standard library read them first: gRPC would fail to bind, as if the address were to blame."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except ssl.SSLError as error:
        what = f"and --tls-key do not work together: {error.reason or 'no PEM certificate and its key'}"
        raise wrong_setting("tls_certificate", what) from error
    try:
        if settings.tls_client_ca:
            context.load_verify_locations(settings.tls_client_ca)
    except ssl.SSLError as error:
        raise wrong_setting("tls_client_ca", "holds no PEM certificates") from error


def _bind_tcp(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    host, _, port_text = address.rpartition(":")
    port = int(port_text)
    # One by one: of a name with several addresses, gRPC is content with one that can be bound, and another
    # server may hold the rest.
    for numeric in numeric_hosts(host):
        port = _add_port(server, f"{numeric}:{port}", credentials)
    return f"{host}:{port}"


def numeric_hosts(host: str) -> list[str]:
    """All addresses of a host, an IPv6 one in brackets.

    Raises:
        BindError: it has none here.
    """
    bare = host.strip("[]")
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(bare)
        return [host]
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        raise BindError(f"cannot serve on {host!r}: the name has no address here ({error.strerror})") from error
    hosts = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [f"[{numeric}]" if ":" in numeric else numeric for numeric in hosts]


def _add_port(server: grpc.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise BindError(
            f"cannot serve on {address}: another process holds it, or it is not an address of this machine; "
            "choose another --listen, or end the other process"
        ) from error


def _refuse_live_socket(path: Path) -> None:
    """Refuse what is served on: gRPC takes over any socket, and only a stale one may be replaced."""
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise BindError(f"cannot serve on the socket {path}: there is a file that is no socket; remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except OSError as error:
            raise BindError(f"cannot serve on the socket {path}: {error.strerror}") from error
    raise BindError(f"cannot serve on the socket {path}: another process serves there")


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
