"""Answers calls for pages of a list: of live episodes, and of the rows of data that tasks have."""

from __future__ import annotations

from typing import Final

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.wire.requests import timestamp
from chatenv_server.episodes.copies import Copies
from chatenv_server.rpc.room import AnswerRoom
from chatenv_server.stores.store import Summary
from chatenv_server.tasks.choice import Tasks

PAGE: Final = 100
"""What a page holds, where the caller does not say."""


class Listing:
    """Answers ListEpisodes and ListRows.

    Args:
        copies: knows the live episodes.
        tasks: have the rows.
    """

    def __init__(self, copies: Copies, tasks: Tasks) -> None:
        self._copies = copies
        self._tasks = tasks

    def episodes(self, request: pb.ListEpisodesRequest, room: AnswerRoom) -> pb.ListEpisodesResponse:
        """A page of live episodes."""
        listed, after = self._copies.listed(request.id_prefix, request.page_token, request.page_size or PAGE)
        response = pb.ListEpisodesResponse(next_page_token=after)
        for episode_id, summary in listed:
            response.episodes.append(_summary_to_proto(episode_id, summary))
        room.take(response)
        return response

    def rows(self, request: pb.ListRowsRequest, room: AnswerRoom) -> pb.ListRowsResponse:
        """A page of the rows that a task has."""
        task = self._tasks.chosen(request.task)
        rows, after, count = self._tasks.rows.listed(task, request.split, request.page_token, request.page_size or PAGE)
        response = wire.row_page_to_proto(wire.RowPage(rows, after, count))
        room.take(response)
        return response


def _summary_to_proto(episode_id: str, summary: Summary) -> pb.EpisodeSummary:
    """What a list shows of an episode."""
    return pb.EpisodeSummary(
        episode_id=episode_id,
        step_count=summary.step_count,
        token_count=summary.token_count,
        message_count=summary.message_count,
        created=timestamp(summary.created),
        last_used=timestamp(summary.last_used),
        terminated=summary.terminated,
        truncated=summary.truncated,
        failed=summary.failed,
        metadata_json=summary.metadata_json,
    )
