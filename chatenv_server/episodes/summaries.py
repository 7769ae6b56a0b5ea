"""What a store's list shows of an episode."""

from __future__ import annotations

import time

from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import dump_json
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.stores.store import Summary


def summary_of(environment: ChatEnvironment, created: float) -> Summary:
    """The summary of an episode that is used now.

    Args:
        environment: the episode.
        created: when it was opened, in seconds since 1970.
    """
    progress, metadata = environment.progress, environment.metadata
    return Summary(
        progress.step_count,
        environment.token_count,
        environment.held_tokens,
        environment.message_count,
        created,
        time.time(),
        progress.terminated,
        progress.truncated,
        dump_json(metadata, "metadata", Reason.BAD_METADATA) if metadata else "",
        progress.failure is not None,
    )
