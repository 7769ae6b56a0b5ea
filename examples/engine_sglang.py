"""SGLang as the engine: token ids in, token ids and log probabilities out, over its `/generate`.

python -m sglang.launch_server --model-path Qwen/Qwen2.5-0.5B-Instruct
chatenv-server --tokenizer Qwen/Qwen2.5-0.5B-Instruct --task guessing_game:Guess
python examples/engine_sglang.py
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from engine_vllm import posted

from chatenv_client import ChatAction, ChatEnv
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.playing import play


@dataclass
class SgLang:
    """Asks an SGLang server for the turns of an episode."""

    url: str
    stop_ids: list[int]
    """What ends a turn, by the chatenv server."""
    max_tokens: int = 256
    """Of a turn."""
    params: dict[str, Any] = field(default_factory=lambda: {"temperature": 1.0})
    """More of SGLang's sampling parameters."""

    def sample(self, prompt_ids: Int32Array) -> ChatAction:
        """One turn. Its ids are those that the logprobs are of: they have the stop token in any case."""
        params = {**self.params, "max_new_tokens": self.max_tokens, "stop_token_ids": self.stop_ids}
        asked = {"input_ids": prompt_ids.tolist(), "sampling_params": params, "return_logprob": True}
        about = posted(f"{self.url}/generate", asked)["meta_info"]
        pairs = about["output_token_logprobs"]
        return ChatAction(
            tokens=[token for _, token, *_ in pairs],
            logprobs=[logprob for logprob, *_ in pairs],
            stop_reason=about["finish_reason"]["type"],  # after `abort` the turn stays open, and goes on
            model_version=about.get("weight_version", ""),
        )


def main() -> None:
    """Play an episode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:30000", help="of the SGLang server")
    parser.add_argument("--server", default="localhost:50051", help="address of the chatenv server")
    options = parser.parse_args()
    with ChatEnv(options.server) as env:
        stop_ids = env.server_info().stop_ids
        trajectory = play(env, SgLang(options.url, stop_ids).sample, max_turns=10)
    print(
        f"reward {trajectory.reward}; {int(trajectory.loss_mask.sum())} of {len(trajectory.tokens)} tokens are sampled"
    )


if __name__ == "__main__":
    main()
