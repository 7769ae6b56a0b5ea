"""`chatenv-rl chat`: a conversation with a server, by hand.

What is typed is a message, unless it begins with a slash.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from chatenv_client import Action, ChatAction, ChatEnv, ChatEnvError, ChatObservation, Message
from chatenv_server.commands.connection import (
    EXIT_CODES,
    EXIT_FAILED,
    add_connection_arguments,
    client_of,
    reporting,
)
from chatenv_server.commands.opening import add_opening_arguments, opening_options
from chatenv_server.commands.output import (
    print_json,
    print_line,
    printable,
    told_failure,
    told_message,
    told_report,
    told_reward,
)
from chatenv_server.commands.sampled import sampled_action
from chatenv_server.commands.state import state_lines
from chatenv_server.commands.terminal import Terminal

NAME: Final = "chat"
HELP: Final = "talk to a server by hand"

COMMANDS: Final = """\
/role NAME      speak as NAME from now on: user, assistant, tool, system
/sampled ID...  append token ids as if a model had sampled them; commas and brackets may stand between
/sampled "TEXT" the same for a text, with the token that ends the turn
/tokens         show the token ids of the stream, those of the last step apart
/state          show the episode as the server has it
/reset          end the episode and start another
/quit           end the episode and leave; so does the end of input
//TEXT          a message that begins with a slash"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = f"Hold a conversation with a server, a message per line. {EXIT_CODES}"
    parser.epilog = f"In the conversation:\n\n{COMMANDS}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--role", default="user", help="role of the first message; default: user")
    add_opening_arguments(parser)
    parser.add_argument("--episode", metavar="ID", help="go on with a live episode, and leave it live at the end")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the end of input; the exit code. A call that failed counts only where no person is at a terminal."""

    def work() -> int:
        with client_of(arguments) as env:
            conversation = _Conversation(env, arguments)
            conversation.open()
            try:
                for line in _lines(conversation.prompt):
                    if not conversation.take(line):
                        break
            finally:
                conversation.end()
        return EXIT_FAILED if conversation.has_failed and not sys.stdin.isatty() else 0

    return reporting(NAME, work)


def _lines(prompt: Callable[[], str]) -> Iterator[str]:
    """What is typed, line by line; with a prompt and a history to go back in where it is typed at a terminal."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    import readline  # noqa: F401 - gives input() its editing

    while True:
        try:
            line = input(prompt())
        except EOFError:
            print_line()
            return
        except KeyboardInterrupt:
            print_line("  (/quit leaves)")
            continue
        yield line


class _Conversation:
    """One person, one episode at a time."""

    def __init__(self, env: ChatEnv, arguments: argparse.Namespace) -> None:
        self._env = env
        self._role: str = arguments.role
        self._options = opening_options(arguments)
        self._resumed: str | None = arguments.episode
        self._json: bool = arguments.json
        self._observation = ChatObservation()
        self._new_from = 0
        self._is_at_terminal = sys.stdin.isatty()
        self._was_interrupted = False
        self.has_failed = False
        """Whether a call failed."""
        self._commands: dict[str, Callable[[str], None]] = {
            "role": self._speak_as,
            "sampled": self._sampled,
            "tokens": lambda _: self._show_tokens(),
            "state": lambda _: self._show_state(),
            "reset": lambda _: self._reset(),
            "help": lambda _: print_line(COMMANDS),
        }

    def prompt(self) -> str:
        """The text before the line that is typed."""
        return f"{printable(self._role)}> "

    def open(self) -> None:
        """Start an episode, or take up the one that was named."""
        if self._is_at_terminal and not self._json:
            print_line("Type a message, or /help.")
        if self._resumed is None:
            self._reset()
        else:
            self._show(self._env.resume(self._resumed).observation)

    def end(self) -> None:
        """End the episode, unless it was resumed."""
        if self._resumed is None:
            self._env.close()

    def take(self, line: str) -> bool:
        """Do what a line says; False: leave."""
        if line.strip() == "/quit":
            return False
        try:
            self._do(line)
        except ChatEnvError as error:
            self.has_failed = True
            self._show_error(error)
        except ValueError as error:
            self.has_failed = True
            print_line(f"! {error}")
        except KeyboardInterrupt:
            if not self._is_at_terminal:
                raise
            self._was_interrupted = True
            print_line("! interrupted; /state shows whether the server has done it, /quit leaves")
        return True

    def _do(self, line: str) -> None:
        if line.startswith("//") or not line.startswith("/"):
            if line.strip():
                self._step({"role": self._role, "content": line.removeprefix("/")})
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self._commands:
            raise ValueError(f"there is no /{printable(name)}; /help lists what there is")
        self._commands[name](rest.strip())

    def _step(self, action: Action) -> None:
        self._catch_up()
        before = self._observation
        # The generation prompt that waited for a model is taken back when somebody else speaks.
        waiting = 0 if isinstance(action, ChatAction) else before.generation_prompt_length
        kept_tokens, kept_messages = len(before.token_ids) - waiting, len(before.messages)
        after = self._env.step(action).observation
        if after.segment != before.segment:
            kept_tokens = after.held_tokens
        self._show(after, kept_tokens, kept_messages)

    def _catch_up(self) -> None:
        """Read the episode anew after a call that was interrupted: the server may have applied its step."""
        if self._was_interrupted and self._env.episode_id is not None:
            self._observation = self._env.resume(self._env.episode_id).observation
            self._was_interrupted = False

    def _reset(self) -> None:
        self._resumed = None
        self._show(self._env.reset(**self._options).observation)

    def _speak_as(self, role: str) -> None:
        if not role:
            raise ValueError("say as whom: /role assistant")
        self._role = role

    def _sampled(self, given: str) -> None:
        self._catch_up()
        self._step(sampled_action(self._env, self._observation, given))

    def _show(self, observation: ChatObservation, kept_tokens: int = 0, kept_messages: int = 0) -> None:
        self._observation, self._new_from = observation, kept_tokens
        new_tokens, new_messages = observation.token_ids[kept_tokens:], observation.messages[kept_messages:]
        if self._json:
            self._print_step(observation, new_tokens.tolist(), new_messages)
            return
        for message in new_messages:
            print_line(f"  {told_message(message)}")
        for report in observation.fidelity:
            print_line(f"  {told_report(report)}")
        print_line(f"  {_summary(observation, len(new_tokens))}")

    def _print_step(self, observation: ChatObservation, tokens: list[int], messages: Sequence[Message]) -> None:
        shown = {
            "episode_id": observation.episode_id,
            "step_count": observation.step_count,
            "messages": messages,
            "tokens": tokens,
            "token_count": len(observation.token_ids),
            "generation_prompt_length": observation.generation_prompt_length,
            "reward": observation.reward,
            "rewards": observation.rewards,
            "terminated": observation.terminated,
            "truncated": observation.truncated,
            "failure": observation.failure and observation.failure._asdict(),
            "turns_left": observation.turns_left,
            "tokens_left": observation.tokens_left,
            "turn_open": observation.turn_open,
            "metadata": observation.metadata,
            "fidelity": observation.fidelity,
        }
        print_json(shown, indent=None)

    def _show_tokens(self) -> None:
        ids = list(map(str, self._observation.token_ids))
        print_line(f"  {' '.join(ids[: self._new_from])} | {' '.join(ids[self._new_from :])}")

    def _show_state(self) -> None:
        state = self._env.state()
        if self._json:
            print_json(state, indent=None)
            return
        terminal = Terminal.of(sys.stdout)
        narrower = terminal._replace(width=terminal.width and terminal.width - 2)
        for line in state_lines(state, narrower):
            print_line(f"  {line}")

    def _show_error(self, error: ChatEnvError) -> None:
        if self._json:
            print_json({"error": error.reason, "message": error.message, "field": error.field}, indent=None)
        else:
            print_line(f"! {error.reason}: {printable(error.message)}")


def _summary(observation: ChatObservation, new_tokens: int) -> str:
    said = [f"step {observation.step_count}", f"+{new_tokens} tokens = {len(observation.token_ids)}"]
    if observation.reward is not None:
        said.append(told_reward(observation.reward, observation.rewards))
    if observation.turn_open:
        said.append("the turn is open")
    if observation.done:
        said.append(f"{_end(observation)}; /reset starts another episode")
    else:
        said.extend(_told_left(observation))
    if observation.step_count == 0:
        said.append(f"episode {observation.episode_id}")
    return ", ".join(said)


def _end(observation: ChatObservation) -> str:
    if observation.failure is not None:
        return told_failure(observation.failure)
    return "terminated" if observation.terminated else "truncated"


def _told_left(observation: ChatObservation) -> Iterator[str]:
    for left, what in ((observation.turns_left, "turns"), (observation.tokens_left, "tokens")):
        if left is not None:
            yield f"{what} left: {left}"
