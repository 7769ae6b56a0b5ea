"""vLLM as the engine: token ids in, token ids and log probabilities out, over the completions API of `vllm serve`.

vllm serve Qwen/Qwen2.5-0.5B-Instruct
chatenv-server --tokenizer Qwen/Qwen2.5-0.5B-Instruct --task guessing_game:Guess
python examples/engine_vllm.py --model Qwen/Qwen2.5-0.5B-Instruct
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from chatenv_client import ChatAction, ChatEnv
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.playing import play


@dataclass
class Vllm:
    """Asks a vLLM server for the turns of an episode."""

    url: str
    model: str
    stop_ids: list[int]
    """What ends a turn, by the chatenv server."""
    max_tokens: int = 256
    """Of a turn."""
    version: str | int = ""
    """Of the weights that vLLM has now: vLLM does not say, whoever loads them does."""
    params: dict[str, Any] = field(default_factory=lambda: {"temperature": 1.0})
    """More of vLLM's sampling parameters. With others than these the logprobs are those before temperature and filters,
    unless vLLM runs with `--logprobs-mode processed_logprobs`."""

    def sample(self, prompt_ids: Int32Array) -> ChatAction:
        """One turn. Its ids are vLLM's own, with the stop token, which its text leaves out."""
        asked = {
            **self.params,
            "model": self.model,
            "prompt": prompt_ids.tolist(),
            "max_tokens": self.max_tokens,
            "stop_token_ids": self.stop_ids,
            "logprobs": 0,
            "return_token_ids": True,
        }
        (choice,) = posted(f"{self.url}/v1/completions", asked)["choices"]
        if choice["prompt_token_ids"] != asked["prompt"]:
            raise RuntimeError("vLLM read another prompt than it was sent; look at its settings for the prompt")
        return ChatAction(
            tokens=choice["token_ids"],
            logprobs=choice["logprobs"]["token_logprobs"],
            stop_reason=choice["finish_reason"],  # after `abort` the turn stays open, and goes on with the next call
            model_version=self.version,
        )


def posted(url: str, asked: dict[str, Any]) -> Any:
    """The JSON that a server answers to JSON."""
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main() -> None:
    """Play an episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000", help="of the vLLM server")
    parser.add_argument("--model", required=True, help="name of the model that vLLM serves")
    parser.add_argument("--server", default="localhost:50051", help="address of the chatenv server")
    options = parser.parse_args()
    with ChatEnv(options.server) as env:
        stop_ids = env.server_info().stop_ids
        trajectory = play(env, Vllm(options.url, options.model, stop_ids).sample, max_turns=10)
    print(
        f"reward {trajectory.reward}; {int(trajectory.loss_mask.sum())} of {len(trajectory.tokens)} tokens are sampled"
    )


if __name__ == "__main__":
    main()
