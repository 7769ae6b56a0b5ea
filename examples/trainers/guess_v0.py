"""The guessing game for verifiers 0.3, whose environment this module loads: docs/trainers/verifiers.md."""

from typing import Any

from chatenv_client.trainers.verifiers_v0 import ChatEnvMultiTurnEnv


def load_environment(address: str = "localhost:50051", seeds: int = 100, **options: Any) -> ChatEnvMultiTurnEnv:
    """What verifiers calls."""
    return ChatEnvMultiTurnEnv(address, seeds=seeds, **options)
