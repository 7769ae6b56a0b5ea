"""A turn of the model that is known as text alone, for seams that hand over nothing else."""

from __future__ import annotations

from chatenv_client.client import ChatEnv
from chatenv_client.models import ChatObservation


def tokens_of_turn(env: ChatEnv, observation: ChatObservation, text: str) -> list[int]:
    """What a model would have to sample for the template to write this text: the token that ends the turn included.

    The server renders the text as an assistant message. What it writes after the prompt is the turn, up to the token
    that ends it. A model may have sampled other tokens of the same text.

    Args:
        env: where it is to be the next step.
        observation: the last one.
        text: what the model said, without the token that ends its turn.

    Raises:
        ValueError: it is not the model's turn, or the template does not let a text stand for a sampled turn.
        ChatEnvError: the server refuses the text.
    """
    if not observation.generation_prompt_length:
        raise ValueError("it is not the model's turn: somebody else has to speak before")
    prompt = observation.token_ids.tolist()
    rendered = env.render([{"role": "assistant", "content": text}])
    stream: list[int] = prompt[: rendered.tokens_offset] + rendered.tokens.tolist()
    if stream[: len(prompt)] != prompt:
        raise ValueError("the chat template does not write an assistant's message after its prompt; give token ids")
    turn = stream[len(prompt) :]
    stops = {token.id for token in env.server_info().special_tokens if token.stops}
    end = next((index for index, token in enumerate(turn, 1) if token in stops), len(turn))
    return turn[:end]
