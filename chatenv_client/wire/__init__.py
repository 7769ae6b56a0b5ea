"""The one place that turns protobuf into Python and back, for the client and the server alike."""

from __future__ import annotations

from chatenv_client.wire.copies import fork_to_proto, snapshot_of_bytes
from chatenv_client.wire.episodes import (
    audit_from_proto,
    audit_to_proto,
    state_from_proto,
    state_to_proto,
    trajectory_from_proto,
    trajectory_to_proto,
    turn_to_proto,
    turns_from_proto,
)
from chatenv_client.wire.errors import (
    error_from_item,
    error_from_status,
    error_to_status,
    parse_status,
)
from chatenv_client.wire.failures import fail_from_proto, fail_to_proto, failure_from_proto, failure_to_proto
from chatenv_client.wire.lists import (
    Page,
    RowPage,
    page_from_proto,
    page_to_proto,
    row_page_from_proto,
    row_page_to_proto,
    rows_to_proto,
    token_texts_from_proto,
    token_texts_to_proto,
)
from chatenv_client.wire.messages import message_from_proto, message_to_proto, messages_from_proto
from chatenv_client.wire.observations import (
    ObservationDelta,
    fidelity_from_proto,
    fidelity_to_proto,
    observation_from_proto,
    rendered_from_proto,
    rendered_to_proto,
    write_observation,
)
from chatenv_client.wire.requests import (
    action_from_proto,
    render_from_proto,
    render_to_proto,
    reset_from_proto,
    reset_to_proto,
    write_step,
)
from chatenv_client.wire.rewards import (
    late_reward_from_proto,
    late_reward_to_proto,
    named_rewards_to_proto,
    rewards_from_proto,
    set_reward_from_proto,
    set_reward_to_proto,
    step_reward_from_proto,
    step_reward_to_proto,
)
from chatenv_client.wire.server_info import info_from_proto, info_to_proto

__all__ = [
    "ObservationDelta",
    "Page",
    "RowPage",
    "action_from_proto",
    "audit_from_proto",
    "audit_to_proto",
    "error_from_item",
    "error_from_status",
    "error_to_status",
    "fail_from_proto",
    "fail_to_proto",
    "failure_from_proto",
    "failure_to_proto",
    "fidelity_from_proto",
    "fidelity_to_proto",
    "fork_to_proto",
    "info_from_proto",
    "info_to_proto",
    "late_reward_from_proto",
    "late_reward_to_proto",
    "message_from_proto",
    "message_to_proto",
    "messages_from_proto",
    "named_rewards_to_proto",
    "observation_from_proto",
    "page_from_proto",
    "page_to_proto",
    "parse_status",
    "render_from_proto",
    "render_to_proto",
    "rendered_from_proto",
    "rendered_to_proto",
    "reset_from_proto",
    "reset_to_proto",
    "rewards_from_proto",
    "row_page_from_proto",
    "row_page_to_proto",
    "rows_to_proto",
    "set_reward_from_proto",
    "set_reward_to_proto",
    "snapshot_of_bytes",
    "state_from_proto",
    "state_to_proto",
    "step_reward_from_proto",
    "step_reward_to_proto",
    "token_texts_from_proto",
    "token_texts_to_proto",
    "trajectory_from_proto",
    "trajectory_to_proto",
    "turn_to_proto",
    "turns_from_proto",
    "write_observation",
    "write_step",
]
