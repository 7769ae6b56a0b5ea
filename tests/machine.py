"""What tests ask of the machine that they run on: a free port, certificates, what a process takes."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

OPENSSL: Final = shutil.which("openssl")


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def status_of(pid: int, name: str) -> int:
    """A line of the kernel's account of a process, which is Linux's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise AssertionError(name)


def resident_bytes(pid: int) -> int:
    """The memory that a process has now."""
    return status_of(pid, "VmRSS") * 1024


class Certificates:
    """An authority, and certificates of a server and a client that it signed, as PEM files. Needs OPENSSL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._openssl(
            "req", "-x509", "-subj", "/CN=ca", "-days", "2", *self._new_key("ca"), "-out", self.path("ca.pem")
        )
        for name in ("server", "client"):
            self._openssl("req", "-subj", f"/CN={name}", *self._new_key(name), "-out", self.path(f"{name}.csr"))
            (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,DNS:chatenv.test,IP:127.0.0.1")
            self._openssl(
                *("x509", "-req", "-in", self.path(f"{name}.csr"), "-days", "2", "-CAcreateserial"),
                *("-CA", self.path("ca.pem"), "-CAkey", self.path("ca.key")),
                *("-extfile", self.path(f"{name}.ext"), "-out", self.path(f"{name}.pem")),
            )

    @property
    def of_server(self) -> dict[str, str]:
        """The settings of a server that shows its certificate."""
        return {"tls_certificate": self.path("server.pem"), "tls_key": self.path("server.key")}

    def path(self, name: str) -> str:
        """Of a file."""
        return str(self._folder / name)

    def read(self, name: str) -> bytes:
        """Contents of a file."""
        return (self._folder / name).read_bytes()

    def _new_key(self, name: str) -> list[str]:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        return [*curve, "-nodes", "-keyout", self.path(f"{name}.key")]

    def _openssl(self, *arguments: str) -> None:
        subprocess.run([str(OPENSSL), *arguments], check=True, capture_output=True)
