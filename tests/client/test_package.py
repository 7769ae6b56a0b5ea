"""What `import chatenv_client` offers."""

from __future__ import annotations

import chatenv_client
from chatenv_client import errors

CLIENTS = {"AsyncChatEnv", "ChatEnv", "EpisodePool", "VectorChatEnv"}
CONNECTING = {"DEFAULT_MAX_MESSAGE_BYTES", "ContainerOptions", "ServerContainer", "Tls", "channel_options", "connect"}
GIVEN = {"Action", "ChatAction", "ControlTokenPolicy", "HistoryPolicy", "Message", "ResetOptions", "StopReason"}
ANSWERED = {
    *("AuditReport", "ChatObservation", "ChatState", "FidelityKind", "FidelityReport", "Limits", "Origin", "Rendered"),
    *("ServerInfo", "SpecialToken", "StepResult", "Turn", "Verdict"),
    *("EpisodeSnapshot", "EpisodeSummary", "Failure", "FailureKind", "ForkOrigin", "Row", "RowCount", "StepReward"),
    *("Column", "Sample", "Segment", "SegmentEnd", "Split", "TokenText", "Trajectory"),
}

TRAINING = {
    *("Batch", "LeftOut", "Pack", "Packed", "collate", "pack"),
    *("read_trajectories", "rollout_details", "training_trace", "write_trajectories"),
}


def test_public_is_what_users_need_and_the_package_says_that_all_else_is_private() -> None:
    others = CLIENTS | CONNECTING | GIVEN | ANSWERED | TRAINING | {"Reason", "__version__"}
    assert set(chatenv_client.__all__) == exceptions() | others
    assert "Public is what `__all__` names; all else in this package is private" in (chatenv_client.__doc__ or "")


def test_everything_that_is_exported_is_there() -> None:
    assert all(hasattr(chatenv_client, name) for name in chatenv_client.__all__)


def test_nothing_is_exported_twice() -> None:
    assert len(set(chatenv_client.__all__)) == len(chatenv_client.__all__)


def exceptions() -> set[str]:
    return {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}


def test_every_exception_is_exported() -> None:
    assert exceptions() <= set(chatenv_client.__all__)


def test_nothing_public_is_there_that_is_not_exported() -> None:
    public = {
        name
        for name, value in vars(chatenv_client).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("chatenv_client.")
    }
    assert public <= set(chatenv_client.__all__)
