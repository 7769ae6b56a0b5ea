"""Answers calls that copy episodes: forks, exports and imports."""

from __future__ import annotations

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatObservation
from chatenv_client.reasons import Reason
from chatenv_server.episodes.copies import Copies
from chatenv_server.episodes.episode import Caller, Write
from chatenv_server.rpc.room import AnswerRoom


class Copying:
    """Answers ForkEpisodes, ExportEpisodes and ImportEpisodes.

    Args:
        copies: the copies of episodes.
        max_forks: of one call.
    """

    def __init__(self, copies: Copies, max_forks: int) -> None:
        self._copies = copies
        self._max_forks = max_forks

    def fork(self, request: pb.ForkEpisodeRequest, caller: Caller, room: AnswerRoom) -> pb.ForkEpisodeResponse:
        """New episodes that share an episode's past."""
        ids = self._checked_fork_ids(request)
        response = pb.ForkEpisodeResponse()
        at_step = request.at_step if request.HasField("at_step") else None
        write = _writing_into(response, room)
        made = self._copies.fork(request.episode_id, ids, at_step, caller=caller, answer=write)
        response.fork_ids.extend(made)
        response.observation.episode_id = ""
        return response

    def _checked_fork_ids(self, request: pb.ForkEpisodeRequest) -> list[str]:
        """An id for each fork that is asked for; an empty one is to be chosen."""
        count = len(request.fork_ids) or max(1, request.count)
        if count > self._max_forks or (request.fork_ids and request.count not in (0, count)):
            raise InvalidRequestError(
                f"a fork makes 1 to {self._max_forks} episodes, and as many as fork_ids where they are given",
                reason=Reason.BAD_COUNT,
                field="count",
            )
        if len(set(request.fork_ids)) < len(request.fork_ids):
            what = "fork_ids names one episode twice; give each fork an id of its own"
            raise InvalidRequestError(what, reason=Reason.BAD_COUNT, field="fork_ids")
        return list(request.fork_ids) or [""] * count

    def exported(self, request: pb.ExportEpisodeRequest, caller: Caller, room: AnswerRoom) -> pb.ExportEpisodeResponse:
        """The whole episode."""
        response = pb.ExportEpisodeResponse(snapshot=self._copies.exported(request.episode_id, caller=caller))
        room.take(response)
        return response

    def imported(self, request: pb.ImportEpisodeRequest, caller: Caller, room: AnswerRoom) -> pb.ImportEpisodeResponse:
        """Take an exported episode up."""
        response = pb.ImportEpisodeResponse()
        write = _writing_into(response, room)
        self._copies.imported(request.snapshot, request.episode_id, caller=caller, answer=write)
        return response


def _writing_into(response: pb.ForkEpisodeResponse | pb.ImportEpisodeResponse, room: AnswerRoom) -> Write:
    """Writes an observation into an answer that holds nothing else of that size."""

    def write(observation: ChatObservation) -> None:
        response.Clear()  # it may be called again
        wire.write_observation(response.observation, observation)
        room.take(response)

    return write
