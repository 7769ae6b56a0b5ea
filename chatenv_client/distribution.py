"""The name under which this distribution is installed, and what to install where a part of it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

DISTRIBUTION: Final = "chatenv-rl"
"""As pip knows it, and as the command for people is called. `chatenv` on PyPI is another project's."""


def to_install(extra: str) -> str:
    """The command that adds an extra to this installation. pip adds what is missing, and leaves the rest as it is."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


class MissingExtraError(ImportError):
    """A package that an extra brings is not installed; the message says what to install."""


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Have imports that fail say what needs them and what to install.

    Raises:
        MissingExtraError: a package that the extra brings is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("chatenv_"):  # our own mistake
            raise
        raise MissingExtraError(
            f"{what} needs the package {error.name}: {to_install(extra)}", name=error.name
        ) from error
