"""The command `chatenv-server`: reads the settings, serves until it is told to end, drains."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# What gRPC's core has to say it writes past the log, and any caller can make it say something. It reads this when it is
# first imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from chatenv_client.distribution import MissingExtraError, needing

try:
    with needing("server", "chatenv-server"):
        from chatenv_server.observing.logs import configure_logging
        from chatenv_server.running.serving import EXIT_FAILED, EXIT_SETTING, asked_by_signals, serve_alone
        from chatenv_server.running.supervisor import Supervisor
        from chatenv_server.settings.errors import BindError, SettingError
        from chatenv_server.settings.settings import read_settings
except MissingExtraError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)  # as for a wrong setting


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
        configure_logging(settings.log_level, settings.log_format)
        if settings.processes > 1:
            return Supervisor(settings).run()
        return serve_alone(settings, asked_by_signals())
    except (SettingError, BindError) as error:
        sys.stderr.write(f"chatenv-server: {error}\n")
        return EXIT_SETTING if isinstance(error, SettingError) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
