"""The RPCs, one method each. Puts the parts together that answer them, and hands each request to its part.

Failures are raised, or written per item.
"""
# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import grpc

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import chatenv_pb2_grpc as pb_grpc
from chatenv_client.errors import InvalidRequestError
from chatenv_client.inquiries import MOST_TOKENS
from chatenv_client.models import ServerInfo, StepReward, TokenText
from chatenv_client.reasons import Reason
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.rewards import Earned
from chatenv_server.episodes.copies import Copies
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.rpc.answering import Answering
from chatenv_server.rpc.batches import Batches, CallOfItems, WatchedCaller
from chatenv_server.rpc.copying import Copying
from chatenv_server.rpc.failures import FailureLog, ItemFailures
from chatenv_server.rpc.gate import Gate
from chatenv_server.rpc.listing import Listing
from chatenv_server.rpc.room import AnswerRoom
from chatenv_server.rpc.stream_items import StreamItems
from chatenv_server.rpc.streams import StepStream
from chatenv_server.rpc.together import Together
from chatenv_server.rpc.traffic import Traffic
from chatenv_server.tasks.choice import Tasks
from chatenv_server.work import done


class ChatEnvServicer(pb_grpc.ChatEnvServiceServicer):
    """Serves episodes. `CallGuard` stands before it and makes statuses of what it raises."""

    _episodes: Episodes
    _answering: Answering
    _copying: Copying
    _listing: Listing
    _batches: Batches
    _together: Together
    _describe: Callable[[], ServerInfo]
    _describe_tokens: Callable[[Iterable[int]], Sequence[TokenText]]

    def __init__(
        self,
        gate: Gate,
        failures: FailureLog,
        traffic: Traffic,
        work_on_next_step: Callable[[], object],
        *,
        max_batch_items: int,
        max_message_bytes: int,
        max_text_bytes: int,
        waits: bool,
    ) -> None:
        self._gate = gate
        self._failures = failures
        self._traffic = traffic
        self._work_on_next_step = work_on_next_step
        self._max_batch_items = max_batch_items
        self._max_message_bytes = max_message_bytes
        self._max_text_bytes = max_text_bytes
        self._waits = waits

    def attach(
        self,
        episodes: Episodes,
        tasks: Tasks,
        describe: Callable[[], ServerInfo],
        describe_tokens: Callable[[Iterable[int]], Sequence[TokenText]],
    ) -> None:
        """Give it what to serve; before the gate opens.

        Args:
            episodes: the episodes.
            tasks: what episodes choose from.
            describe: says what the server is.
            describe_tokens: says what tokens stand for.
        """
        self._episodes = episodes
        copies = Copies(episodes)
        self._answering = Answering(episodes, self._failures.telemetry, self._max_text_bytes)
        self._copying = Copying(copies, self._max_batch_items)
        self._listing = Listing(copies, tasks)
        self._batches = Batches(episodes.writing, self._max_batch_items)
        self._together = Together(episodes.writing, self._work_on_next_step)
        self._describe = describe
        self._describe_tokens = describe_tokens

    def Reset(self, request: pb.ResetRequest, context: grpc.ServicerContext) -> pb.ResetResponse:
        """Start an episode, or start the named one anew."""
        response = pb.ResetResponse()
        self._together.answer(self._answering.reset, request, response, context, self._room())
        return response

    def Step(self, request: pb.StepRequest, context: grpc.ServicerContext) -> pb.StepResponse:
        """Append one turn."""
        response = pb.StepResponse()
        self._together.answer(self._answering.step, request, response, context, self._room())
        return response

    def GetState(self, request: pb.GetStateRequest, context: grpc.ServicerContext) -> pb.GetStateResponse:
        """The whole episode."""
        with self._reading(request, context) as environment:
            return wire.state_to_proto(environment.state)

    def GetTrajectory(
        self, request: pb.GetTrajectoryRequest, context: grpc.ServicerContext
    ) -> pb.GetTrajectoryResponse:
        """The whole episode as training wants it."""
        with self._reading(request, context) as environment:
            return wire.trajectory_to_proto(environment.trajectory(assistants=request.assistants))

    def RenderMessage(
        self, request: pb.RenderMessageRequest, context: grpc.ServicerContext
    ) -> pb.RenderMessageResponse:
        """What messages would add."""
        self._answering.check_text(request.ByteSize(), "messages")
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

    def FinishEpisode(
        self, request: pb.FinishEpisodeRequest, context: grpc.ServicerContext
    ) -> pb.FinishEpisodeResponse:
        """Read an episode as training wants it, and end it."""
        response = pb.FinishEpisodeResponse()
        done(self._answering.finish(request, response, context, self._room()))
        return response

    def GetServerInfo(
        self,
        request: pb.GetServerInfoRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.GetServerInfoResponse:
        """What this server is."""
        return wire.info_to_proto(self._describe())

    def ForkEpisode(self, request: pb.ForkEpisodeRequest, context: grpc.ServicerContext) -> pb.ForkEpisodeResponse:
        """New episodes that share an episode's past."""
        return self._copying.fork(request, context, self._room())

    def ExportEpisode(
        self, request: pb.ExportEpisodeRequest, context: grpc.ServicerContext
    ) -> pb.ExportEpisodeResponse:
        """The whole episode."""
        return self._copying.exported(request, context, self._room())

    def ImportEpisode(
        self, request: pb.ImportEpisodeRequest, context: grpc.ServicerContext
    ) -> pb.ImportEpisodeResponse:
        """Take an exported episode up."""
        return self._copying.imported(request, context, self._room())

    def ListEpisodes(
        self,
        request: pb.ListEpisodesRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.ListEpisodesResponse:
        """A page of live episodes."""
        return self._listing.episodes(request, self._room())

    def SetReward(self, request: pb.SetRewardRequest, context: grpc.ServicerContext) -> pb.SetRewardResponse:
        """Set rewards of a step."""
        change, step, turn = wire.set_reward_from_proto(request)
        notes = self._episodes.notes
        of, now = notes.set_reward(request.episode_id, Earned(*change), step=step, turn=turn, caller=context)
        return wire.step_reward_to_proto(StepReward(of, now.total or 0.0, dict(now.named)))

    def FailEpisode(self, request: pb.FailEpisodeRequest, context: grpc.ServicerContext) -> pb.FailEpisodeResponse:
        """End an episode because something broke."""
        failure = self._episodes.notes.fail(request.episode_id, wire.fail_from_proto(request), caller=context)
        return pb.FailEpisodeResponse(failure=wire.failure_to_proto(failure))

    def ListRows(
        self,
        request: pb.ListRowsRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.ListRowsResponse:
        """A page of the rows that tasks have."""
        return self._listing.rows(request, self._room())

    def DescribeTokens(
        self,
        request: pb.DescribeTokensRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.DescribeTokensResponse:
        """What tokens stand for."""
        if len(request.tokens) > MOST_TOKENS:
            raise InvalidRequestError(
                f"a call describes at most {MOST_TOKENS} tokens; make several",
                reason=Reason.BATCH_SIZE,
                field="tokens",
            )
        response = wire.token_texts_to_proto(self._describe_tokens(request.tokens))
        self._room().take(response)
        return response

    def BatchReset(self, request: pb.BatchResetRequest, context: grpc.ServicerContext) -> pb.BatchResetResponse:
        """Many Resets, each with its own status."""
        self._batches.check_size(request.resets, "resets")

        response = pb.BatchResetResponse()
        call = self._items_of("BatchReset", context)
        self._batches.answer_each(self._answering.reset, request.resets, response.results, call)
        return response

    def BatchStep(self, request: pb.BatchStepRequest, context: grpc.ServicerContext) -> pb.BatchStepResponse:
        """Many Steps, each with its own status; those of one episode in order."""
        self._batches.check_size(request.steps, "steps")

        response = pb.BatchStepResponse()
        call = self._items_of("BatchStep", context)
        self._batches.answer_each(self._answering.step, request.steps, response.results, call)
        return response

    def BatchFinishEpisode(
        self, request: pb.BatchFinishEpisodeRequest, context: grpc.ServicerContext
    ) -> pb.BatchFinishEpisodeResponse:
        """Many FinishEpisodes, each with its own status."""
        self._batches.check_size(request.finishes, "finishes")

        response = pb.BatchFinishEpisodeResponse()
        call = self._items_of("BatchFinishEpisode", context)
        self._batches.answer_each(self._answering.finish, request.finishes, response.results, call)
        return response

    def StreamSteps(
        self, request_iterator: Iterator[pb.StreamStepsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamStepsResponse]:
        """Steps pipelined; those of one episode in order."""
        call = self._items_of("StreamSteps", context)
        items = StreamItems(self._batches, self._answering.step, call, self._room)
        together = items.answer_together if self._batches.writes and not self._waits else None
        stream = StepStream(request_iterator, items.answer, self._traffic, together)
        with call.closing(), self._gate.told_of_drain(stream.interrupt):
            yield from stream.answers()

    def _room(self) -> AnswerRoom:
        return AnswerRoom(self._max_message_bytes)

    def _items_of(self, rpc: str, context: grpc.ServicerContext) -> CallOfItems:
        return CallOfItems(WatchedCaller(context), self._room(), ItemFailures(rpc, context.peer, self._failures))

    def _reading(self, request: Any, context: grpc.ServicerContext) -> AbstractContextManager[ChatEnvironment]:
        return self._episodes.reading(request.episode_id, caller=context)
