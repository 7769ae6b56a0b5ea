"""chatenv behind OpenEnv's protocol: OpenEnv's own server over the episodes of a chatenv server. The extra `openenv`.

Nothing of an episode is kept here. Each action names its episode and step, as the observation before told them, so a
client whose connection was cut goes on over another one: a step whose answer was lost is answered again.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import EnvironmentMetadata

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._version import __version__
from chatenv_client.calls import Call
from chatenv_client.client import ChatEnv
from chatenv_client.errors import ChatEnvError, InvalidRequestError
from chatenv_client.models import ChatAction as Turn
from chatenv_client.models import as_action
from chatenv_client.reasons import Reason
from chatenv_client.trainers.openenv_models import ChatAction, ChatObservation, ChatState

if TYPE_CHECKING:
    from chatenv_client._connection import Connection

MOST_SESSIONS: Final = 1024
_STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def openenv_app(client: ChatEnv, *, most_sessions: int = MOST_SESSIONS) -> FastAPI:
    """OpenEnv's server, to be run by uvicorn or another ASGI server.

    Args:
        client: of the chatenv server; its own episode, if it has one, is left alone.
        most_sessions: WebSockets at once; one more gets `CAPACITY_REACHED`.
    """
    app = create_fastapi_app(
        partial(ServedChat, client._connection),
        ChatAction,
        ChatObservation,
        max_concurrent_envs=most_sessions,
        env_name="chatenv",
        state_cls=ChatState,
        mode="simulation",
    )
    app.add_exception_handler(ChatEnvError, _told)
    app.add_exception_handler(TypeError, _told)
    app.add_exception_handler(ValueError, _told)
    return app


def _told(_request: Request, error: Exception) -> JSONResponse:
    """What goes wrong in a plain HTTP call."""
    if isinstance(error, ChatEnvError):
        status = _STATUSES.get(error.code, 500)
        return JSONResponse({"detail": error.message, "reason": str(error.reason)}, status)
    return JSONResponse({"detail": str(error)}, 400)


class ServedChat(Environment):
    """One session of OpenEnv's server.

    A `reset` closes the episode that the session opened before. The last one lives on after the session, for a client
    that comes back, until the server's idle timeout.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._opened = self._episode_id = ""
        self._step_index = 0

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, index: int | None = None, **options: Any
    ) -> ChatObservation:
        """Open an episode.

        Args:
            seed: as for `ChatEnv.reset`.
            episode_id: as for `ChatEnv.reset`.
            index: of a row of the server's data, OpenEnv's word for `row`.
            **options: all others of `ChatEnv.reset`.
        """
        name = episode_id or uuid.uuid4().hex
        row = {} if index is None else {"row": index}
        request = wire.reset_to_proto({**options, **row, "seed": seed, "episode_id": name})  # type: ignore[typeddict-item]
        opening = Call("Reset", request, lambda response: _shown(response.observation))
        before = self._opened if self._opened not in ("", name) else None
        closing = Call("CloseEpisode", pb.CloseEpisodeRequest(episode_id=before), lambda _: None) if before else None
        observation = self._connection.succeed(closing, opening, None)
        self._opened = name
        return self._note(observation)

    def step(self, action: ChatAction, timeout_s: float | None = None) -> ChatObservation:
        """Append a turn to the episode that the action's metadata name, or to that of this session."""
        turn = _turn_of(action)
        told = action.metadata
        episode_id = told.get("episode_id") or self._episode_id
        if not episode_id:
            raise _wrong("this session has no episode: reset, or send the metadata of the last observation along")
        own = self._step_index if episode_id == self._episode_id else None
        fingerprint = "" if turn.changes_messages else told.get("prompt_fingerprint", "")
        request = pb.StepRequest()
        try:
            wire.write_step(
                request,
                turn,
                episode_id=episode_id,
                prompt_fingerprint=fingerprint,
                step_index=told.get("step_index", own),
            )
        except TypeError as error:
            raise _wrong("metadata has episode_id, a text, and step_index, a number, as observations have") from error
        step = Call("Step", request, lambda response: _shown(response.observation))
        return self._note(self._connection.make(step, timeout_s))

    def _note(self, observation: ChatObservation) -> ChatObservation:
        self._episode_id, self._step_index = observation.metadata["episode_id"], observation.metadata["step_index"]
        return observation

    @property
    def state(self) -> ChatState:
        """The whole episode of this session; empty where there is none."""
        if not self._episode_id:
            return ChatState()
        request = pb.GetStateRequest(episode_id=self._episode_id)
        state = self._connection.make(Call("GetState", request, wire.state_from_proto), None)
        return ChatState(
            episode_id=state.episode_id,
            step_count=state.step_count,
            history_messages=list(map(dict, state.history_messages)),
            history_tokens=[ids.tolist() for ids in state.history_token_ids],
        )

    def get_metadata(self) -> EnvironmentMetadata:
        """What this is."""
        what = "A chat environment for reinforcement learning of language models, exact in every token"
        return EnvironmentMetadata(name="chatenv", description=what, version=__version__)


def _turn_of(action: ChatAction) -> Turn:
    """An action as chatenv takes it.

    Raises:
        InvalidRequestError: it has an unknown field, or not exactly one of tokens and messages.
        TypeError, ValueError: a field holds what it cannot.
    """
    known = list(ChatAction.model_fields)
    if unknown := action.model_extra:
        raise _wrong(f"an action has no field {min(unknown)!r}; it has {', '.join(known)}")
    given = [action.tokens, action.message, action.messages]
    if sum(each is not None for each in given) != 1:
        raise _wrong("an action has either tokens, or message, or messages")
    if action.tokens is None:
        return as_action(action.messages if action.message is None else action.message, None)
    return Turn(
        tokens=_one_row(action.tokens),
        logprobs=_one_row(action.logprobs),
        stop_reason=action.stop_reason,
        model_version=action.model_version or "",
    )


def _one_row(values: Any) -> Any:
    """Values without the dimension of a batch of one, which engines give."""
    return values[0] if isinstance(values, Sequence) and len(values) == 1 and isinstance(values[0], list) else values


def _shown(encoded: pb.Observation) -> ChatObservation:
    """An answer, whole, as OpenEnv shows it."""
    observation, tokens, messages = wire.observation_from_proto(encoded)
    failure = observation.failure
    metadata: Mapping[str, Any] = {
        **observation.metadata,
        "episode_id": observation.episode_id,
        "step_index": observation.step_count,
        "prompt_fingerprint": observation.prompt_fingerprint,
        "terminated": observation.terminated,
        "truncated": observation.truncated,
        "rewards": dict(observation.rewards),
        "failure": failure and failure.as_json(),
        "fidelity": [report.kind.value for report in observation.fidelity],
    }
    return ChatObservation(
        messages=list(map(dict, messages)),
        tokens=tokens.tolist(),
        done=observation.done,
        reward=observation.reward if failure is None else None,
        metadata=metadata,
    )


def _wrong(what: str) -> InvalidRequestError:
    return InvalidRequestError(what, reason=Reason.BAD_ACTION, field="action")
