"""What an episode's log and the engine know of a chat template and a tokenizer: two protocols.

Each has two implementations: the exact path, and the plain path for objects with nothing but `apply_chat_template` and
`decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from chatenv_client.models import Message, TokenText
from chatenv_client.tokens import Int32Array
from chatenv_server.engine.conversation import KnownText, ReadTurn, RenderOptions, Reopening, Tail, TailPlace


class Renderer(Protocol):
    """A chat template and its tokenizer under one episode's options."""

    reads_history: bool
    """Whether tails are rendered from all messages, not only from the last ones."""

    sees_rewrites: bool
    """Whether tails report where the template writes earlier turns in another way."""

    def opening(self, messages: Sequence[Message], reopening: Reopening | None = None) -> Tail:
        """Everything up to the first sampled token, of the whole conversation. Raises TemplateRejectedError.

        `reopening` is there where a segment begins that is not the episode's first.
        """

    def opening_inside(self, messages: Sequence[Message]) -> Tail:
        """Everything up to the end of the last message's text. Raises TemplateRejectedError."""

    def tail(self, place: TailPlace, messages: Sequence[Message]) -> Tail:
        """Everything after the last sampled turn for the messages that follow it. Raises TemplateRejectedError."""

    def read_turn(
        self, ids: Int32Array, before: Int32Array, index: int, *, prompted: bool, known: KnownText | None = None
    ) -> ReadTurn:
        """Decode and parse a sampled span after the prompt that ends in `before`. Never raises.

        `index` is the message's in the conversation; calls that have no id get one of it. `prompted` says whether the
        stream before it ends in the generation prompt, which may have opened a thought. `known` is what was read of
        the span before it went on.
        """

    def in_form(self, message: Message) -> Message:
        """A message in the form in which the template writes it without damage."""

    def says_controls(self, ids: Int32Array, message: Message) -> bool:
        """Whether a message that was sampled holds control-token strings, all of them control tokens among its tokens.

        Only of such a message does it count that a model said it: others are written the same whoever said them.
        """

    def whole_tokens(self, messages: Sequence[Message], prompt: bool) -> Int32Array:
        """The full tokenization of a conversation, its messages as they are."""

    def beginnings(self, messages: Sequence[Message]) -> Callable[[int, bool], Int32Array]:
        """As `whole_tokens`, of so many leading messages of a conversation: cheaper for many of them, in order."""

    def text_of(self, ids: Int32Array) -> str:
        """The text of a whole stream."""


class RenderPath(Protocol):
    """How one tokenizer turns conversations into tokens, and how it describes itself."""

    exact: bool
    """Whether streams are exact or reported."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a sampled turn."""

    @property
    def features(self) -> tuple[str, ...]:
        """What the template does, a word each: see docs/wire.md."""

    @property
    def turn_parser(self) -> str:
        """Name of the parser for sampled turns."""

    @property
    def control_tokens(self) -> tuple[tuple[int, str, bool], ...]:
        """(id, text, whether it ends a sampled turn) of every control token, by id."""

    def token_text(self, token_id: int) -> TokenText:
        """What a token stands for; an empty text where nothing is known of it."""

    @property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 of all that decides how text is encoded, as far as it is known."""

    @property
    def template_fingerprint(self) -> str:
        """SHA-256 of the chat template's text; empty where it is not known."""

    def renderer(self, options: RenderOptions) -> Renderer:
        """The path under one episode's options."""
