"""One episode as its caller drives it, without any input or output: builds calls and takes in their answers.

The synchronous and the asynchronous client share all of this; they only make the calls.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from chatenv_client import reading, snapshots, wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call
from chatenv_client.errors import ProtocolError
from chatenv_client.forks import Forks
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
        self._forks = Forks()

    @classmethod
    def of_mirror(cls, mirror: Mirror) -> Session:
        """The session of an episode that was made for it."""
        session = cls()
        session._own(mirror)
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
            mirror.absorb(wire.observation_from_proto(response.observation))
            if episode_id == self._next_id:
                self._next_id = uuid.uuid4().hex
            return self._own(mirror)

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
        """Take up an episode that is live on the server. The client that opened it goes on to own it."""

        def take(state: ChatState) -> StepResult:
            mirror = Mirror.of_state(state)
            observation = mirror.observation(state)
            if self.episode_id != episode_id:
                self._owns = False
            self._mirror = mirror
            return result_of(observation)

        return reading.state(episode_id).then(take)

    def fork(self, n: int, episode_ids: Sequence[str] | None, at_step: int | None) -> Call[list[Session]]:
        """Make episodes that share this one's past up to a step, or as this session knows it; a session for each.

        Raises:
            ValueError: `n` or `episode_ids` asks for no episode.
            InvalidRequestError: there is no such step.
        """
        forking = self._forks.ask(self._live(), n, episode_ids, at_step)
        return forking.then(lambda mirrors: list(map(Session.of_mirror, mirrors)))

    def export(self) -> Call[pb.EpisodeSnapshot]:
        """Read the whole episode, to take it elsewhere."""
        return snapshots.export(self._live().episode_id)

    def take_up(self, snapshot: pb.EpisodeSnapshot | bytes, episode_id: str | None) -> Call[StepResult]:
        """Make an exported episode live, under its own id or another one. This session owns it.

        Raises:
            InvalidRequestError: the bytes are no snapshot.
        """
        return snapshots.take_up(snapshot, episode_id).then(self._own)

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
        return reading.render(messages, self._live().episode_id)

    def preview(self, message: Mapping[str, Any]) -> Call[ChatAction]:
        """Make an action of a message, with the tokens that it would add now."""
        return reading.preview(message, self._live().episode_id)

    def state(self) -> Call[ChatState]:
        """Read the whole episode."""
        return reading.state(self._live().episode_id)

    def trajectory(self, *, assistants: bool = False) -> Call[Trajectory]:
        """Read the episode as training wants it, perhaps with what given assistants say."""
        return reading.trajectory(self._live().episode_id, assistants=assistants)

    def audit(self) -> Call[AuditReport]:
        """Compare the stream with a full rendering."""
        return reading.audit(self._live().episode_id)

    def finish(self, *, assistants: bool = False) -> Call[Trajectory]:
        """Read the episode as training wants it, and end it, also where another client opened it."""
        mirror = self._live()

        def receive(response: pb.FinishEpisodeResponse) -> Trajectory:
            trajectory = reading.trajectory_of(mirror.episode_id, response.trajectory, assistants=response.assistants)
            self._forget(mirror)
            return trajectory

        request = pb.FinishEpisodeRequest(episode_id=mirror.episode_id, assistants=assistants)
        return Call("FinishEpisode", request, receive)

    def detach(self) -> str:
        """Let go of the episode, which stays live; its id."""
        mirror = self._live()
        self._forget(mirror)
        return mirror.episode_id

    def close(self, unless: str | None = None) -> Call[None] | None:
        """End the live episode; None when there is none that this session opened, or when it is the one named."""
        mirror = self._mirror
        if mirror is None or not self._owns or mirror.episode_id == unless:
            return None

        def receive(_response: pb.CloseEpisodeResponse) -> None:
            self._forget(mirror)

        return Call("CloseEpisode", pb.CloseEpisodeRequest(episode_id=mirror.episode_id), receive)

    def _own(self, mirror: Mirror) -> StepResult:
        """Have an episode that was made for this session; what it shows."""
        self._mirror, self._owns = mirror, True
        return result_of(mirror.shown)

    def _forget(self, mirror: Mirror) -> None:
        """Have no episode any more, unless it is another one by now."""
        if self._mirror is mirror:
            self._mirror = None

    def _live(self) -> Mirror:
        if self._mirror is None:
            raise RuntimeError("there is no episode yet; call reset() first, or resume() one")
        return self._mirror


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
