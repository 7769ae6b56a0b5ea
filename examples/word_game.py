"""A game of two players: the model that is trained plays word chain with a user whom another model plays.

`make word-game` plays it. The other model is a script behind an OpenAI-compatible server that starts here, so no key is
needed. With `PYTHONPATH=examples chatenv-server --task word_game:WordChain` it is OpenAI's, and takes OPENAI_API_KEY.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chatenv_server import Answer, Endpoint, ModelTurn, Opening, SimulatedUser, TaskEpisode

RULES = (
    "We play word chain. Each of us in turn says one English word, and nothing else. It begins with the last letter of "
    "the word before, and nobody has said it yet."
)


class WordChain(SimulatedUser):
    """The model plays word chain. Each word that keeps to the rules is worth 1; one that does not ends the game."""

    endpoint = Endpoint("gpt-4o-mini")
    persona = RULES + " If you know no word, say ###STOP###."
    greeting = "You begin."
    max_turns = 6

    def begin(self, episode: TaskEpisode) -> Opening:  # noqa: ARG002
        """Tell the model the rules. Then the user says the first word."""
        return Opening(messages=[{"role": "system", "content": RULES}])

    async def answer(self, turn: ModelTurn) -> Answer:
        """Look at the model's word, then let the user say the next one."""
        *before, word = words_of(turn.messages)
        if not fits(word, before):
            return Answer(rewards={"words": 0.0}, terminated=True)
        return dataclasses.replace(await super().answer(turn), rewards={"words": 1.0})


def words_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was said, in order, in small letters."""
    return [str(message["content"]).strip().lower() for message in messages if message["role"] in ("user", "assistant")]


def fits(word: str, before: Sequence[str]) -> bool:
    """Whether a word keeps to the rules after those before it."""
    return word.isalpha() and word not in before and (not before or word[0] == before[-1][-1:])


# Everything below stands in for the two models.

WORDS = [
    "apple",
    "elephant",
    "tiger",
    "rabbit",
    "tea",
    "arrow",
    "water",
    "rain",
    "night",
    "table",
    "eagle",
    "egg",
    "ear",
]


def next_word(said: Sequence[str]) -> str:
    """A word that may come next; the stop word where none is left."""
    return next((word for word in WORDS if fits(word, said)), WordChain.stop_word)


class ScriptedModel(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that knows few words."""

    def do_POST(self) -> None:
        """Answer a request for a chat completion."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = [word for word in words_of(asked["messages"]) if word != WordChain.greeting.lower()]
        message = {"role": "assistant", "content": next_word(said)}
        body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


@contextmanager
def scripted_endpoint() -> Iterator[str]:
    """Serve the script; the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ScriptedModel) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def main() -> None:
    """Play a game."""
    from stand_in import play

    with scripted_endpoint() as url:

        class Here(WordChain):
            endpoint = Endpoint("scripted", url)

        play(Here, lambda messages: next_word(words_of(messages)))


if __name__ == "__main__":
    main()
