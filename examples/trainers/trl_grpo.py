"""GRPO by TRL on a task, with a model of 30,000 random weights: in a minute on a CPU it learns to say a letter.

`.venv-trainers-mcp-2/bin/python examples/trainers/trl_grpo.py` runs it, in an environment of `make test-trainers`.
With a model of yours all that changes is its name, and `chatenv-server --tokenizer` in the place of `serve`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from chatenv_client.trainers.trl import episode_reward, rollout_func
from chatenv_server import Answer, ModelTurn, Opening, Settings, Task, TaskEpisode, serve
from chatenv_server.tokenizer_files.exporting import export_embedded

STEPS = 25


class Letter(Task):
    """Wants the letter a, twice: the second turn is asked for when the first is there."""

    def __init__(self) -> None:
        self.turns = 0

    def open(self, episode: TaskEpisode) -> Opening:  # noqa: ARG002
        """Ask."""
        return Opening(messages=[{"role": "user", "content": "a?"}])

    def answer(self, turn: ModelTurn) -> Answer:
        """Reward the share of the letter."""
        self.turns += 1
        rewards = {"share": turn.text.count("a") / max(1, len(turn.text)) / 2}
        again = [{"role": "user", "content": "Again?"}]
        return Answer(rewards=rewards, terminated=True) if self.turns == 2 else Answer(messages=again, rewards=rewards)


def train(folder: Path) -> list[float]:
    """The mean reward of each step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model is slower with more
    export_embedded(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **sizes, **heads, **ends))
    batches = {"per_device_train_batch_size": 32, "num_generations": 16, "max_completion_length": 6}
    on_cpu = {"use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    with serve(Settings(listen=("127.0.0.1:0",)), task=Letter) as server:
        trainer = GRPOTrainer(
            model=model,
            args=GRPOConfig(
                output_dir=str(folder), max_steps=STEPS, learning_rate=2e-2, logging_steps=1, **batches, **on_cpu
            ),
            train_dataset=Dataset.from_list([{"prompt": {"seed": seed}} for seed in range(8)]),
            processing_class=tokenizer,
            rollout_func=rollout_func(server.target),
            reward_funcs=episode_reward,
        )
        trainer.train()
    return [line["reward"] for line in trainer.state.log_history if "reward" in line]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for step, reward in enumerate(train(Path(made)), 1):
            print(f"{step:3} {reward:.2f} {'#' * round(60 * reward)}")
