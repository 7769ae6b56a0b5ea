"""The Steps of a stream as items of one call: each with an outcome that names it, and with room of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_server.rpc.answering import AnswerOne
from chatenv_server.rpc.batches import Asked, Batches, CallOfItems
from chatenv_server.rpc.room import AnswerRoom


class StreamItems:
    """Answers the requests of one stream.

    Args:
        batches: answers items.
        step: answers a Step.
        call: the stream.
        open_room: gives each answer its room, for each is a message of its own.
    """

    def __init__(
        self, batches: Batches, step: AnswerOne, call: CallOfItems, open_room: Callable[[], AnswerRoom]
    ) -> None:
        self._batches = batches
        self._step = step
        self._call = call
        self._open_room = open_room

    async def answer(self, request: pb.StreamStepsRequest) -> pb.StreamStepsResponse:
        """Answer one, which may wait while others go on."""
        asked = self._asked_by(request)
        await self._batches.answer_item(self._step, asked)
        return asked.result  # type: ignore[no-any-return]

    def answer_together(self, requests: Sequence[pb.StreamStepsRequest]) -> list[pb.StreamStepsResponse]:
        """Answer several in their order, and have what they do written together."""
        asked = [self._asked_by(one) for one in requests]
        self._batches.answer_together(self._step, asked)
        return [one.result for one in asked]

    def _asked_by(self, request: pb.StreamStepsRequest) -> Asked:
        return Asked(request.step, _outcome_of(request), replace(self._call, room=self._open_room()))


def _outcome_of(request: pb.StreamStepsRequest) -> pb.StreamStepsResponse:
    """The answer of a stream to a request, as far as that tells."""
    outcome = pb.StreamStepsResponse(request_id=request.request_id, episode_id=request.step.episode_id)
    if request.step.HasField("step_index"):
        outcome.step_index = request.step.step_index
    return outcome
