"""`chatenv-rl state`: an episode as the server has it on record. Changes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
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
from chatenv_server.commands.terminal import Cell, Terminal
from chatenv_server.commands.told_tokens import Stream, read_stream, token_lines

NAME: Final = "state"
HELP: Final = "an episode: messages, tokens, who wrote what, what is not exact"

TellTokens = Callable[[int, int], Iterator[str]]
"""Lines for the tokens from one place of the stream to another."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = f"Show an episode as the server has it on record; `view` shows it in the browser. {EXIT_CODES}"
    parser.add_argument("episode", metavar="EPISODE", help="id of the episode")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--tokens", action="store_true", help="show each message's token ids")
    shown.add_argument("--logprobs", action="store_true", help="show each message's tokens with their logprobs")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read and print; the exit code."""

    def work() -> int:
        terminal = Terminal.of(sys.stdout)
        stream: Stream | None = None
        with client_of(arguments) as env:
            env.resume(arguments.episode)
            state = env.state()
            if arguments.logprobs and not arguments.json:
                stream = read_stream(env, state)
        if arguments.json:
            print_json(state)
            return 0
        if stream is not None:
            tell: TellTokens | None = _telling(token_lines, stream, terminal)
        else:
            tell = _telling(_id_lines, state, terminal) if arguments.tokens else None
        for line in state_lines(state, terminal, tell):
            print_line(line)
        return 0

    return reporting(NAME, work)


def _telling(lines: Callable[..., Iterator[str]], *known: object) -> TellTokens:
    return lambda start, stop: lines(*known, start, stop)


def state_lines(state: ChatState, terminal: Terminal, tell_tokens: TellTokens | None = None) -> Iterator[str]:
    """An episode for people: a line on the whole, lines for each message and report."""
    end = " terminated" * state.terminated + " truncated" * state.truncated + " failed" * (state.failure is not None)
    name = terminal.paint(printable(state.episode_id), "bold")
    yield f"{name}  {state.step_count} steps, {len(state.token_ids)} tokens,{end or ' live'}"
    yield from _task_lines(state, terminal)
    for number, sealed in enumerate(state.sealed):
        counts = f"{sealed.token_count} tokens, {sealed.message_count} messages"
        yield f"segment {number}: sealed at step {sealed.step}, {counts}"
    if state.sealed:
        yield f"segment {state.segment}, the current one:"
    yield from _message_lines(state, terminal, tell_tokens)
    if state.generation_prompt_length:
        yield f"then a generation prompt of {state.generation_prompt_length} tokens"
    for report in state.fidelity:
        yield from _painted(terminal, terminal.wrapped(told_report(report)), "yellow")


def _message_lines(state: ChatState, terminal: Terminal, tell_tokens: TellTokens | None) -> Iterator[str]:
    sampled = set(_sampled_messages(state))
    is_sampled = state.loss_mask
    rewards = _rewards_by_message(state)
    came = {turn.first_message: turn.at_ms for turn in reversed(state.turns) if turn.at_ms is not None}
    for index, (message, (start, stop)) in enumerate(zip(state.history_messages, state.message_spans, strict=True)):
        count = f"sampled, {int(is_sampled[start:stop].sum())} of" if index in sampled else "given,"
        when = f", at {came[index] / 1000:.1f} s" if index in came else ""
        lead = f"[{index}] {count} {stop - start} tokens{when}  "
        first, *more = terminal.wrapped(told_message(message), lead=lead)
        yield terminal.paint(lead, "blue" if index in sampled else "soft") + first
        yield from more
        if tell_tokens is not None:
            yield from tell_tokens(start, stop)
        for worth, told in rewards.get(index, ()):
            yield "    " + terminal.paint(told, "green" if worth > 0 else "red" if worth < 0 else "")


def _painted(terminal: Terminal, lines: Iterator[str], style: str) -> Iterator[str]:
    return (terminal.paint(line, style) for line in lines)


def _task_lines(state: ChatState, terminal: Terminal) -> Iterator[str]:
    """What there is to say of the task, of turns that are limited or open, and of a failure."""
    if state.task:
        yield printable(f"task {state.task}")
    if state.task or state.max_turns or state.turn_open:
        limit = f" of {state.max_turns}" if state.max_turns else ""
        yield f"{state.turn_count}{limit} turns ended" + ", another is open" * state.turn_open
    if state.failure is not None:
        yield from _painted(terminal, terminal.wrapped(told_failure(state.failure)), "red bold")


def _rewards_by_message(state: ChatState) -> dict[int, list[tuple[float, str]]]:
    """What turns were rewarded with, and how that is told, by the index of their last message."""
    found: dict[int, list[tuple[float, str]]] = {}
    for turn in state.turns:
        if turn.reward is not None:
            last = max(0, turn.first_message + turn.message_count - 1)
            found.setdefault(last, []).append((turn.reward, told_reward(turn.reward, turn.rewards)))
    return found


def _sampled_messages(state: ChatState) -> Iterator[int]:
    for turn in state.turns:
        if turn.origin is Origin.SAMPLED:
            yield from range(turn.first_message, turn.first_message + turn.message_count)


def _id_lines(state: ChatState, terminal: Terminal, start: int, stop: int) -> Iterator[str]:
    """The token ids of a part of the stream, lines for each stretch that one wrote."""
    for turn in state.turns:
        ids = state.token_ids[max(start, turn.start) : min(stop, turn.stop)]
        style = "blue" if turn.origin is Origin.SAMPLED else "soft"
        lines = terminal.flow((Cell(str(token_id), style) for token_id in ids), indent=" " * 14)
        for number, line in enumerate(lines):
            yield f"    {turn.origin.value:>8}  {line.lstrip()}" if number == 0 else line
