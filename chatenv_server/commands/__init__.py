"""The subcommands of `chatenv-rl`, one per file.

Each is a module with `NAME`, `HELP`, `add_arguments(parser)` and `run(arguments) -> exit code`. It imports what it
needs inside `run`, so that no command pays for another.
"""
