"""Hugging Face `generate` as the engine, for real: a tiny model with random weights plays the guessing game.

It loads the built-in tokenizer from a folder that `chatenv-rl tokenizer export` wrote, so nothing is downloaded. For a
model of yours take `AutoModelForCausalLM.from_pretrained`, and a server with the same tokenizer. Needs torch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from guessing_game import Guess
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from chatenv_client import ChatAction, ChatEnv, Trajectory
from chatenv_client.tokens import Int32Array
from chatenv_client.trainers.playing import play
from chatenv_server import Settings, serve


class Generate:
    """Samples turns with `generate`."""

    def __init__(self, model: Any, stop_ids: list[int], max_tokens: int) -> None:
        self.model, self.stop_ids, self.max_tokens = model, stop_ids, max_tokens

    def sample(self, prompt_ids: Int32Array) -> ChatAction:
        """One turn: its ids, the stop token included, and their log probabilities under the model as it is."""
        prompt = torch.from_numpy(prompt_ids).long()[None]
        out = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            eos_token_id=self.stop_ids,
            max_new_tokens=self.max_tokens,
            do_sample=True,
            # What would make the samples other than the model's own is off.
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = out.sequences[0, prompt.shape[1] :]
        logprobs = torch.stack(out.logits, dim=1)[0].log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        return ChatAction(tokens=ids, logprobs=logprobs, model_version=0)


def largest_difference(model: Any, trajectory: Trajectory) -> float:
    """Between the logprobs of the sampling and those of one pass over the row, as training computes them."""
    (row,) = trajectory.samples()
    tokens = torch.from_numpy(row.tokens).long()
    with torch.no_grad():
        logits = model(tokens[None]).logits[0, :-1]
    logprobs = logits.log_softmax(-1).gather(-1, tokens[1:, None])[:, 0]
    mask = torch.from_numpy(row.loss_mask[1:])
    return float((logprobs[mask] - torch.from_numpy(row.logprobs[1:])[mask]).abs().max())


def main() -> None:
    """Export the tokenizer, serve it, and play an episode."""
    with tempfile.TemporaryDirectory() as parent:
        folder = str(Path(parent) / "tokenizer")
        command = [sys.executable, "-m", "chatenv_server.commands.cli", "tokenizer", "export", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        torch.manual_seed(0)
        ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=1024, n_embd=32, n_layer=2, n_head=2, **ends)
        model = GPT2LMHeadModel(config).eval()
        settings = Settings(listen=("127.0.0.1:0",), tokenizer=folder, drain_grace=5)
        with serve(settings, task=Guess) as server, ChatEnv(server.target) as env:
            stop_ids = env.server_info().stop_ids
            trajectory = play(env, Generate(model, stop_ids, max_tokens=24).sample, seed=7, max_turns=3)
    print(
        f"reward {trajectory.reward}; {int(trajectory.loss_mask.sum())} of {len(trajectory.tokens)} tokens are sampled"
    )
    print(f"logprobs of sampler and trainer differ by {largest_difference(model, trajectory):.0e} at most")


if __name__ == "__main__":
    main()
