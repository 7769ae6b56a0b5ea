"""What a person gives in place of a model: token ids, or a text in quotes that the server makes tokens of."""

from __future__ import annotations

import json

from chatenv_client import ChatAction, ChatEnv, ChatObservation
from chatenv_client.trainers.texts import tokens_of_turn


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
        return ChatAction(tokens=tokens_of_turn(env, observation, _text_in(given)))
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
