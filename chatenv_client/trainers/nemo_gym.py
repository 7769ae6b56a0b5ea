"""NeMo Gym: a resources server for its `gymnasium_agent`, with chatenv's episodes. See docs/trainers/nemo_gym.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from nemo_gym.base_resources_server import BaseResourcesServerConfig
from nemo_gym.openai_utils import NeMoGymResponse
from nemo_gym.server_utils import SESSION_ID_KEY
from pydantic import Field
from resources_servers.gymnasium import EnvResetRequest, EnvResetResponse, GymnasiumServer

from chatenv_client.aio import AsyncChatEnv
from chatenv_client.errors import ChatEnvError
from chatenv_client.models import ChatAction, Message
from chatenv_client.tokens import as_token_ids, fingerprint_of
from chatenv_client.trainers.playing import BROKEN, is_models_turn
from chatenv_client.trainers.rollouts import Server, opening

Step = tuple[str | None, float, bool, bool, dict[str, Any]]  # observation, reward, terminated, truncated, info
_OF_TOOLS = ("name", "description", "parameters")


class ChatEnvServerConfig(BaseResourcesServerConfig):
    """What the YAML of the server has beside Gym's own: the address, more of `Server`, and keywords of all resets."""

    target: str
    client: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)


class ChatEnvServer(GymnasiumServer):
    """Rewards and answers are chatenv's; the prompt is Gym's, and each turn is refused where the two differ."""

    config: ChatEnvServerConfig

    def setup_webserver(self) -> FastAPI:
        """Add the end of an episode, which the agent calls where it is told of it."""
        app: FastAPI = super().setup_webserver()
        app.post("/close")(self._close_endpoint)
        return app

    async def _reset_endpoint(self, body: EnvResetRequest, request: Request) -> EnvResetResponse:
        session_id, asked = request.session[SESSION_ID_KEY], body.responses_create_params
        await self._close_endpoint(request)
        given = _messages(asked.input)
        named = [{name: tool[name] for name in _OF_TOOLS if tool.get(name)} for tool in asked.model_dump()["tools"]]
        facts = {"tools": [{"type": "function", "function": each} for each in named] or None, **self.config.options}
        env = Server(self.config.target, **self.config.client).client()
        try:
            result = await env.reset(**opening(given, (body.model_extra or {}).get("chatenv"), **facts))
        except ChatEnvError as error:
            raise _refused(error) from error
        self.session_state[session_id] = _Session(env)
        info = {"supports_step_idempotency": True, "supports_explicit_close": True, "chatenv_episode": env.episode_id}
        return EnvResetResponse(observation=_added(given, result.observation.messages), info=info)

    async def step(self, action: NeMoGymResponse, metadata: dict[str, Any], session_id: str | None = None) -> Step:
        """Append what the model sampled. What breaks is an error of the request: Gym has no reward for it."""
        if session_id not in self.session_state:
            raise HTTPException(409, "chatenv: this session has no episode; reset it first")
        session: _Session = self.session_state[session_id]
        request_id = metadata.get("_ng_step_request_id")
        if request_id is None or request_id != session.answered:
            try:
                session.answer = await session.step(action)
            except ChatEnvError as error:
                raise _refused(error) from error
            session.answered = request_id
        return session.answer

    async def close_session(self, session_id: str | None) -> None:
        """End the episode of a session, if there is one. The last answer can still be asked for again."""
        if session_id in self.session_state:
            await self.session_state[session_id].env.close()

    async def _close_endpoint(self, request: Request) -> dict[str, Any]:
        await self.close_session(request.session[SESSION_ID_KEY])
        self.session_state.pop(request.session[SESSION_ID_KEY], None)
        return {}


def _refused(error: ChatEnvError) -> HTTPException:
    return HTTPException(503 if isinstance(error, BROKEN) else 409, f"chatenv: {error}")


class _Session:
    """An episode, and the answer to the step that was asked last."""

    answer: Step
    answered: str | None = None

    def __init__(self, env: AsyncChatEnv) -> None:
        self.env = env
        self._is_rewarded = False

    async def step(self, action: NeMoGymResponse) -> Step:
        sampled = next((item for item in reversed(action.output) if getattr(item, "generation_token_ids", None)), None)
        if sampled is None:
            raise HTTPException(
                422, "chatenv: there are no token ids; set the model's return_token_id_information: true"
            )
        before = len(self.env.observation.messages)
        result = await self.env.step(
            ChatAction(
                tokens=sampled.generation_token_ids,
                logprobs=sampled.generation_log_probs,
                prompt_fingerprint=fingerprint_of(as_token_ids(sampled.prompt_token_ids)),
            )
        )
        shown = result.observation
        self._is_rewarded |= shown.reward is not None
        is_over = not is_models_turn(result)
        if shown.failure is not None or (is_over and not self._is_rewarded):
            raise HTTPException(503, f"chatenv: {shown.failure or 'nobody rewarded this episode'}")
        said, results = _answered(action, shown.messages[before:])
        info = {"tool_outputs": results, "rewards": dict(shown.rewards), "chatenv_episode": shown.episode_id}
        return said, shown.reward or 0.0, is_over and not shown.truncated, shown.truncated, info


def _answered(action: NeMoGymResponse, added: Sequence[Message]) -> tuple[str | None, list[dict[str, str]]]:
    """What a user says, and the results of tools, each with the id of its call."""
    calls = [item.call_id for item in action.output if item.type == "function_call"]
    results = [str(each.get("content")) for each in added if each["role"] == "tool"]
    said = [str(each.get("content")) for each in added if each["role"] == "user"]
    if len(results) > len(calls) or len(said) > 1:
        raise HTTPException(500, "chatenv: Gym takes a result for each call that it read, and one message of the user")
    outputs = [{"call_id": call, "output": result} for call, result in zip(calls, results, strict=False)]
    return (said[0] if said else None), outputs


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [{"role": each.role, "content": each.content} for each in given]


def _added(given: list[dict[str, Any]], messages: Sequence[Message]) -> str | None:
    """What the opening has beside Gym's input, which Gym appends as a message of the user."""
    more = [*messages][len(given) :] if [*messages][: len(given)] == given else [*messages]
    if len(more) == 1 and more[0]["role"] == "user":
        return str(more[0].get("content"))
    if not more:
        return None
    raise HTTPException(500, f"chatenv opens with {more}, and Gym's prompt is another; put it into the row's input")
