"""The renderer of the exact path: a chat format under one episode's options, put together from its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatenv_client.models import ControlTokenPolicy, Message
from chatenv_client.tokens import EMPTY_TOKENS, Int32Array
from chatenv_server.engine.bound_template import BoundTemplate, Fill
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.conversation import KnownText, ReadTurn, RenderOptions, Reopening, Tail, TailPlace
from chatenv_server.engine.growing_renders import GrowingRenders
from chatenv_server.engine.heads import Heads
from chatenv_server.engine.kept_openings import KeptOpenings, OpeningCache
from chatenv_server.engine.openings import OpeningWriter
from chatenv_server.engine.reuse.reusing_tails import ReusingTails
from chatenv_server.engine.reuse.reusing_template import ReusingTemplate
from chatenv_server.engine.tail_encoder import TailEncoder
from chatenv_server.engine.tails import TailWriter
from chatenv_server.engine.turn_reader import TurnReader


class TemplateRenderer:
    """The exact path, shared by all episodes that have the same options. Safe for threads.

    Args:
        chat_format: the template and its tokenizer.
        options: what stays the same for an episode.
        fill: makes the template that renders, of a template and its variables. `FilledTemplate` renders every time;
            the default reuses what earlier renders showed.
        reuses_tails: whether tails are put together of what earlier ones showed. The tokens are the same either way.
        tails_of: a renderer whose options make the same tails, to share what it keeps.
        openings: where openings are kept; None: nowhere, since no other episode has these options.
    """

    def __init__(
        self,
        chat_format: ChatFormat,
        options: RenderOptions,
        fill: Fill = ReusingTemplate,
        *,
        reuses_tails: bool = True,
        tails_of: TemplateRenderer | None = None,
        openings: OpeningCache | None = None,
    ) -> None:
        self.sees_rewrites = True
        self._codec = chat_format.codec
        self._escapes = options.control_token_policy is not ControlTokenPolicy.ALLOW

        def write_with(fill: Fill) -> TailWriter:
            template = BoundTemplate(chat_format, options, fill)
            heads = Heads(template)
            return TailWriter(template, heads, TailEncoder(template, heads), TurnReader(chat_format, options, heads))

        if tails_of is None:
            self._writer = write_with(fill)
            self._tails: TailWriter | ReusingTails = (
                ReusingTails(self._writer, write_with) if reuses_tails else self._writer
            )
            self._template = self._writer.template
        else:
            self._writer, self._tails = tails_of._writer, tails_of._tails
            self._template = BoundTemplate(chat_format, options, fill)
        self.reads_history = self._template.needs.skeleton_under_system
        self._openings = OpeningWriter(self._template, self._writer.heads, self._writer.encoder, self._writer.rewrites)
        write = self._openings.opening
        is_random = chat_format.template.is_random
        self._first_opening = write if openings is None or is_random else KeptOpenings(write, openings).opening

    def opening(self, messages: Sequence[Message], reopening: Reopening | None = None) -> Tail:
        """Everything up to the first sampled token, equal to `apply_chat_template(messages, tokenize=True)`.

        Args:
            messages: the whole conversation.
            reopening: what is known where a segment begins that is not the episode's first.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        return self._first_opening(messages) if reopening is None else self._openings.opening(messages, reopening)

    def opening_inside(self, messages: Sequence[Message]) -> Tail:
        """Everything up to the end of the text of the last message, which a model is to go on with.

        Raises:
            TemplateRejectedError: the template rejects the messages, or does not write that text.
        """
        return self._openings.inside(messages)

    def tail(self, place: TailPlace, messages: Sequence[Message]) -> Tail:
        """Everything after the last sampled turn for the messages that follow it.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        return self._tails.tail(place, messages)

    def text_spans(self, opening: Tail) -> list[tuple[int, int]]:
        """(start, stop) in an opening's tokens of each message's text; empty where it has none of its own."""
        if opening.opening is None:
            return [(0, 0)] * len(opening.message_starts)
        return self._writer.encoder.text_spans(opening.opening.text, opening.opening.places, EMPTY_TOKENS)

    def tail_with_texts(self, place: TailPlace, messages: Sequence[Message]) -> tuple[Tail, list[tuple[int, int]]]:
        """A tail, and (start, stop) in its tokens of each message's text; empty where it has none of its own.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        written = self._writer.write(place, messages)
        encoder = self._writer.encoder
        return encoder.tail(written, place.before), encoder.text_spans(written.text, written.places, place.before)

    def read_turn(
        self, ids: Int32Array, before: Int32Array, index: int, *, prompted: bool, known: KnownText | None = None
    ) -> ReadTurn:
        """Decode and parse a sampled span after the prompt that ends in `before`. Never raises; the tokens stay."""
        return self._writer.turns.read(ids, before, index, prompted=prompted, known=known)

    def says_controls(self, ids: Int32Array, message: Message) -> bool:
        """Whether a message holds control-token strings or marks, and all that tokens and message spell are tokens."""
        controls, texts = self._template.chat_format.controls, self._codec.added.texts
        if not controls.occur_in(message):
            return False
        sampled = controls.found_in([texts[token_id] for token_id in ids.tolist() if token_id in texts])
        spelt = controls.found_in(self._codec.decode(ids)) | controls.found_in(message)
        return not spelt - sampled

    def text_of(self, ids: Int32Array) -> str:
        """The text of a whole stream, control tokens shown."""
        return self._codec.decode(ids)

    def in_form(self, message: Message) -> Message:
        """A message in the form in which the template writes it without damage."""
        formed: Message = self._template.formed(message)  # type: ignore[assignment]
        return formed

    def whole_tokens(self, messages: Sequence[Message], prompt: bool) -> Int32Array:
        """The full tokenization of a conversation, its messages as they are. Costs time proportional to it."""
        text = self._template.render_afresh(self._marked(messages), prompt)
        return self._writer.encoder.encode(text, EMPTY_TOKENS).ids

    def beginnings(self, messages: Sequence[Message]) -> Callable[[int, bool], Int32Array]:
        """As `whole_tokens`, of so many leading messages of a conversation: cheaper for many of them, in order."""
        marked = self._marked(messages)

        def render(count: int, prompt: bool) -> str:
            return self._template.render_afresh(marked[:count], prompt)

        return GrowingRenders(render, self._writer.encoder, self._codec.added).tokens

    def _marked(self, messages: Sequence[Message]) -> Sequence[Message]:
        # A model may spell control tokens whatever the policy, which is about messages that are given.
        marked: Sequence[Message] = messages
        if self._escapes:
            marked = self._template.chat_format.controls.mark(list(messages))
        return marked
