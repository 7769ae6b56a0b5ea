"""The resources server under NeMo Gym's own agent, over HTTP; the model server behind is a tiny one."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("resources_servers.gymnasium", reason="NeMo Gym is not installed")

import httpx
from nemo_gym.config_types import ModelServerRef, ResourcesServerRef
from nemo_gym.server_utils import ServerClient
from omegaconf import OmegaConf
from responses_api_agents.gymnasium_agent.app import GymnasiumAgent, GymnasiumAgentConfig, GymnasiumAgentRunRequest

from chatenv_client.trainers.nemo_gym import ChatEnvServerConfig
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.trainers.engines import TinyEngine
from tests.trainers.pages import block_of
from tests.trainers.tasks import STOP

SERVED = {"host": "", "port": 0, "entrypoint": ""}


class Model:
    """Answers as Gym's model server does: the prefix that it sampled before stays, what came since is rendered."""

    def __init__(self, *, gives_ids: bool = True, forgets: bool = False) -> None:
        self.tiny = TinyEngine()
        self.gives_ids, self.forgets = gives_ids, forgets
        self._ids: list[int] = []
        self._seen = 0

    def answer(self, asked: Any) -> dict[str, Any]:
        new = [each for each in asked.input[self._seen :] if each.role != "assistant"]
        messages = [{"role": each.role, "content": each.content} for each in new]
        rendered: Any = ByteTokenizer().apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        self._ids += ([*b"\n"] if self._ids and not self.forgets else []) + list(rendered)
        self._seen = len(asked.input) + 1
        made = self.tiny.generate(self._ids, None, [STOP])
        self._ids = [*self._ids, *made.tokens]
        text = {"annotations": [], "text": ByteTokenizer().decode(made.tokens), "type": "output_text"}
        item: dict[str, Any] = {"id": "1", "content": [text], "role": "assistant", "status": "completed"}
        if self.gives_ids:
            item["prompt_token_ids"] = made.prompt.tolist()
            item["generation_token_ids"] = made.tokens
            item["generation_log_probs"] = made.logprobs
        about = {"id": "r", "created_at": 0.0, "model": "m", "object": "response", "tools": [], "tool_choice": "auto"}
        return {**about, "output": [{**item, "type": "message"}], "parallel_tool_calls": True}


class Wire(ServerClient):  # type: ignore[misc, unused-ignore]
    """Gym's way from the agent to its servers: that to ours is HTTP."""

    async def post(self, server_name: str, url_path: str, json: Any = None, cookies: Any = None, **_: Any) -> Any:
        if server_name == "model":
            return Answered(200, self.__dict__["model"].answer(json), {})
        cookie = "; ".join(f"{name}={value}" for name, value in dict(cookies or {}).items())
        async with httpx.AsyncClient(transport=self.__dict__["transport"], base_url="http://gym") as client:
            headers = {"Cookie": cookie} if cookie else {}
            answers = [await client.post(url_path, json=json, headers=headers) for _ in range(self.__dict__["times"])]
        answer = answers[-1]  # where the first was lost, it is asked for again
        self.__dict__["log"].append((url_path, answer.status_code, answer.json()))
        return Answered(answer.status_code, answer.json(), dict(answer.cookies))


class Answered:
    """What Gym reads of an answer."""

    def __init__(self, status: int, payload: Any, cookies: dict[str, str]) -> None:
        self.status, self.ok, self.cookies, self._payload = status, status < 400, cookies, payload
        self.content = self

    async def read(self) -> bytes:
        return json.dumps(self._payload).encode()

    def raise_for_status(self) -> None:
        raise ConnectionError(f"{self.status}: {self._payload}")


def ran(address: str, model: Model, *, times: int = 1, max_steps: int = 10, **options: Any) -> tuple[Any, list[Any]]:
    """A run of the agent, and what it asked of our server."""
    wire = Wire.model_construct(global_config_dict={"observability_enabled": False})
    names: dict[str, Any] = {"__name__": "app"}
    exec(block_of("nemo_gym", "python", address), names)
    served = OmegaConf.to_container(OmegaConf.create(block_of("nemo_gym", "yaml", address)))["chatenv"]
    own = {**SERVED, **served["resources_servers"]["chatenv"], "name": "chatenv"}
    server = names["ChatEnvServer"](config=ChatEnvServerConfig(**own), server_client=wire)
    log: list[Any] = []
    transport = httpx.ASGITransport(server.setup_webserver())
    wire.__dict__.update(transport=transport, model=model, log=log, times=times)
    config = GymnasiumAgentConfig(
        **SERVED,
        name="agent",
        resources_server=ResourcesServerRef(type="resources_servers", name="chatenv"),
        model_server=ModelServerRef(type="responses_api_models", name="model"),
        max_steps=max_steps,
    )
    agent = GymnasiumAgent(config=config, server_client=wire)
    body = GymnasiumAgentRunRequest(responses_create_params={"input": []}, chatenv=options)
    return asyncio.run(agent.run(SimpleNamespace(cookies={}), body)), log


def test_gym_gets_the_rewards_and_the_answers_of_chatenv(address: str) -> None:
    model = Model()
    made, log = ran(address, model, seed=3, task_args={"turns": 3})
    lengths = [len(ByteTokenizer().decode(each.tokens[:-1])) for each in model.tiny.generated]
    assert made.reward == sum(lengths)
    assert made.terminated
    assert [url for url, _, _ in log] == ["/reset", "/step", "/step", "/step", "/close"]
    assert log[0][2]["observation"] == "Seed 3."
    assert [answer["info"]["rewards"] for _, _, answer in log[1:-1]] == [{"length": float(n)} for n in lengths]


def test_a_step_whose_answer_was_lost_is_answered_again(address: str) -> None:
    once, _ = ran(address, Model(), seed=3)
    twice, _ = ran(address, Model(), seed=3, times=2)
    assert twice.reward == once.reward


def test_a_prompt_of_gym_that_is_not_chatenvs_is_refused(address: str) -> None:
    with pytest.raises(ConnectionError, match=r"409.*prompt"):
        ran(address, Model(forgets=True))


def test_a_model_server_without_token_ids_is_told_of_it(address: str) -> None:
    with pytest.raises(ConnectionError, match="return_token_id_information"):
        ran(address, Model(gives_ids=False))


@pytest.mark.parametrize("breaks_at", [-1, 0, 1])
def test_what_breaks_is_an_error_of_the_request_and_no_reward(address: str, breaks_at: int) -> None:
    with pytest.raises(ConnectionError, match=r"503: .*task"):
        ran(address, Model(), task_args={"breaks_at": breaks_at})


def test_a_failure_of_the_task_is_one_too(flaky: str) -> None:
    with pytest.raises(ConnectionError, match=r"503: .*sandbox is gone"):
        ran(flaky, Model())
