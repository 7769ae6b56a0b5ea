"""What `import chatenv_client` offers."""

from __future__ import annotations

import chatenv_client
from chatenv_client import errors


def test_everything_that_is_exported_is_there() -> None:
    assert all(hasattr(chatenv_client, name) for name in chatenv_client.__all__)


def test_nothing_is_exported_twice() -> None:
    assert len(set(chatenv_client.__all__)) == len(chatenv_client.__all__)


def test_every_exception_is_exported() -> None:
    exceptions = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert exceptions <= set(chatenv_client.__all__)


def test_nothing_public_is_there_that_is_not_exported() -> None:
    public = {
        name
        for name, value in vars(chatenv_client).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("chatenv_client.")
    }
    assert public <= set(chatenv_client.__all__)
