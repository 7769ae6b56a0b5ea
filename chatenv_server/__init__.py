"""chatenv's environment and server: `ChatEnvironment` in-process, and the gRPC service around it.

Public is what `__all__` names; all else in this package is private, and may change with any version.
Importing the package imports none of it yet: commands that only talk to a server run without the extra `server`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chatenv_server.engine import TokenEngine
    from chatenv_server.environment.environment import ChatEnvironment
    from chatenv_server.environment.transforms import Transform, compose
    from chatenv_server.running.process import start as serve
    from chatenv_server.settings.settings import Settings
    from chatenv_server.tasks.endpoint import Endpoint, EndpointError, Reply
    from chatenv_server.tasks.from_reward import from_reward
    from chatenv_server.tasks.judge import Grade, Judge, JudgeError
    from chatenv_server.tasks.mcp import McpTask
    from chatenv_server.tasks.simulated_user import SimulatedUser
    from chatenv_server.tasks.task import Answer, End, ModelTurn, Opening, Task, TaskEpisode
    from chatenv_server.tasks.tool import Tool, ToolUnavailableError
    from chatenv_server.tasks.tool_task import ToolTask

__all__ = [
    "Answer",
    "ChatEnvironment",
    "End",
    "Endpoint",
    "EndpointError",
    "Grade",
    "Judge",
    "JudgeError",
    "McpTask",
    "ModelTurn",
    "Opening",
    "Reply",
    "Settings",
    "SimulatedUser",
    "Task",
    "TaskEpisode",
    "TokenEngine",
    "Tool",
    "ToolTask",
    "ToolUnavailableError",
    "Transform",
    "compose",
    "from_reward",
    "serve",
]

_TASKS: Final = {
    "endpoint": ("Endpoint", "EndpointError", "Reply"),
    "from_reward": ("from_reward",),
    "judge": ("Grade", "Judge", "JudgeError"),
    "mcp": ("McpTask",),
    "simulated_user": ("SimulatedUser",),
    "task": ("Answer", "End", "ModelTurn", "Opening", "Task", "TaskEpisode"),
    "tool": ("Tool", "ToolUnavailableError"),
    "tool_task": ("ToolTask",),
}
_PLACES: Final = {
    **{name: (f"chatenv_server.tasks.{module}", name) for module, names in _TASKS.items() for name in names},
    "ChatEnvironment": ("chatenv_server.environment.environment", "ChatEnvironment"),
    "Settings": ("chatenv_server.settings.settings", "Settings"),
    "TokenEngine": ("chatenv_server.engine", "TokenEngine"),
    "Transform": ("chatenv_server.environment.transforms", "Transform"),
    "compose": ("chatenv_server.environment.transforms", "compose"),
    "serve": ("chatenv_server.running.process", "start"),
}
"""(module, name there) of everything public."""


def __getattr__(name: str) -> Any:
    """What is public, imported when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from chatenv_client.distribution import needing  # which imports gRPC; the server's command has to come before that

    module, name_there = _PLACES[name]
    with needing("server", f"chatenv_server.{name}"):
        value = globals()[name] = getattr(import_module(module), name_there)
    return value
