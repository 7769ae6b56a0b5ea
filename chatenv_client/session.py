"""One episode as its caller drives it, without any input or output: builds calls and takes in their answers.

The synchronous and the asynchronous client share all of this; they only make the calls.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call
from chatenv_client.errors import ProtocolError
from chatenv_client.mirror import Mirror
from chatenv_client.models import (
    Action,
    AuditReport,
    ChatAction,
    ChatObservation,
    ChatState,
    Failure,
    FailureKind,
    Message,
    Rendered,
    ResetOptions,
    RewardChange,
    StepResult,
    StepReward,
    Trajectory,
    as_action,
    own_message,
)
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array


class Session:
    """The episode of one client. Its state changes only when a call's answer is received.

    So a call that failed can be built and made again: the same step then carries the same step_index, and the
    server answers from its record if it had applied the step already.
    """

    def __init__(self) -> None:
        self._mirror: Mirror | None = None
        self._owns = False
        """Whether this session opened the episode, and so ends it."""
        self._next_id = uuid.uuid4().hex
        """For the next Reset that names no episode. The same until one is answered: where only the answer was lost, the
        next starts that episode anew, and leaves none behind that nobody knows."""
        self._unanswered_forks: dict[tuple[str, int], str] = {}
        """How the ids of forks begin that were not answered yet, by episode and step: for the same reason."""

    @classmethod
    def of_mirror(cls, mirror: Mirror) -> Session:
        """The session of an episode that was made for it."""
        session = cls()
        session._mirror, session._owns = mirror, True
        return session

    @property
    def episode_id(self) -> str | None:
        """The live episode; None before reset and after the end."""
        return None if self._mirror is None else self._mirror.episode_id

    @property
    def observation(self) -> ChatObservation:
        """What the last answer showed.

        Raises:
            RuntimeError: there is no episode yet.
        """
        return self._live().shown

    def reset(self, options: ResetOptions) -> Call[StepResult]:
        """Start an episode, under an id of its own when `options` names none."""
        episode_id = options.get("episode_id") or self._next_id
        request = wire.reset_to_proto({**options, "episode_id": episode_id})
        mirror = Mirror(episode_id, options.get("seed"))

        def receive(response: pb.ResetResponse) -> StepResult:
            observation = mirror.absorb(wire.observation_from_proto(response.observation))
            self._mirror, self._owns = mirror, True
            if episode_id == self._next_id:
                self._next_id = uuid.uuid4().hex
            return result_of(observation)

        return Call("Reset", request, receive)

    def step(
        self, action: Action, request: pb.StepRequest | None = None, *, replace_from: int | None = None
    ) -> Call[StepResult]:
        """Append one turn, on the condition that the server's episode is where this one is.

        Args:
            action: what to append.
            request: an empty message that becomes the call's request; None: a new one.
            replace_from: the messages take the place of all from this index on; None: as the action says.

        Raises:
            TypeError: it is neither an action, a message nor a list of messages.
            InvalidRequestError: a message is neither text nor JSON.
        """
        mirror = self._live()
        action = as_action(action, replace_from)
        if action.changes_messages:
            sampled, given, prompt = EMPTY_TOKENS, tuple(map(own_message, action.messages)), ""
        else:
            sampled, given, prompt = action.tokens, (), mirror.prompt_fingerprint
        kept = mirror.kept_messages(action.replace_from)
        request = pb.StepRequest() if request is None else request
        wire.write_step(
            request,
            action,
            episode_id=mirror.episode_id,
            prompt_fingerprint=prompt,
            step_index=mirror.step_count,
            known_tokens=mirror.token_count + len(sampled),
            known_messages=kept + len(given),
        )
        return Call("Step", request, partial(_take_step, mirror, sampled, given, action.replace_from))

    def resume(self, episode_id: str) -> Call[StepResult]:
        """Take up an episode that is live on the server. Whoever opened it goes on to own it."""

        def receive(response: pb.GetStateResponse) -> StepResult:
            state = _state_of(episode_id, response)
            mirror = Mirror.of_state(state)
            observation = mirror.observation(state)
            if self.episode_id != episode_id:
                self._owns = False
            self._mirror = mirror
            return result_of(observation)

        return Call("GetState", pb.GetStateRequest(episode_id=episode_id), receive)

    def fork(self, n: int, episode_ids: Sequence[str] | None, at_step: int | None) -> Call[list[Session]]:
        """Make episodes that share this one's past up to a step, or as this session knows it; a session for each.

        Raises:
            ValueError: `n` or `episode_ids` asks for no episode.
            InvalidRequestError: there is no such step.
        """
        mirror = self._live()
        step = mirror.step_count if at_step is None else at_step
        key = (mirror.episode_id, step)
        ids = self._fork_ids(key, n, episode_ids)

        def receive(response: pb.ForkEpisodeResponse) -> list[Session]:
            if list(response.fork_ids) != ids:
                what = "the answer names other forks than were asked for; update the older of client and server"
                raise ProtocolError(what)
            delta = wire.observation_from_proto(response.observation)
            mirrors = [Mirror.of_copy(delta, fork_id, step, mirror.seed) for fork_id in ids]
            if step == mirror.step_count and delta.observation.prompt_fingerprint != mirror.prompt_fingerprint:
                raise ProtocolError(f"the forks are of another stream than {mirror.episode_id!r} has; call resume()")
            self._unanswered_forks.pop(key, None)
            return list(map(Session.of_mirror, mirrors))

        return Call("ForkEpisode", wire.fork_to_proto(mirror.episode_id, ids, step), receive)

    def _fork_ids(self, key: tuple[str, int], n: int, episode_ids: Sequence[str] | None) -> list[str]:
        if isinstance(episode_ids, str) or (episode_ids is not None and n not in (1, len(episode_ids))):
            raise ValueError("episode_ids has one id for each fork; give n, or the ids")
        if (n if episode_ids is None else len(episode_ids)) < 1:
            raise ValueError("a fork makes at least one episode")
        if episode_ids is not None:
            return list(episode_ids)
        begin = self._unanswered_forks.setdefault(key, uuid.uuid4().hex)
        return [f"{begin}.{number}" for number in range(n)]

    def export(self) -> Call[pb.EpisodeSnapshot]:
        """Read the whole episode, to take it elsewhere."""
        episode_id = self._live().episode_id

        def receive(response: pb.ExportEpisodeResponse) -> pb.EpisodeSnapshot:
            _check_episode(response.snapshot.episode_id, episode_id)
            return response.snapshot

        return Call("ExportEpisode", pb.ExportEpisodeRequest(episode_id=episode_id), receive)

    def take_up(self, snapshot: pb.EpisodeSnapshot | bytes, episode_id: str | None) -> Call[StepResult]:
        """Make an exported episode live, under its own id or another one. This session owns it.

        Raises:
            InvalidRequestError: the bytes are no snapshot.
        """
        told = wire.snapshot_of_bytes(snapshot) if isinstance(snapshot, bytes) else snapshot
        name = episode_id or told.episode_id
        steps = len(told.entries) - 1

        def receive(response: pb.ImportEpisodeResponse) -> StepResult:
            opened = told.entries[0].opened if told.entries else pb.ResetRequest()
            seed = opened.seed if opened.HasField("seed") else None
            mirror = Mirror.of_copy(wire.observation_from_proto(response.observation), name, steps, seed)
            if told.entries[-1].prompt_fingerprint not in ("", mirror.prompt_fingerprint):
                raise ProtocolError(f"episode {name!r} has another stream than its snapshot; update the older side")
            self._mirror, self._owns = mirror, True
            return result_of(mirror.shown)

        return Call("ImportEpisode", pb.ImportEpisodeRequest(snapshot=told, episode_id=name), receive)

    def set_reward(
        self, rewards: Any, weights: Mapping[str, Any] | None, step: int | None, turn: int | None
    ) -> Call[StepReward]:
        """Set rewards of a step, or of a turn of the model; of the last step where neither is named.

        Raises:
            TypeError: a reward is no number.
            InvalidRequestError: it is not finite, has no proper name, or is of a step and of a turn.
        """
        mirror = self._live()
        if step is None and turn is None:
            step = mirror.step_count
        change = RewardChange.of(rewards, weights)
        request = wire.set_reward_to_proto(mirror.episode_id, change, step=step, turn=turn)

        def receive(response: pb.SetRewardResponse) -> StepReward:
            told = wire.step_reward_from_proto(response)
            if step is not None and told.step != step:
                raise ProtocolError(f"the answer is about step {told.step}, not {step}; update the older side")
            return told

        return Call("SetReward", request, receive)

    def fail(self, reason: str, kind: FailureKind | str) -> Call[Failure]:
        """End the episode because something broke.

        Raises:
            TypeError: the reason is no text.
            InvalidRequestError: there is no such kind, or the reason is too long.
        """
        mirror = self._live()

        def receive(response: pb.FailEpisodeResponse) -> Failure:
            return mirror.fail(wire.failure_from_proto(response.failure))

        return Call("FailEpisode", wire.fail_to_proto(mirror.episode_id, Failure.of(kind, reason)), receive)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> Call[Rendered]:
        """Ask what messages would add now."""
        request = wire.render_to_proto(messages, episode_id=self._live().episode_id)
        return Call("RenderMessage", request, wire.rendered_from_proto)

    def preview(self, message: Mapping[str, Any]) -> Call[ChatAction]:
        """Make an action of a message, with the tokens that it would add now."""
        given: Message = own_message(message)

        def receive(response: pb.RenderMessageResponse) -> ChatAction:
            return ChatAction(tokens=wire.rendered_from_proto(response).tokens, messages=(given,))

        return Call("RenderMessage", wire.render_to_proto([given], episode_id=self._live().episode_id), receive)

    def state(self) -> Call[ChatState]:
        """Read the whole episode."""
        return self.peek(self._live().episode_id)

    def trajectory(self, *, assistants: bool = False) -> Call[Trajectory]:
        """Read the episode as training wants it, perhaps with what given assistants say."""
        episode_id = self._live().episode_id

        def receive(response: pb.GetTrajectoryResponse) -> Trajectory:
            return _trajectory_of(episode_id, response, assistants=assistants)

        request = pb.GetTrajectoryRequest(episode_id=episode_id, assistants=assistants)
        return Call("GetTrajectory", request, receive)

    def finish(self, *, assistants: bool = False) -> Call[Trajectory]:
        """Read the episode as training wants it, and end it, whoever opened it."""
        mirror = self._live()

        def receive(response: pb.FinishEpisodeResponse) -> Trajectory:
            trajectory = _trajectory_of(mirror.episode_id, response.trajectory, assistants=response.assistants)
            self._forget(mirror)
            return trajectory

        request = pb.FinishEpisodeRequest(episode_id=mirror.episode_id, assistants=assistants)
        return Call("FinishEpisode", request, receive)

    def detach(self) -> str:
        """Let go of the episode, which stays live; its id."""
        mirror = self._live()
        self._forget(mirror)
        return mirror.episode_id

    def peek(self, episode_id: str) -> Call[ChatState]:
        """Read somebody's episode."""
        return Call("GetState", pb.GetStateRequest(episode_id=episode_id), partial(_state_of, episode_id))

    def audit(self) -> Call[AuditReport]:
        """Compare the stream with a full rendering."""
        return Call("AuditEpisode", pb.AuditEpisodeRequest(episode_id=self._live().episode_id), wire.audit_from_proto)

    def close(self, unless: str | None = None) -> Call[None] | None:
        """End the live episode; None when there is none that this session opened, or when it is the one named."""
        mirror = self._mirror
        if mirror is None or not self._owns or mirror.episode_id == unless:
            return None

        def receive(_response: pb.CloseEpisodeResponse) -> None:
            self._forget(mirror)

        return Call("CloseEpisode", pb.CloseEpisodeRequest(episode_id=mirror.episode_id), receive)

    def _forget(self, mirror: Mirror) -> None:
        """Have no episode any more, unless it is another one by now."""
        if self._mirror is mirror:
            self._mirror = None

    def _live(self) -> Mirror:
        if self._mirror is None:
            raise RuntimeError("there is no episode yet; call reset() first, or resume() one")
        return self._mirror


def _state_of(episode_id: str, response: pb.GetStateResponse) -> ChatState:
    _check_episode(response.episode_id, episode_id)
    return wire.state_from_proto(response)


def _trajectory_of(episode_id: str, response: pb.GetTrajectoryResponse, *, assistants: bool) -> Trajectory:
    _check_episode(response.episode_id, episode_id)
    return wire.trajectory_from_proto(response, assistants=assistants)


def _check_episode(answered: str, asked: str) -> None:
    if answered != asked:
        what = f"the answer is about episode {answered!r}, not {asked!r}; update the older of client and server"
        raise ProtocolError(what)


def _take_step(
    mirror: Mirror,
    sampled: Int32Array,
    given: tuple[Message, ...],
    replace_from: int | None,
    response: pb.StepResponse,
) -> StepResult:
    return result_of(mirror.absorb(wire.observation_from_proto(response.observation), sampled, given, replace_from))


def result_of(observation: ChatObservation) -> StepResult:
    """What a client answers with."""
    return StepResult(observation, observation.reward, observation.done)
