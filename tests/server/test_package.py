"""What `import chatenv_server` offers."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from typing import Any

import pytest

import chatenv_server
from chatenv_client import ChatEnv
from chatenv_client.distribution import MissingExtraError
from chatenv_server import Settings, serve


def test_public_is_what_users_need_and_the_package_says_that_all_else_is_private() -> None:
    environment = {"ChatEnvironment", "Settings", "TokenEngine", "Transform", "compose", "serve"}
    task = {"Answer", "End", "ModelTurn", "Opening", "Task", "TaskEpisode"}
    ready_made = {"McpTask", "SimulatedUser", "Tool", "ToolTask", "ToolUnavailableError", "from_reward"}
    asked = {"Endpoint", "EndpointError", "Grade", "Judge", "JudgeError", "Reply"}
    assert set(chatenv_server.__all__) == environment | task | ready_made | asked
    assert "Public is what `__all__` names; all else in this package is private" in (chatenv_server.__doc__ or "")


def test_everything_that_is_exported_is_there() -> None:
    for name in chatenv_server.__all__:
        with contextlib.suppress(MissingExtraError):
            assert getattr(chatenv_server, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = chatenv_server.Server


@pytest.mark.parametrize(
    ("name", "packages", "extra"),
    [
        ("McpTask", ["mcp"], "mcp"),
        ("McpTask", ["anyio", "mcp"], "mcp"),
        ("Endpoint", ["openai"], "endpoint"),
        ("Judge", ["openai"], "endpoint"),
        ("SimulatedUser", ["openai"], "endpoint"),
    ],
)
def test_what_needs_an_extra_names_it_where_it_is_missing(name: str, packages: list[str], extra: str) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({packages})); from chatenv_server import {name}"
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    # Which of several it names is the one that is imported first.
    assert re.search(rf"needs the package [\w.]+: pip install 'chatenv-rl\[{extra}\]'", ended.stderr), ended.stderr


def test_importing_the_package_imports_nothing_that_only_servers_need() -> None:
    heavy = ("chatenv_server.rpc", "chatenv_server.running", "chatenv_server.settings", "torch", "transformers")
    program = f"import sys, chatenv_server; assert not [name for name in sys.modules if name.startswith({heavy})]"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:0", "unix://{}/chatenv.sock"])
def test_a_server_serves_in_this_process_until_the_end_of_its_context(address: str, tmp_path: Any) -> None:
    settings = Settings(listen=(address.format(tmp_path),), allow_plaintext=True)
    with serve(settings) as server, ChatEnv(server.target) as env:
        assert env.reset(messages=[{"role": "user", "content": "hi"}]).observation.step_count == 0
    with pytest.raises((ConnectionError, TimeoutError)), ChatEnv(server.target, timeout_s=0.5) as env:
        env.reset()
