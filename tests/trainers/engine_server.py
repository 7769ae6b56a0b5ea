"""An inference engine on a port of this machine: OpenAI's chat completions, and vLLM's ids in, ids out.

It has the embedded tokenizer: a token is a byte, and 257 ends a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.local_http import JsonHandler, LocalServer

STOP = 257


class Said(NamedTuple):
    """A turn of the model."""

    text: str
    calls: tuple[dict[str, Any], ...] = ()
    """Of functions, `name` and `arguments`; in chat completions alone."""
    is_cut: bool = False
    """Whether a limit cut it off."""


class Refused(NamedTuple):
    """The engine's error."""

    status: int = 400
    message: str = "no such model"


Model = Callable[[str], Said | Refused]
"""Says a turn after a prompt, which is the last message's text, or the whole prompt's."""


def logprobs_of(ids: Sequence[int]) -> dict[str, Any]:
    """One of each id, as vLLM writes them."""
    each: dict[str, Any] = {"logprob": -0.25, "bytes": None, "top_logprobs": []}
    return {"content": [{"token": f"token_id:{token}", **each} for token in ids]}


class EngineServer:
    """The engine, which notes what it is `asked`.

    Args:
        model: says the turns.
        tokenizer: in the place of the embedded one.
    """

    def __init__(self, model: Model, tokenizer: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.asked: list[dict[str, Any]] = []
        server = self

        class Handler(JsonHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
                self.send_json({"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 4096}]})

            def post(self, asked: Any) -> None:
                server.asked.append(asked)
                by_ids = self.path.endswith("/inference/v1/generate")
                self.send_json(*(server.generated(asked) if by_ids else server.completed(asked)))

        self._http = LocalServer(Handler)
        self.url = f"{self._http.url}/v1"

    def completed(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The answer to a chat."""
        said = self.model(str(asked["messages"][-1]["content"]))
        if isinstance(said, Refused):
            return {"error": {"message": said.message, "type": "error"}}, said.status
        calls = [{"id": f"call_{index}", "type": "function", "function": call} for index, call in enumerate(said.calls)]
        message = {"role": "assistant", "content": said.text, **({"tool_calls": calls} if calls else {})}
        reason = "length" if said.is_cut else "tool_calls" if calls else "stop"
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        if asked.get("return_token_ids"):
            prompt = ByteTokenizer().apply_chat_template(asked["messages"], add_generation_prompt=True)
            answer["prompt_token_ids"] = prompt
            choice["token_ids"] = self.ids_of(said)
            choice["logprobs"] = logprobs_of(choice["token_ids"])
        return {**answer, "usage": usage}, 200

    def generated(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The ids after a prompt of ids."""
        prompt = asked["token_ids"]
        if self.tokenizer is None:
            said = self.model(bytes(token for token in prompt if token < 256).decode())
        else:
            said = self.model(self.tokenizer.decode(prompt))
        if isinstance(said, Refused):
            return {"error": {"message": said.message, "type": "error"}}, said.status
        reason = "length" if said.is_cut else "stop"
        ids = self.ids_of(said)
        choice = {"index": 0, "token_ids": ids, "finish_reason": reason, "logprobs": logprobs_of(ids)}
        return {"request_id": "1", "choices": [choice]}, 200

    def ids_of(self, said: Said) -> list[int]:
        """A turn's, through the token that ends it, where nothing cut it off."""
        if self.tokenizer is None:
            return [*said.text.encode(), *([] if said.is_cut else [STOP])]
        ids = self.tokenizer.encode(said.text, add_special_tokens=False)
        return [*ids, *([] if said.is_cut else [self.tokenizer.eos_token_id])]

    @contextmanager
    def running(self) -> Iterator[EngineServer]:
        """Serve."""
        with self._http.running():
            yield self
