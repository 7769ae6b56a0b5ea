"""What can be read of an environment, without changing anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatenv_client.errors import InvalidRequestError, TemplateRejectedError
from chatenv_client.models import (
    AuditReport,
    ChatAction,
    ChatObservation,
    ChatState,
    ForkOrigin,
    Message,
    Rendered,
    TokenText,
    Trajectory,
)
from chatenv_client.reasons import Reason
from chatenv_server.engine import TokenEngine, audit
from chatenv_server.engine.given_assistants import given_assistants
from chatenv_server.engine.log import NO_CHANGE
from chatenv_server.environment.blame import blaming
from chatenv_server.environment.progress import Progress
from chatenv_server.environment.record import EpisodeRecord
from chatenv_server.environment.validation import check_messages
from chatenv_server.environment.views import observation_of, state_of, trajectory_of


class EnvironmentReading:
    """The part of an environment that changes nothing; `ChatEnvironment` is the whole."""

    def __init__(self, engine: TokenEngine) -> None:
        self.engine = engine
        self._episode: EpisodeRecord | None = None

    def _current(self) -> EpisodeRecord:
        if self._episode is None:
            raise InvalidRequestError("there is no episode yet; call reset first", reason=Reason.NO_EPISODE)
        return self._episode

    def message_to_action(self, message: Mapping[str, Any]) -> ChatAction:
        """An action that appends `message`, with the tokens that it would add to the stream now.

        Raises:
            InvalidRequestError, TemplateRejectedError: the message cannot be appended now.
        """
        return ChatAction(tokens=self.render([message]).tokens, messages=(message,))  # type: ignore[arg-type]

    def render(self, messages: Sequence[Mapping[str, Any]]) -> Rendered:
        """What the stream would become if `messages` were appended now.

        Raises:
            InvalidRequestError, TemplateRejectedError: they cannot be appended now.
        """
        given: list[Message] = [dict(message) for message in messages]  # type: ignore[misc]
        check_messages(given)
        if not given:
            raise InvalidRequestError("there is no message to render", reason=Reason.EMPTY_ACTION, field="messages")
        log = self._current().log
        try:
            offset, tokens, reports = log.preview(given)
        except TemplateRejectedError as error:
            raise blaming(error, log, given) from error
        return Rendered(offset, tokens.copy(), reports)

    @property
    def state(self) -> ChatState:
        """The whole episode as it is now."""
        return state_of(self._current())

    @property
    def observation(self) -> ChatObservation:
        """What the episode shows now, as a step shows it that did nothing."""
        return observation_of(self._current(), NO_CHANGE)

    def trajectory(self, *, assistants: bool = False) -> Trajectory:
        """The episode as training wants it: per segment tokens, loss mask, logprobs, turns.

        Args:
            assistants: whether to find what assistants say in messages that were given, for `mask("assistant")`. Takes
                two renders of the conversation for each of them, or three.
        """
        episode = self._current()
        trajectory = trajectory_of(episode)
        if not assistants:
            return trajectory
        return dataclasses.replace(trajectory, given_assistants=given_assistants(episode.log, self.engine.stop_ids))

    def describe_tokens(self, ids: Iterable[int]) -> Sequence[TokenText]:
        """What tokens stand for, one for each id; an empty text where nothing is known of it."""
        return self.engine.describe_tokens(ids)

    def audit(self) -> AuditReport:
        """Compare the stream with a full rendering of its messages. Costs time proportional to the episode."""
        return audit(self._current().log)

    @property
    def episode_id(self) -> str:
        """Name of the episode."""
        return self._current().episode_id

    @property
    def step_count(self) -> int:
        """Steps taken since reset."""
        return 0 if self._episode is None else self._episode.progress.step_count

    @property
    def token_count(self) -> int:
        """Length of the stream."""
        return len(self._current().log)

    @property
    def held_tokens(self) -> int:
        """Tokens that the episode holds, those of sealed segments included."""
        return self._current().log.held_tokens

    @property
    def message_count(self) -> int:
        """Messages of the conversation."""
        return self._current().log.message_count

    @property
    def progress(self) -> Progress:
        """How far the episode is."""
        return self._current().progress

    @property
    def metadata(self) -> Mapping[str, Any]:
        """As given at reset."""
        return self._current().options.metadata

    @property
    def forked_from(self) -> ForkOrigin | None:
        """Where the episode was forked from; None: it was not."""
        return self._current().forked_from

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self._episode is not None and self._episode.progress.is_over
