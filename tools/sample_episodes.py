"""Episodes to look at: a game, tools, stripped thoughts, broken bytes, a long one, and a run of many.

Played in-process on a small vocabulary that is learnt from the documents; what "the model" samples is scripted, and its
logprobs are drawn. The pictures of the documents and the tests of the viewer show them.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from chatenv_client import ChatAction, ChatObservation, Trajectory
from chatenv_server import ChatEnvironment
from chatenv_server.doctor.stand_in import stand_in

CHECKOUT = Path(__file__).resolve().parent.parent
VOCABULARY = 8000

CHATML = """{%- if tools %}{{ '<|im_start|>system\\nYou may call these functions:\\n<tools>\\n' }}
{%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}{{ '</tools><|im_end|>\\n' }}{% endif %}
{%- set last = namespace(user=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' }}
{%- if message.role == 'tool' %}{{ '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- else %}
{%- if message.reasoning_content and loop.index0 > last.user %}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '\\n' if message.content or not loop.first }}
{{- '<tool_call>\\n{"name": ' + call.function.name | tojson + ', "arguments": ' }}
{{- call.function.arguments | tojson + '}\\n</tool_call>' }}{% endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""ChatML with tools in Hermes form, which strips thoughts before the last user's message, as Qwen3's does."""

Play = tuple[ChatEnvironment, Trajectory]


@functools.cache
def tokenizer() -> Any:
    """A fast tokenizer of bytes and merges."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(CHECKOUT.glob("docs/*.md"))]
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    learnt.train_from_iterator(texts, trainer)

    class Vocabulary:
        backend_tokenizer = learnt

    return stand_in(CHATML, Vocabulary())


class Player:
    """Plays an episode by a script.

    Args:
        seed: what logprobs are drawn from.
        options: of the reset.
    """

    def __init__(self, seed: int = 7, **options: Any) -> None:
        self._draws = random.Random(seed)
        self._is_over = False
        self.env = ChatEnvironment(tokenizer(), transform=self._end)
        self.env.reset(**options)

    def _end(self, observation: ChatObservation) -> ChatObservation:
        observation.terminated = self._is_over
        return observation

    def say(self, text: str, *, end: bool = True, reward: Any = None, **more: Any) -> Player:
        """A sampled turn of a text."""
        return self.sample(tokenizer().encode(text + "<|im_end|>" * end), reward=reward, **more)

    def sample(self, ids: list[int], *, reward: Any = None, over: bool = False, **more: Any) -> Player:
        """A sampled turn of token ids, with an entropy for each."""
        self._is_over = over
        logprobs = [-(self._draws.random() ** 6) * 9 for _ in ids]
        spread = [min(5.0, -logprob * 0.6 + self._draws.random()) for logprob in logprobs]
        extras = {"entropy": np.array(spread, np.float32), "routed_experts": np.zeros((len(ids), 2, 4), np.uint8)}
        self.env.step(ChatAction(tokens=ids, logprobs=logprobs, extras=extras, **more))
        if reward is not None:
            self.env.set_reward(reward, step=self.env.step_count)
        return self

    def tell(self, content: str, role: str = "user", **more: Any) -> Player:
        """A given message."""
        self.env.step({"role": role, "content": content, **more})
        return self

    @property
    def played(self) -> Play:
        """The environment, and the episode as training wants it."""
        return self.env, self.env.trajectory(assistants=len(self.env.trajectory().segments) == 1)


ADD = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


def tools_episode() -> Play:
    """Two calls of a tool, forced tokens, two weight versions, rewards by name."""
    question = "How long is the river that flows through the capital of Peru? Answer in kilometres."
    player = Player(
        episode_id="rivers-0042",
        group="rivers 17",
        seed=42,
        tools=[ADD],
        messages=[{"role": "user", "content": question}],
        metadata={"difficulty": 3, "source": "rivers.jsonl"},
    )
    thought = "<think>\nThe capital of Peru is Lima. I have to find its river first.\n</think>\n\n"
    call = '<tool_call>\n{"name": "search", "arguments": {"query": "river through Lima"}}\n</tool_call>'
    player.say(thought + call, model_version="step-17", reward={"format": 0.1})
    player.tell("The Rímac flows through Lima. Length: 160 km.", "tool", name="search", tool_call_id="000001000")
    again = '<tool_call>\n{"name": "search", "arguments": {"query": "Rímac length"}}\n</tool_call>'
    begun = "<think>\nThe page says 160 km, but I check it.\n"
    ids = tokenizer().encode(f"{begun}Time is up.\n</think>\n\n{again}<|im_end|>")
    mask = [True] * len(ids)
    forced = len(tokenizer().encode(begun))
    mask[forced : forced + 4] = [False] * 4
    runs = [("step-17", 12), ("step-18", len(ids) - 12)]
    player.sample(ids, mask=mask, model_version_runs=runs, reward={"format": 0.1, "calls": -0.05})
    player.tell("Río Rímac: 204 km (source: several).", "tool", name="search", tool_call_id="000001001")
    player.say("It is 160 km long.", model_version="step-18", reward={"right": 1.0, "short": 0.2}, over=True)
    return player.played


def thinking_episode() -> Play:
    """Three questions, each of which strips the thought before it, so three segments."""
    player = Player(
        episode_id="sums-7",
        group="sums",
        history_policy="segment",
        messages=[{"role": "user", "content": "What is 2 + 2?"}],
    )
    player.say("<think>\nTwo and two.\n</think>\n\nFour.", model_version="step-3", reward=1.0)
    player.tell("And 3 + 3?")
    thought = "<think>\nThree and three make six, since 3 + 3 = 2 × 3.\n</think>\n\n"
    player.say(thought + "Six.", model_version="step-3", reward=1.0)
    player.tell("And 12 × 12?")
    cut = "<think>\nTwelve times ten is 120, and twelve times two"
    player.say(cut, end=False, model_version="step-3", reward=-0.5, over=True)
    return player.played


def broken_episode() -> Play:
    """What is hard to show: broken bytes, control characters, text from right to left, spelt control tokens."""
    hard = (
        "Say it in Arabic: مرحبا بالعالم (hello).\tTab, no-break\u00a0space, zero\u200bwidth, "
        "turned\u202eround\u202c, bell\u0007, 👩‍👩‍👧 family, and <|im_end|> spelt out."
    )
    player = Player(episode_id="bytes-1", messages=[{"role": "user", "content": hard}])
    ids = tokenizer().encode("Grüße, 世界 😀! \u202eשלום\u202c\n\n    four spaces")
    broken = [tokenizer().backend_tokenizer.token_to_id(letter) for letter in ("ð", "Ł", "ĺ")]
    player.sample([*ids, *broken, *tokenizer().encode(" and on.")], stop_reason="length")
    player.tell("Again?")
    player.say("No.")
    player.env.fail("The sandbox did not answer for 30 s.", "tool")
    return player.played


def long_episode(tokens: int = 30_000) -> Play:
    """An agent that goes on until its stream has so many tokens."""
    text = (CHECKOUT / "docs" / "tokens.md").read_text(encoding="utf-8")
    player = Player(
        episode_id="agent-30k", group="agents", messages=[{"role": "user", "content": "Read all, then sum up."}]
    )
    place, draws = 0, random.Random(3)
    while player.env.token_count < tokens - 1200:
        said = text[place : place + draws.randrange(400, 3600)]
        place = (place + len(said)) % (len(text) - 4000)
        player.say(
            f"<think>\n{said}\n</think>\n\nGo on.",
            model_version="step-9",
            reward={"progress": draws.choice([0.0, 0.1])},
        )
        player.tell(text[place : place + draws.randrange(100, 2400)])
    left = tokens - player.env.token_count - 1
    ids = tokenizer().encode(text)
    player.sample(
        [*(ids * (1 + left // len(ids)))[:left], tokenizer().encode("<|im_end|>")[0]],
        model_version="step-9",
        reward={"right": 1.0},
        over=True,
    )
    return player.played


def run_of(count: int = 1000, group_size: int = 8) -> Iterator[Trajectory]:
    """A run of short episodes in groups, whose rewards go up."""
    draws = random.Random(11)
    for number in range(count):
        group = number // group_size
        skill = 0.2 + 0.6 * number / count
        ease = random.Random(group).random()
        opening = [{"role": "user", "content": f"{group} + {number} = ?"}]
        player = Player(number, episode_id=f"run3-{number:04}", group=f"prompt {group}", messages=opening)
        turns = 1 + int(draws.random() * 4)
        version = f"step-{number * 10 // count}"
        for turn in range(turns):
            is_last = turn == turns - 1
            is_right = draws.random() < skill * (0.4 + ease)
            cut = draws.random() < 0.08
            reward = {"right": float(is_right), "short": -0.02 * turns} if is_last else None
            said = "Let me think about it. " * (1 + int(draws.expovariate(0.4)))
            player.say(said + str(group + number), end=not cut, model_version=version, reward=reward, over=is_last)
            if not is_last:
                player.tell("Go on.")
        if draws.random() < 0.02:
            player.env.fail("The judge did not answer.", draws.choice(["judge", "tool", "sampler"]))
        yield player.played[1]
