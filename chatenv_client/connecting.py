"""`connect`: one client, whether a server is elsewhere or the episodes are played in this process."""

from __future__ import annotations

from typing import Any

from chatenv_client.calls import DEFAULT_TIMEOUT_S
from chatenv_client.channel import DEFAULT_MAX_MESSAGE_BYTES, LOCAL, Tls
from chatenv_client.client import ChatEnv
from chatenv_client.distribution import needing


def connect(
    target: str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    tls: Tls | None = None,
    token: str | None = None,
    affinity: bool = False,
    **local: Any,
) -> ChatEnv:
    """A `ChatEnv`: of a server, or with `local:` of episodes that are played in this process.

        with connect("localhost:50051") as env: ...
        with connect("local:Qwen/Qwen2.5-0.5B-Instruct", task=Guess, max_turns=8) as env: ...

    Both have the same methods, results and errors. In this process there is no server, no socket and no thread of gRPC;
    a call is worked on in the thread that makes it, and its `timeout_s` bounds only how long it waits for other calls
    on its episode. Forks are played in the same process.

    Args:
        target: as for `ChatEnv`; or `local:` and the name or folder of a tokenizer, nothing for the embedded one.
        timeout_s: as for `ChatEnv`.
        max_message_bytes: as for `ChatEnv`.
        tls: as for `ChatEnv`; not with `local:`.
        token: as for `ChatEnv`; not with `local:`.
        affinity: as for `ChatEnv`; not with `local:`.
        **local: only with `local:`. `task`, `rows` and `transform`, as objects like those of `ChatEnvironment` or as a
            server's settings name them; `engine`, a `TokenEngine` in place of the tokenizer, which others may share;
            and a server's other settings, such as `system_prompt` or `max_turns`.

    Raises:
        TypeError: there is no such option or setting, or something is no task or transform.
        ImportError: the extra `server` is not installed, which `local:` needs; the message says what to do.
        ValueError: an option or a setting is wrong.
    """
    if not target.startswith(LOCAL):
        if local:
            what = "is" if len(local) == 1 else "are"
            raise TypeError(f"{', '.join(local)} {what} for 'local:' targets; to a server it is given at its start")
        return ChatEnv(
            target, timeout_s=timeout_s, max_message_bytes=max_message_bytes, tls=tls, token=token, affinity=affinity
        )
    if tls is not None or token is not None or affinity:
        raise ValueError("tls, token and affinity are for a server, and 'local:' has none; leave them out")
    with needing("server", "a target that begins with 'local:'"):
        from chatenv_server.running.in_process import open_in_process
    channel = open_in_process(target.removeprefix(LOCAL), max_message_bytes=max_message_bytes, **local)
    env = ChatEnv(channel, timeout_s=timeout_s)
    env._connection.at_close.callback(channel.close)
    return env
