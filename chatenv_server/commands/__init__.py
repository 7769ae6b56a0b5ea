"""The subcommands of `chatenv-rl`, one per file.

Each is a module with `NAME`, `HELP`, `add_arguments(parser)` and `run(arguments) -> exit code`. What it needs beyond
the client it imports inside `run`: no command pays for another, and those that talk to a server run without the server.
"""
