"""The RPCs: each reads its request, asks the episodes, writes the answer. Failures are raised, or written per item."""
# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

import grpc

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated import chatenv_pb2_grpc as pb_grpc
from chatenv_client.errors import InvalidRequestError
from chatenv_client.inquiries import MOST_TOKENS
from chatenv_client.models import ChatObservation, ServerInfo, StepReward, TokenText
from chatenv_client.reasons import Reason
from chatenv_client.wire.requests import timestamp
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.rewards import Earned
from chatenv_server.episodes.copies import Copies
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.rpc.answering import Answering
from chatenv_server.rpc.batches import Asked, Batches, CallOfItems, WatchedCaller
from chatenv_server.rpc.failures import FailureLog, ItemFailures
from chatenv_server.rpc.gate import Gate
from chatenv_server.rpc.room import AnswerRoom
from chatenv_server.rpc.streams import StepStream
from chatenv_server.rpc.together import Together
from chatenv_server.rpc.traffic import Traffic
from chatenv_server.stores.store import Summary
from chatenv_server.tasks.choice import Tasks
from chatenv_server.work import done

PAGE: Final = 100
"""Episodes of a page of a list, where the caller does not say."""


class ChatEnvServicer(pb_grpc.ChatEnvServiceServicer):
    """Serves episodes. `CallGuard` stands before it and makes statuses of what it raises."""

    _episodes: Episodes
    _tasks: Tasks
    _copies: Copies
    _answering: Answering
    _batches: Batches
    _together: Together
    _describe: Callable[[], ServerInfo]
    _describe_tokens: Callable[[Iterable[int]], Sequence[TokenText]]
    _encoding_ahead: Callable[[Iterable[tuple[str, str]]], AbstractContextManager[None]]

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
        encoding_ahead: Callable[[Iterable[tuple[str, str]]], AbstractContextManager[None]],
    ) -> None:
        """Give it what to serve; before the gate opens.

        Args:
            episodes: the episodes.
            tasks: what episodes choose from.
            describe: says what the server is.
            describe_tokens: says what tokens stand for.
            encoding_ahead: see `TokenEngine`.
        """
        self._episodes = episodes
        self._tasks = tasks
        self._copies = Copies(episodes)
        self._answering = Answering(episodes, self._failures.telemetry, self._max_text_bytes)
        self._batches = Batches(episodes.writing)
        self._together = Together(episodes.writing, self._work_on_next_step)
        self._describe = describe
        self._describe_tokens = describe_tokens
        self._encoding_ahead = encoding_ahead

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
        count = len(request.fork_ids) or max(1, request.count)
        if count > self._max_batch_items or (request.fork_ids and request.count not in (0, count)):
            raise InvalidRequestError(
                f"a fork makes 1 to {self._max_batch_items} episodes, and as many as fork_ids where they are given",
                reason=Reason.BAD_COUNT,
                field="count",
            )
        if len(set(request.fork_ids)) < len(request.fork_ids):
            what = "fork_ids names one episode twice; give each fork an id of its own"
            raise InvalidRequestError(what, reason=Reason.BAD_COUNT, field="fork_ids")
        ids = list(request.fork_ids) or [""] * count
        response = pb.ForkEpisodeResponse()
        at_step = request.at_step if request.HasField("at_step") else None
        answer = partial(self._write_whole, response)
        made = self._copies.fork(request.episode_id, ids, at_step, caller=context, answer=answer)
        response.fork_ids.extend(made)
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
        response = pb.ImportEpisodeResponse()
        answer = partial(self._write_whole, response)
        self._copies.imported(request.snapshot, request.episode_id, caller=context, answer=answer)
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
        self._room().take(response)
        return response

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
        task = self._tasks.chosen(request.task)
        rows, after, count = self._tasks.rows.listed(task, request.split, request.page_token, request.page_size or PAGE)
        response = wire.row_page_to_proto(wire.RowPage(rows, after, count))
        self._room().take(response)
        return response

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
        self._check_size(request.resets, "resets")

        response = pb.BatchResetResponse()
        call = self._items_of("BatchReset", context)
        self._batches.answer_each(self._answering.reset, request.resets, response.results, call)
        return response

    def BatchStep(self, request: pb.BatchStepRequest, context: grpc.ServicerContext) -> pb.BatchStepResponse:
        """Many Steps, each with its own status; those of one episode in order."""
        self._check_size(request.steps, "steps")

        response = pb.BatchStepResponse()
        with self._encoding_ahead(wire.lone_texts(request.steps, most_bytes=self._max_text_bytes)):
            call = self._items_of("BatchStep", context)
            self._batches.answer_each(self._answering.step, request.steps, response.results, call)
        return response

    def BatchFinishEpisode(
        self, request: pb.BatchFinishEpisodeRequest, context: grpc.ServicerContext
    ) -> pb.BatchFinishEpisodeResponse:
        """Many FinishEpisodes, each with its own status."""
        self._check_size(request.finishes, "finishes")

        response = pb.BatchFinishEpisodeResponse()
        call = self._items_of("BatchFinishEpisode", context)
        self._batches.answer_each(self._answering.finish, request.finishes, response.results, call)
        return response

    def StreamSteps(
        self, request_iterator: Iterator[pb.StreamStepsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamStepsResponse]:
        """Steps pipelined; those of one episode in order."""
        call = self._items_of("StreamSteps", context)

        def asked_by(request: pb.StreamStepsRequest) -> Asked:
            return Asked(request.step, _outcome_of(request), call._replace(room=self._room()))

        async def answer(request: pb.StreamStepsRequest) -> pb.StreamStepsResponse:
            asked = asked_by(request)
            await self._batches.answer_item(self._answering.step, asked)
            return asked.result  # type: ignore[no-any-return]

        def answer_together(requests: Sequence[pb.StreamStepsRequest]) -> list[pb.StreamStepsResponse]:
            asked = [asked_by(one) for one in requests]
            self._batches.answer_together(self._answering.step, asked)
            return [one.result for one in asked]

        together = answer_together if self._batches.writes and not self._waits else None
        stream = StepStream(request_iterator, answer, self._traffic, together)
        with call.closing(), self._gate.told_of_drain(stream.interrupt):
            yield from stream.answers()

    def _write_whole(self, response: Any, observation: ChatObservation) -> None:
        """Write an observation into an answer that holds nothing else of that size."""
        response.Clear()
        wire.write_observation(response.observation, observation)
        self._room().take(response)

    def _room(self) -> AnswerRoom:
        return AnswerRoom(self._max_message_bytes)

    def _items_of(self, rpc: str, context: grpc.ServicerContext) -> CallOfItems:
        return CallOfItems(WatchedCaller(context), self._room(), ItemFailures(rpc, context.peer(), self._failures))

    def _reading(self, request: Any, context: grpc.ServicerContext) -> AbstractContextManager[ChatEnvironment]:
        return self._episodes.reading(request.episode_id, caller=context)

    def _check_size(self, items: Sequence[Any], field: str) -> None:
        if not 1 <= len(items) <= self._max_batch_items:
            raise InvalidRequestError(
                f"a batch holds 1 to {self._max_batch_items} items, and this one {len(items)}; send several",
                reason=Reason.BATCH_SIZE,
                field=field,
            )


def _outcome_of(request: pb.StreamStepsRequest) -> pb.StreamStepsResponse:
    """The answer of a stream to a request, as far as that tells."""
    outcome = pb.StreamStepsResponse(request_id=request.request_id, episode_id=request.step.episode_id)
    if request.step.HasField("step_index"):
        outcome.step_index = request.step.step_index
    return outcome


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
        failed=summary.failed,
        metadata_json=summary.metadata_json,
    )
