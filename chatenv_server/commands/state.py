"""`chatenv-rl state`: an episode as the server has it on record. Changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from chatenv_client import ChatState, Origin
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting
from chatenv_server.commands.output import (
    print_json,
    print_line,
    printable,
    told_failure,
    told_message,
    told_report,
    told_reward,
)

NAME: Final = "state"
HELP: Final = "an episode: messages, tokens, who wrote what, what is not exact"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = f"Show an episode as the server has it on record. {EXIT_CODES}"
    parser.add_argument("episode", metavar="EPISODE", help="id of the episode")
    parser.add_argument("--tokens", action="store_true", help="show each message's token ids")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read and print; the exit code."""

    def work() -> int:
        with client_of(arguments) as env:
            env.resume(arguments.episode)
            state = env.state()
        if arguments.json:
            print_json(state)
        else:
            for line in state_lines(state, with_tokens=arguments.tokens):
                print_line(line)
        return 0

    return reporting(NAME, work)


def state_lines(state: ChatState, *, with_tokens: bool) -> Iterator[str]:
    """An episode for people: a line on the whole, a line per message and per report."""
    end = " terminated" * state.terminated + " truncated" * state.truncated + " failed" * (state.failure is not None)
    yield f"{state.episode_id}  {state.step_count} steps, {len(state.token_ids)} tokens,{end or ' live'}"
    yield from _task_lines(state)
    for number, sealed in enumerate(state.sealed):
        counts = f"{sealed.token_count} tokens, {sealed.message_count} messages"
        yield f"segment {number}: sealed at step {sealed.step}, {counts}"
    if state.sealed:
        yield f"segment {state.segment}, the current one:"
    sampled = set(_sampled_messages(state))
    is_sampled = state.loss_mask
    rewards = _rewards_by_message(state)
    for index, (message, (start, stop)) in enumerate(zip(state.history_messages, state.message_spans, strict=True)):
        count = f"sampled, {int(is_sampled[start:stop].sum())} of" if index in sampled else "given,"
        yield f"[{index}] {count} {stop - start} tokens  {told_message(message)}"
        if with_tokens:
            yield from _token_lines(state, start, stop)
        yield from (f"    {told}" for told in rewards.get(index, ()))
    if state.generation_prompt_length:
        yield f"then a generation prompt of {state.generation_prompt_length} tokens"
    for report in state.fidelity:
        yield told_report(report)


def _task_lines(state: ChatState) -> Iterator[str]:
    """What there is to say of the task, of turns that are limited or open, and of a failure."""
    if state.task:
        yield printable(f"task {state.task}")
    if state.task or state.max_turns or state.turn_open:
        limit = f" of {state.max_turns}" if state.max_turns else ""
        yield f"{state.turn_count}{limit} turns ended" + ", another is open" * state.turn_open
    if state.failure is not None:
        yield told_failure(state.failure)


def _rewards_by_message(state: ChatState) -> dict[int, list[str]]:
    """What turns were rewarded with, by the index of their last message."""
    found: dict[int, list[str]] = {}
    for turn in state.turns:
        if turn.reward is not None:
            last = max(0, turn.first_message + turn.message_count - 1)
            found.setdefault(last, []).append(told_reward(turn.reward, turn.rewards))
    return found


def _sampled_messages(state: ChatState) -> Iterator[int]:
    for turn in state.turns:
        if turn.origin is Origin.SAMPLED:
            yield from range(turn.first_message, turn.first_message + turn.message_count)


def _token_lines(state: ChatState, start: int, stop: int) -> Iterator[str]:
    """The token ids of a part of the stream, a line for each stretch that one wrote."""
    for turn in state.turns:
        ids = state.token_ids[max(start, turn.start) : min(stop, turn.stop)]
        if len(ids):
            yield f"    {turn.origin.value:>8}  {' '.join(map(str, ids))}"
