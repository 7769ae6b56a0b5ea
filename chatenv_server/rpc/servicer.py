"""The RPCs: each reads its request, asks the episodes, writes the answer. Failures are raised, or written per item."""
# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, NamedTuple

import grpc

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import chatenv_pb2_grpc as pb_grpc
from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ChatObservation, ServerInfo
from chatenv_client.reasons import Reason
from chatenv_client.wire.requests import timestamp
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.copies import Copies
from chatenv_server.episodes.episode import Caller
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.episodes.writing import Outdated, Writing
from chatenv_server.rpc.failures import FailureLog, ItemFailures, status_of
from chatenv_server.rpc.gate import Gate
from chatenv_server.rpc.items import ItemRunner
from chatenv_server.rpc.room import AnswerRoom
from chatenv_server.rpc.streams import StepStream
from chatenv_server.rpc.traffic import Traffic
from chatenv_server.stores.store import Summary

AnswerOne = Callable[[Any, Any, Caller, AnswerRoom, "Writing | None"], None]
"""Answers a request into a response, if there is room for it, and has what it did written, now or with others."""
PAGE: Final = 100
"""Episodes of a page of a list, where the caller does not say."""


class ChatEnvServicer(pb_grpc.ChatEnvServiceServicer):
    """Serves episodes. `CallGuard` stands before it and makes statuses of what it raises."""

    _episodes: Episodes
    _copies: Copies
    _describe: Callable[[], ServerInfo]
    _encoding_ahead: Callable[[Iterable[tuple[str, str]]], AbstractContextManager[None]]

    def __init__(
        self,
        gate: Gate,
        items: ItemRunner,
        failures: FailureLog,
        traffic: Traffic,
        *,
        max_batch_items: int,
        max_message_bytes: int,
        max_text_bytes: int,
    ) -> None:
        self._gate = gate
        self._failures = failures
        self._traffic = traffic
        self._telemetry = failures.telemetry
        self._items = items
        self._max_batch_items = max_batch_items
        self._max_message_bytes = max_message_bytes
        self._max_text_bytes = max_text_bytes

    def attach(
        self,
        episodes: Episodes,
        describe: Callable[[], ServerInfo],
        encoding_ahead: Callable[[Iterable[tuple[str, str]]], AbstractContextManager[None]],
    ) -> None:
        """Give it what to serve; before the gate opens.

        Args:
            episodes: the episodes.
            describe: says what the server is.
            encoding_ahead: see `TokenEngine`.
        """
        self._episodes = episodes
        self._copies = Copies(episodes)
        self._describe = describe
        self._encoding_ahead = encoding_ahead

    def Reset(self, request: pb.ResetRequest, context: grpc.ServicerContext) -> pb.ResetResponse:
        """Start an episode, or start the named one anew."""
        response = pb.ResetResponse()
        self._reset(request, response, context, self._room())
        return response

    def Step(self, request: pb.StepRequest, context: grpc.ServicerContext) -> pb.StepResponse:
        """Append one turn."""
        response = pb.StepResponse()
        self._step(request, response, context, self._room())
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
            return wire.trajectory_to_proto(environment.trajectory())

    def RenderMessage(
        self, request: pb.RenderMessageRequest, context: grpc.ServicerContext
    ) -> pb.RenderMessageResponse:
        """What messages would add."""
        self._check_text(request.ByteSize(), "messages")
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

    def ForkEpisode(self, request: pb.ForkEpisodeRequest, context: grpc.ServicerContext) -> pb.ForkEpisodeResponse:
        """New episodes that share an episode's past."""
        ids = list(request.fork_ids) or [""] * max(1, request.count)
        if len(ids) > self._max_batch_items or (request.fork_ids and request.count not in (0, len(ids))):
            raise InvalidRequestError(
                f"a fork makes 1 to {self._max_batch_items} episodes, and as many as fork_ids where they are given",
                reason=Reason.BAD_COUNT,
                field="count",
            )
        at_step = request.at_step if request.HasField("at_step") else None
        forks = self._copies.fork(request.episode_id, ids, at_step, caller=context)
        response = pb.ForkEpisodeResponse(fork_ids=[fork.episode_id for fork in forks])
        wire.write_observation(response.observation, forks[0].observation)
        response.observation.episode_id = ""
        return response

    def ExportEpisode(
        self, request: pb.ExportEpisodeRequest, context: grpc.ServicerContext
    ) -> pb.ExportEpisodeResponse:
        """The whole episode."""
        response = pb.ExportEpisodeResponse(snapshot=self._copies.exported(request.episode_id, caller=context))
        self._room().take(response)
        return response

    def ImportEpisode(
        self, request: pb.ImportEpisodeRequest, context: grpc.ServicerContext
    ) -> pb.ImportEpisodeResponse:
        """Take an exported episode up."""
        taken_up = self._copies.imported(request.snapshot, request.episode_id, caller=context)
        response = pb.ImportEpisodeResponse()
        wire.write_observation(response.observation, taken_up.observation)
        return response

    def ListEpisodes(
        self,
        request: pb.ListEpisodesRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.ListEpisodesResponse:
        """A page of live episodes."""
        listed, after = self._copies.listed(request.id_prefix, request.page_token, request.page_size or PAGE)
        response = pb.ListEpisodesResponse(next_page_token=after)
        for episode_id, summary in listed:
            response.episodes.append(summary_to_proto(episode_id, summary))
        return response

    def BatchReset(self, request: pb.BatchResetRequest, context: grpc.ServicerContext) -> pb.BatchResetResponse:
        """Many Resets, each with its own status."""
        self._check_size(request.resets, "resets")

        response = pb.BatchResetResponse()
        self._answer_each(self._reset, request.resets, response.results, self._items_of("BatchReset", context))
        return response

    def BatchStep(self, request: pb.BatchStepRequest, context: grpc.ServicerContext) -> pb.BatchStepResponse:
        """Many Steps, each with its own status; those of one episode in order."""
        self._check_size(request.steps, "steps")

        response = pb.BatchStepResponse()
        with self._encoding_ahead(wire.lone_texts(request.steps, most_bytes=self._max_text_bytes)):
            self._answer_each(self._step, request.steps, response.results, self._items_of("BatchStep", context))
        return response

    def StreamSteps(
        self, request_iterator: Iterator[pb.StreamStepsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamStepsResponse]:
        """Steps pipelined; those of one episode in order."""
        call = self._items_of("StreamSteps", context)

        def answer(item: pb.StreamStepsRequest) -> pb.StreamStepsResponse:
            outcome = pb.StreamStepsResponse(request_id=item.request_id, episode_id=item.step.episode_id)
            if item.step.HasField("step_index"):
                outcome.step_index = item.step.step_index
            self._answer_item(self._step, item.step, outcome, call._replace(room=self._room()))
            return outcome

        stream = StepStream(request_iterator, answer, self._items, self._traffic)
        with call.closing(), self._gate.told_of_drain(stream.interrupt):
            yield from stream.answers()

    def _reset(
        self,
        request: pb.ResetRequest,
        response: pb.ResetResponse,
        caller: Caller,
        room: AnswerRoom,
        writing: Writing | None = None,
    ) -> None:
        def answer(observation: ChatObservation) -> None:
            response.Clear()  # it may be called again
            wire.write_observation(response.observation, observation)
            room.take(response)

        self._check_text(request.ByteSize() - len(request.metadata_json), "messages")
        self._episodes.reset(wire.reset_from_proto(request), caller=caller, answer=answer, writing=writing)
        self._telemetry.answered(0, len(response.observation.tokens))

    def _step(
        self,
        request: pb.StepRequest,
        response: pb.StepResponse,
        caller: Caller,
        room: AnswerRoom,
        writing: Writing | None = None,
    ) -> None:
        if request.messages:
            self._check_text(request.ByteSize(), "messages")
        elif request.HasField("message"):
            self._check_text(request.message.ByteSize(), "message")
        action = wire.action_from_proto(request)
        step_index = request.step_index if request.HasField("step_index") else None

        def answer(observation: ChatObservation) -> None:
            response.Clear()  # it may be called again
            wire.write_observation(
                response.observation,
                observation,
                known_tokens=request.known_tokens,
                known_messages=request.known_messages,
            )
            room.take(response)

        observation = self._episodes.step(
            request.episode_id,
            action,
            digest=_digest(request),
            step_index=step_index,
            caller=caller,
            answer=answer,
            writing=writing,
        )
        self._telemetry.answered(len(action.tokens), len(observation.stream) - response.observation.tokens_offset)

    def _room(self) -> AnswerRoom:
        return AnswerRoom(self._max_message_bytes)

    def _items_of(self, rpc: str, context: grpc.ServicerContext) -> CallOfItems:
        return CallOfItems(WatchedCaller(context), self._room(), ItemFailures(rpc, context.peer(), self._failures))

    def _answer_each(self, answer: AnswerOne, items: Sequence[Any], results: Any, call: CallOfItems) -> None:
        """Answer many items, with a result each, in their order. What does not fit into the answer fails by itself."""
        pairs = [(item, results.add()) for item in items]
        with call.closing():
            if self._items.has_threads:
                self._items.each(
                    lambda pair: self._answer_item(answer, *pair, call), pairs, lambda pair: pair[0].episode_id
                )
            elif (writing := self._episodes.writing()) is None:
                for pair in pairs:
                    self._answer_item(answer, *pair, call)
            else:
                self._answer_together(answer, pairs, call, writing)

    def _answer_together(
        self, answer: AnswerOne, pairs: Sequence[tuple[Any, Any]], call: CallOfItems, writing: Writing
    ) -> None:
        """Answer items whose doing is written together. What the store does not take, fails or is done again."""
        again: set[int] = set()
        for index, pair in enumerate(pairs):
            writing.key = index
            if not self._answer_item(answer, *pair, call, writing):
                again.add(index)
        for index, error in writing.outcomes():
            if error is None:
                again.add(index)
            else:
                self._fail_item(error, *pairs[index], call)
        for index in sorted(again):
            self._answer_item(answer, *pairs[index], call)

    def _answer_item(
        self, answer: AnswerOne, item: Any, result: Any, call: CallOfItems, writing: Writing | None = None
    ) -> bool:
        """Write the answer to one item, or its status, into its result; False: it is to be done again."""
        began = time.perf_counter()
        try:
            answer(item, result.response, call.caller, call.room, writing)
        except Outdated:
            return False
        except BaseException as error:  # noqa: BLE001 - an item's failure is its own, whatever it is
            self._fail_item(error, item, result, call, time.perf_counter() - began)
        return True

    def _fail_item(self, error: BaseException, item: Any, result: Any, call: CallOfItems, seconds: float = 0.0) -> None:
        call.failures.add(error, item.episode_id, seconds)
        # A result holds one of the two: setting the error removes what may have been written of the response.
        result.error.CopyFrom(status_of(error))

    def _reading(self, request: Any, context: grpc.ServicerContext) -> AbstractContextManager[ChatEnvironment]:
        return self._episodes.reading(request.episode_id, caller=context)

    def _check_text(self, size: int, field: str) -> None:
        if size > self._max_text_bytes:
            raise InvalidRequestError(
                f"the messages, tools and prompts of this request take {size} bytes, and this server takes "
                f"{self._max_text_bytes} at once; send less in one Step, or raise --max-text-bytes",
                reason=Reason.TEXT_TOO_LONG,
                field=field,
            )

    def _check_size(self, items: Sequence[Any], field: str) -> None:
        if not 1 <= len(items) <= self._max_batch_items:
            raise InvalidRequestError(
                f"a batch holds 1 to {self._max_batch_items} items, and this one {len(items)}; send several",
                reason=Reason.BATCH_SIZE,
                field=field,
            )


class CallOfItems(NamedTuple):
    """A call that asks many things."""

    caller: WatchedCaller
    room: AnswerRoom
    failures: ItemFailures

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Sums the failures up at its end."""
        try:
            yield
        finally:
            self.failures.close()


class WatchedCaller:
    """The caller of many steps in one call. gRPC tells when it hangs up, so that no step has to ask."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._waits = context.add_callback(self._leave)

    def _leave(self) -> None:
        self._waits = False

    def is_active(self) -> bool:
        """Whether somebody still waits for the answers."""
        return self._waits

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline."""
        return self._context.time_remaining()


def summary_to_proto(episode_id: str, summary: Summary) -> pb.EpisodeSummary:
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
        metadata_json=summary.metadata_json,
    )


def _digest(request: pb.StepRequest) -> bytes:
    """The same for two Steps exactly if they ask the same, whatever their callers hold already."""
    held = pb.StepRequest(known_tokens=request.known_tokens, known_messages=request.known_messages)
    if request.HasField("step_index"):
        held.step_index = request.step_index
    for field in ("known_tokens", "known_messages", "step_index"):
        request.ClearField(field)
    # Equal messages without maps have equal bytes, as long as the same process writes them.
    asked = request.SerializeToString()
    request.MergeFrom(held)  # as it was: a copy of the whole would double what long requests hold
    return hashlib.blake2b(asked, digest_size=16).digest()
