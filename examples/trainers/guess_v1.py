"""The guessing game for verifiers 0.4 and prime-rl, whose taskset this module is: docs/trainers/verifiers.md."""

from chatenv_client.trainers.verifiers_v1 import ChatEnvEnv, ChatEnvHarness, ChatEnvTaskset

__all__ = ["ChatEnvEnv", "ChatEnvHarness", "ChatEnvTaskset"]
