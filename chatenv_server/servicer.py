"""The RPCs: each reads its request, asks the episodes, writes the answer. Failures are raised, or told per item."""
# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import grpc

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import chatenv_pb2_grpc as pb_grpc
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ServerInfo
from chatenv_server.environment import ChatEnvironment
from chatenv_server.episode import Caller
from chatenv_server.episodes import EpisodeStore
from chatenv_server.failures import status_of
from chatenv_server.gate import Gate
from chatenv_server.items import ItemRunner
from chatenv_server.step_stream import StepStream
from chatenv_server.telemetry import Telemetry


class ChatEnvServicer(pb_grpc.ChatEnvServiceServicer):
    """Serves episodes. `interceptors.CallGuard` stands before it and turns what it raises into statuses."""

    _episodes: EpisodeStore
    _describe: Callable[[], ServerInfo]

    def __init__(self, gate: Gate, items: ItemRunner, telemetry: Telemetry, max_batch_items: int) -> None:
        self._gate = gate
        self._telemetry = telemetry
        self._items = items
        self._max_batch_items = max_batch_items

    def attach(self, episodes: EpisodeStore, describe: Callable[[], ServerInfo]) -> None:
        """Give it what to serve; before the gate opens."""
        self._episodes = episodes
        self._describe = describe

    def Reset(self, request: pb.ResetRequest, context: grpc.ServicerContext) -> pb.ResetResponse:
        """Start an episode, or start the named one anew."""
        return self._reset(request, context)

    def Step(self, request: pb.StepRequest, context: grpc.ServicerContext) -> pb.StepResponse:
        """Append one turn."""
        return self._step(request, context)

    def GetState(self, request: pb.GetStateRequest, context: grpc.ServicerContext) -> pb.GetStateResponse:
        """The whole episode."""
        with self._reading(request, context) as environment:
            return wire.state_to_proto(environment.state)

    def GetTrajectory(
        self, request: pb.GetTrajectoryRequest, context: grpc.ServicerContext
    ) -> pb.GetTrajectoryResponse:
        """The whole episode as training wants it."""
        with self._reading(request, context) as environment:
            return wire.trajectory_to_proto(environment.trajectory())

    def RenderMessage(
        self, request: pb.RenderMessageRequest, context: grpc.ServicerContext
    ) -> pb.RenderMessageResponse:
        """What messages would add."""
        messages = wire.render_from_proto(request)
        with self._reading(request, context) as environment:
            return wire.rendered_to_proto(environment.render(messages))

    def AuditEpisode(self, request: pb.AuditEpisodeRequest, context: grpc.ServicerContext) -> pb.AuditEpisodeResponse:
        """Compare the stream with a full rendering."""
        with self._reading(request, context) as environment:
            return wire.audit_to_proto(environment.audit())

    def CloseEpisode(self, request: pb.CloseEpisodeRequest, context: grpc.ServicerContext) -> pb.CloseEpisodeResponse:
        """End an episode."""
        return pb.CloseEpisodeResponse(was_live=self._episodes.close(request.episode_id, caller=context))

    def GetServerInfo(
        self,
        request: pb.GetServerInfoRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.GetServerInfoResponse:
        """What this server is."""
        return wire.info_to_proto(self._describe())

    def BatchReset(self, request: pb.BatchResetRequest, context: grpc.ServicerContext) -> pb.BatchResetResponse:
        """Many Resets, each with its own status."""
        self._check_size(request.resets, "resets")

        def answer(item: pb.ResetRequest) -> pb.BatchResetResult:
            return pb.BatchResetResult(**self._outcome(self._reset, item, context, "BatchReset"))

        results = self._items.map(answer, request.resets, lambda item: item.episode_id)
        return pb.BatchResetResponse(results=results)

    def BatchStep(self, request: pb.BatchStepRequest, context: grpc.ServicerContext) -> pb.BatchStepResponse:
        """Many Steps, each with its own status; those of one episode in order."""
        self._check_size(request.steps, "steps")

        def answer(item: pb.StepRequest) -> pb.BatchStepResult:
            return pb.BatchStepResult(**self._outcome(self._step, item, context, "BatchStep"))

        results = self._items.map(answer, request.steps, lambda item: item.episode_id)
        return pb.BatchStepResponse(results=results)

    def StreamSteps(
        self, request_iterator: Iterator[pb.StreamStepsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamStepsResponse]:
        """Steps pipelined; those of one episode in order."""

        def answer(item: pb.StreamStepsRequest) -> pb.StreamStepsResponse:
            step = item.step
            return pb.StreamStepsResponse(
                request_id=item.request_id,
                episode_id=step.episode_id,
                step_index=step.step_index if step.HasField("step_index") else None,
                **self._outcome(self._step, step, context, "StreamSteps"),
            )

        stream = StepStream(request_iterator, answer, self._items)
        with self._gate.told_of_drain(stream.interrupt):
            yield from stream.answers()

    def _reset(self, request: pb.ResetRequest, caller: Caller) -> pb.ResetResponse:
        observation = self._episodes.reset(wire.reset_from_proto(request), caller=caller)
        encoded = wire.observation_to_proto(observation)
        self._telemetry.answered(0, len(encoded.tokens))
        return pb.ResetResponse(observation=encoded)

    def _step(self, request: pb.StepRequest, caller: Caller) -> pb.StepResponse:
        observation = self._episodes.step(
            request.episode_id,
            wire.action_from_proto(request),
            digest=_digest(request),
            step_index=request.step_index if request.HasField("step_index") else None,
            caller=caller,
        )
        encoded = wire.observation_to_proto(
            observation, known_tokens=request.known_tokens, known_messages=request.known_messages
        )
        self._telemetry.answered(len(request.tokens), len(encoded.tokens))
        return pb.StepResponse(observation=encoded)

    def _outcome(self, answer: Callable[[Any, Caller], Any], item: Any, caller: Caller, rpc: str) -> dict[str, Any]:
        """The answer to one item, or its status, as the field of a result."""
        began = time.perf_counter()
        try:
            return {"response": answer(item, caller)}
        except Exception as error:  # noqa: BLE001 - an item's failure is its own
            seconds = time.perf_counter() - began
            return {"error": status_of(error, method=rpc, seconds=seconds, telemetry=self._telemetry)}

    def _reading(self, request: Any, context: grpc.ServicerContext) -> AbstractContextManager[ChatEnvironment]:
        return self._episodes.reading(request.episode_id, caller=context)

    def _check_size(self, items: Sequence[Any], field: str) -> None:
        if not 1 <= len(items) <= self._max_batch_items:
            raise InvalidRequestError(
                f"a batch holds 1 to {self._max_batch_items} items, and this one {len(items)}; send several",
                reason="BATCH_SIZE",
                field=field,
            )


def _digest(request: pb.StepRequest) -> bytes:
    """The same for two Steps exactly if they ask the same, whatever their callers hold already."""
    asked = pb.StepRequest()
    asked.CopyFrom(request)
    for field in ("known_tokens", "known_messages", "step_index"):
        asked.ClearField(field)
    return hashlib.blake2b(asked.SerializeToString(deterministic=True), digest_size=16).digest()
