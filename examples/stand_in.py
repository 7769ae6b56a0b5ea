"""Plays an episode of a task over gRPC, with a script in the place of a language model. The examples use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from chatenv_client import ChatAction, ChatEnv, Message
from chatenv_server import Settings, Task, serve

Script = Callable[[Sequence[Message]], str]
"""What the model says to a conversation. A real model is given `observation.tokens` instead."""


def play(task: type[Task], script: Script, **options: Any) -> None:
    """Serve a task, play one episode of it, and print what is said and what it is worth.

    Args:
        task: what answers; `chatenv-server --task module:attribute` is the same as a command.
        script: speaks as the model.
        options: of the reset, such as `seed`.
    """
    with serve(Settings(listen=("127.0.0.1:0",), drain_grace=5), task=task) as server, ChatEnv(server.target) as env:
        stops = next(token.id for token in env.server_info().special_tokens if token.text == "<|im_end|>")
        result = env.reset(**options)
        show(result.observation.messages)
        while not result.done:
            before = len(result.observation.messages)
            said = script(result.observation.messages)
            # A token of the built-in tokenizer is a byte. One step brings the model's turn and the task's answer.
            result = env.step(ChatAction(tokens=[*said.encode(), stops]))
            show(result.observation.messages[before:])
        trajectory = env.trajectory()
    print(f"\n{'terminated' if trajectory.terminated else 'truncated'}; reward {trajectory.reward:g}")
    for turn in trajectory.turns:
        if turn.rewards:
            print(f"   step {turn.step}: {', '.join(f'{name} {value:g}' for name, value in turn.rewards.items())}")


def show(messages: Iterable[Message]) -> None:
    """Print messages, each with who says it."""
    for message in messages:
        text = str(message.get("content") or "")
        calls = [
            f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", ())
        ]
        print(f"{message['role']:>9} | " + "\n          | ".join([*text.splitlines(), *calls]))
