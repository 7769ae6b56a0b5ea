"""Answers single Resets, Steps and ends: reads the request, asks the episodes, writes the answer into its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatObservation
from chatenv_client.reasons import Reason
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.episode import Caller
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.episodes.writing import Writing
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.rpc.room import AnswerRoom
from chatenv_server.work import Work

AnswerOne = Callable[[Any, Any, Caller, AnswerRoom, "Writing | None"], Work[None]]
"""Answers a request into a response, if there is room for it, and has what it did written, now or with others."""


class Answering:
    """Answers Resets, Steps and FinishEpisodes.

    Args:
        episodes: the episodes.
        telemetry: told of what was answered.
        max_text_bytes: of one request.
    """

    def __init__(self, episodes: Episodes, telemetry: Telemetry, max_text_bytes: int) -> None:
        self._episodes = episodes
        self._telemetry = telemetry
        self._max_text_bytes = max_text_bytes

    async def reset(
        self,
        request: pb.ResetRequest,
        response: pb.ResetResponse,
        caller: Caller,
        room: AnswerRoom,
        writing: Writing | None = None,
    ) -> None:
        """Start an episode, or start the named one anew."""

        def answer(observation: ChatObservation) -> None:
            response.Clear()  # it may be called again
            wire.write_observation(response.observation, observation)
            room.take(response)

        self.check_text(request.ByteSize() - len(request.metadata_json), "messages")
        await self._episodes.resetting(wire.reset_from_proto(request), caller=caller, answer=answer, writing=writing)
        self._telemetry.answered(0, len(response.observation.tokens))

    async def step(
        self,
        request: pb.StepRequest,
        response: pb.StepResponse,
        caller: Caller,
        room: AnswerRoom,
        writing: Writing | None = None,
    ) -> None:
        """Append one turn."""
        if request.messages:
            self.check_text(request.ByteSize(), "messages")
        elif request.HasField("message"):
            self.check_text(request.message.ByteSize(), "message")
        action = wire.action_from_proto(request)
        step_index = request.step_index if request.HasField("step_index") else None
        shown = response.observation

        def answer(observation: ChatObservation) -> None:
            shown.Clear()  # it may be called again
            wire.write_observation(
                shown,
                observation,
                known_tokens=request.known_tokens,
                known_messages=request.known_messages,
            )
            room.take(response)

        observation = await self._episodes.stepping(
            request.episode_id,
            action,
            step_index=step_index,
            caller=caller,
            answer=answer,
            writing=writing,
        )
        self._telemetry.answered(len(action.tokens), len(observation.stream) - shown.tokens_offset)

    async def finish(
        self,
        request: pb.FinishEpisodeRequest,
        response: pb.FinishEpisodeResponse,
        caller: Caller,
        room: AnswerRoom,
        writing: Writing | None = None,
    ) -> None:
        """Read an episode and end it, or give the answer of the first time again."""

        def answer(environment: ChatEnvironment) -> bytes:
            response.Clear()  # it may be called again
            trajectory = environment.trajectory(assistants=request.assistants)
            response.trajectory.CopyFrom(wire.trajectory_to_proto(trajectory))
            response.assistants = request.assistants
            room.take(response)
            return response.SerializeToString()

        kept = await self._episodes.finishing(request.episode_id, answer, caller=caller, writing=writing)
        if kept:
            response.ParseFromString(kept)
            room.take(response)

    def check_text(self, size: int, field: str) -> None:
        """Raise InvalidRequestError if the texts of a request are longer than the server takes."""
        if size > self._max_text_bytes:
            raise InvalidRequestError(
                f"the messages, tools and prompts of this request take {size} bytes, and this server takes "
                f"{self._max_text_bytes} at once; send less in one Step, or raise --max-text-bytes",
                reason=Reason.TEXT_TOO_LONG,
                field=field,
            )
