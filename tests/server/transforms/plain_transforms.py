"""Transforms that take no time."""

from __future__ import annotations

from chatenv_client import ChatObservation


def unchanged(observation: ChatObservation) -> ChatObservation:
    """The observation as it is."""
    return observation
