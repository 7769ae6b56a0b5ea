"""A turn of the model that is known as text alone, for seams that hand over nothing else."""

from __future__ import annotations

from collections.abc import Collection

from chatenv_client.client import ChatEnv
from chatenv_client.models import ChatObservation, Rendered, StepResult
from chatenv_client.trainers.playing import is_models_turn


def turn_of(rendered: Rendered, shown: ChatObservation, stops: Collection[int]) -> list[int]:
    """The turn in what the template writes after a prompt: through the token that ends it, where it writes one.

    Args:
        rendered: the assistant's message, as `render` gives it.
        shown: the observation that it follows on.
        stops: ids that end a turn.
    """
    written: list[int] = rendered.tokens.tolist()
    end = next((index for index, token in enumerate(written, 1) if token in stops), None)
    asks = shown.token_ids[len(shown.token_ids) - shown.generation_prompt_length :].tolist()
    if end is None and asks and written[-len(asks) :] == asks:  # the next prompt begins where no token ends the turn
        end = len(written) - len(asks)
    return written[:end]


def tokens_of_turn(env: ChatEnv, observation: ChatObservation, text: str) -> list[int]:
    """What a model would have to sample for the template to write this text: the token that ends the turn included.

    The server renders the text as an assistant message. A model may have sampled other tokens of the same text.

    Args:
        env: where it is to be the next step.
        observation: the last one.
        text: what the model said, without the token that ends its turn.

    Raises:
        ValueError: it is not the model's turn, or the template does not let a text stand for a sampled turn.
        ChatEnvError: the server refuses the text.
    """
    if not is_models_turn(StepResult(observation, None, observation.done)):
        raise ValueError("it is not the model's turn: somebody else has to speak before")
    prompt = observation.token_ids.tolist()
    rendered = env.render([{"role": "assistant", "content": text}])
    stream: list[int] = prompt[: rendered.tokens_offset] + rendered.tokens.tolist()
    if stream[: len(prompt)] != prompt:
        raise ValueError("the chat template does not write an assistant's message after its prompt; give token ids")
    return turn_of(rendered, observation, env.server_info().stop_ids)
