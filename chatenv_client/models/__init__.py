"""What callers of chatenv give and get: messages, actions, observations, states, trajectories.

Plain data, the same in-process and over the wire. Shapes: T is the length of an episode's token stream.
"""

from __future__ import annotations

from chatenv_client.models.action import Action, ChatAction, as_action
from chatenv_client.models.columns import Column, ColumnRows, Rows
from chatenv_client.models.episode import ChatState, ForkOrigin, SegmentEnd
from chatenv_client.models.failure import Failure, FailureKind
from chatenv_client.models.fidelity import AuditReport, FidelityKind, FidelityReport, Verdict
from chatenv_client.models.messages import Message, MessageSnapshot, ToolCall, is_plain, own_message
from chatenv_client.models.observation import ChatObservation, Rendered, StepResult
from chatenv_client.models.reset_options import ControlTokenPolicy, EpisodeDefaults, HistoryPolicy, ResetOptions
from chatenv_client.models.rewards import RewardChange, Rewards, StepReward
from chatenv_client.models.rows import Row
from chatenv_client.models.sample import Float64Array, Sample, Split
from chatenv_client.models.server_info import Limits, RowCount, ServerInfo, SpecialToken
from chatenv_client.models.stop_reason import ENGINE_WORDS, StopReason, as_stop_reason
from chatenv_client.models.summary import EpisodeSummary
from chatenv_client.models.token_text import TokenText
from chatenv_client.models.trajectory import (
    Origin,
    Segment,
    Trajectory,
    Turn,
    Which,
    logprobs_of,
    loss_mask_of,
    segment_of,
    turn_of_each_token,
)

__all__ = [
    "ENGINE_WORDS",
    "Action",
    "AuditReport",
    "ChatAction",
    "ChatObservation",
    "ChatState",
    "Column",
    "ColumnRows",
    "ControlTokenPolicy",
    "EpisodeDefaults",
    "EpisodeSummary",
    "Failure",
    "FailureKind",
    "FidelityKind",
    "FidelityReport",
    "Float64Array",
    "ForkOrigin",
    "HistoryPolicy",
    "Limits",
    "Message",
    "MessageSnapshot",
    "Origin",
    "Rendered",
    "ResetOptions",
    "RewardChange",
    "Rewards",
    "Row",
    "RowCount",
    "Rows",
    "Sample",
    "Segment",
    "SegmentEnd",
    "ServerInfo",
    "SpecialToken",
    "Split",
    "StepResult",
    "StepReward",
    "StopReason",
    "TokenText",
    "ToolCall",
    "Trajectory",
    "Turn",
    "Verdict",
    "Which",
    "as_action",
    "as_stop_reason",
    "is_plain",
    "logprobs_of",
    "loss_mask_of",
    "own_message",
    "segment_of",
    "turn_of_each_token",
]
