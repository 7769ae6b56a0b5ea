"""What a person gives in place of a model: token ids, or a text in quotes that the server makes tokens of."""

from __future__ import annotations

import json

from chatenv_client import ChatAction, ChatEnv, ChatObservation


def sampled_action(env: ChatEnv, observation: ChatObservation, given: str) -> ChatAction:
    """The action for `1 2 3`, `1, 2, 3`, `[1, 2, 3]` or `"a text"`, in which escapes are JSON's.

    Args:
        env: where it is to be the next step.
        observation: the last one.
        given: what was typed.

    Raises:
        ValueError: it is none of these, or the template does not let a text stand for a sampled turn.
        ChatEnvError: the server refuses the text.
    """
    if given.startswith('"'):
        return ChatAction(tokens=_tokens_of(env, observation, _text_in(given)))
    return ChatAction(tokens=[_id_in(one) for one in given.strip("[]").replace(",", " ").split()])


def _text_in(given: str) -> str:
    try:
        return str(json.loads(given))
    except ValueError as error:
        raise ValueError(
            f'a text stands in quotes, with JSON\'s escapes: /sampled "It is \\"5\\"." ({error})'
        ) from error


def _id_in(one: str) -> int:
    digits = one.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):  # more than any integer of numpy's
        raise ValueError(f"{one[:20]!r} is no token id; give numbers, or a text in quotes")
    return int(one)


def _tokens_of(env: ChatEnv, observation: ChatObservation, text: str) -> list[int]:
    """What a model would have to sample for the template to write the same.

    The server renders the text as an assistant message. What it writes after the prompt is the turn, up to the token
    that ends it.
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
