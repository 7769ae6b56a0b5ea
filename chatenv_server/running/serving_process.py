"""One of several serving processes, as their parent sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from typing import Final

from chatenv_server.settings.settings import Settings

_READ_BYTES: Final = 65_536


class ServingProcess:
    """A fresh interpreter that runs `child`.

    Args:
        number: among its siblings, from 1 on.
        settings: of this process.
    """

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        self.said: dict[str, str] = {}
        """What it says of itself, once it serves."""
        self.why = ""
        """Why it could not start."""
        self._heard = b""
        self._ready_since = self._ended_at = 0.0
        self._asked_before_ready = False
        charge, self._leash = os.pipe()
        self.told, tell = os.pipe()
        """Can be read when it has said something or has ended."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "chatenv_server.running.child", str(tell)],
                stdin=charge,
                pass_fds=[tell],
                start_new_session=True,  # Ctrl-C at a terminal is for the parent, which passes it on once
            )
        finally:
            os.close(charge)
            os.close(tell)
        given = {"number": number, "settings": dataclasses.asdict(settings)}
        with contextlib.suppress(BrokenPipeError):  # it is dead already, which will be heard
            os.write(self._leash, json.dumps(given).encode() + b"\n")

    def hear(self) -> bool:
        """Take in what it has said; whether it lives."""
        heard = os.read(self.told, _READ_BYTES)
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            fields = json.loads(line)
            if fields.pop("what") == "ready":
                self.said, self._ready_since = fields, time.monotonic()
            else:
                self.why = fields["why"]
        return bool(heard)

    @property
    def served_s(self) -> float:
        """For how long it served, or serves."""
        return (self._ended_at or time.monotonic()) - self._ready_since if self.said else 0.0

    def bury(self) -> int:
        """Take in that it has ended; its exit code, below 0 where a signal ended it."""
        code = self._process.wait()
        self._ended_at = time.monotonic()
        os.close(self.told)
        os.close(self._leash)
        return code

    def ask_to_end(self) -> None:
        """Have it drain. One that does not serve yet has nothing to drain, and is killed."""
        self._asked_before_ready = not self.said
        self._process.send_signal(signal.SIGTERM if self.said else signal.SIGKILL)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    @property
    def has_failed(self) -> bool:
        """Whether it ended otherwise than by what it was asked."""
        return self._process.returncode != 0 and not self._asked_before_ready
