"""Why a server does not start."""

from __future__ import annotations


class SettingError(ValueError):
    """A setting has a wrong value; the message names it."""


class BindError(Exception):
    """An address cannot be served on; the message says why and what to do."""
