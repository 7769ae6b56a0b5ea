"""`chatenv-rl reward`: sets rewards of a step that was taken."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import print_json, print_line, told_reward

NAME: Final = "reward"
HELP: Final = "set rewards of a step, also after the end"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Set rewards of a step, also after the episode is over, and print what the step has now. A reward takes the "
        f"place of the one of its name; those of other names stay. {EXIT_CODES}"
    )
    parser.add_argument("episode", metavar="EPISODE", help="id of the episode")
    parser.add_argument(
        "rewards", nargs="+", metavar="NAME=VALUE", help="a reward by name; or a number alone, for one without a name"
    )
    of = parser.add_mutually_exclusive_group()
    of.add_argument("--step", type=int, metavar="N", help="the step, from 1; default: the last one")
    of.add_argument("--turn", type=int, metavar="N", help="the turn among those that the model ended, from 0")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Set and print; the exit code."""

    def work() -> int:
        rewards = _rewards_in(arguments.rewards)
        with client_of(arguments) as env:
            env.resume(arguments.episode)
            told = env.set_reward(rewards, step=arguments.step, turn=arguments.turn)
        if arguments.json:
            print_json({"episode_id": arguments.episode, **told._asdict()})
        else:
            print_line(f"step {told.step}: {told_reward(told.reward, told.rewards)}")
        return 0

    return reporting(NAME, work)


def _rewards_in(given: Sequence[str]) -> float | dict[str, float]:
    """What was typed: a number, or numbers by name.

    Raises:
        ValueError: it is neither.
    """
    if len(given) == 1 and "=" not in given[0]:
        return _number_in(given[0])
    rewards: dict[str, float] = {}
    for one in given:
        name, equals, value = one.rpartition("=")
        if not equals or name in rewards:
            raise ValueError(f"{one!r} is no reward by name, or the second of its name; give NAME=VALUE, each once")
        rewards[name] = _number_in(value)
    return rewards


def _number_in(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number; give NAME=VALUE, or a number alone") from None
