"""`ChatEnvRenderer`: chatenv's token engine under the protocol of the package `renderers`.

It renders as `apply_chat_template` does, and goes on after sampled ids without rendering them again. Holds the options;
what is rendered, read and cut is the engine's business.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from renderers.base import ParsedResponse, RenderedTokens

from chatenv_client.errors import InvalidRequestError, TemplateRejectedError
from chatenv_client.models import (
    ControlTokenPolicy,
    FidelityKind,
    FidelityReport,
    Message,
    MessageSnapshot,
    StopReason,
)
from chatenv_client.tokens import Int32Array
from chatenv_server.engine import RenderOptions, TokenEngine, rewrites
from chatenv_server.engine.conversation import PendingRewrite, ReadTurn, SampledTurn, Tail, TailPlace
from chatenv_server.engine.given_assistants import given_assistants
from chatenv_server.engine.span_place import END_TOKENS
from chatenv_server.engine.template_renderer import TemplateRenderer
from chatenv_server.environment.validation import check_messages, check_token_ids, check_tools
from chatenv_server.renderers.attribution import attributed
from chatenv_server.renderers.config import ChatEnvRendererConfig
from chatenv_server.renderers.known_prompts import KNOWN_PROMPTS, KnownPrompt
from chatenv_server.renderers.parsed import parsed_response

_BREAKS: Final = frozenset({FidelityKind.HISTORY_REWRITTEN, FidelityKind.MESSAGE_DROPPED})
"""Reports after which a prompt that only goes on is not what the template writes."""


class ChatEnvRenderer:
    """A chat template on a tokenizer, as the package `renderers` wants it. Safe for threads.

    `create_renderer`, verifiers and prime-rl make it of a config that names it:
    `CustomRendererConfig(import_path="chatenv_server.renderers.ChatEnvRenderer")`.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        config: the options; None: all defaults.

    Raises:
        TypeError: the tokenizer is no fast one.
        ValueError: the config has an argument that the chat template never reads.
    """

    config_class: ClassVar[type[ChatEnvRendererConfig]] = ChatEnvRendererConfig
    is_multimodal = False
    supports_tools = True
    is_prefix_stable = False
    """Whether it is known that longer conversations begin with the tokens of shorter ones: of no template."""

    def __init__(self, tokenizer: Any, config: ChatEnvRendererConfig | None = None) -> None:
        self.config = config or ChatEnvRendererConfig()
        self._engine = TokenEngine.shared(tokenizer, chat_template=self.config.chat_template)
        if self._engine.chat_format is None:
            raise TypeError("ChatEnvRenderer needs a fast tokenizer, such as AutoTokenizer loads")
        self._kwargs: Mapping[str, Any] = dict(self.config.model_extra or {})
        unread = self._kwargs.keys() - self._engine.chat_format.template.variables
        if unread:
            raise ValueError(f"the chat template never reads {', '.join(sorted(unread))}; leave it out of the config")
        self._clock = time.time()
        facts = (self._engine.tokenizer_fingerprint, self._engine.template_fingerprint, self.config.model_dump_json())
        self._key = hashlib.sha256("\n".join(facts).encode()).digest()

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None, add_generation_prompt: bool = False
    ) -> RenderedTokens:
        """The whole conversation, equal to `apply_chat_template`, and who wrote each token.

        Without a generation prompt, as for supervised training, it looks for what a model would have sampled of given
        assistants, which takes three renders for each. With one it does not: `sampled_mask` is empty then.

        Raises:
            InvalidRequestError: a message or a tool is malformed.
            TemplateRejectedError: the template rejects the messages.
        """
        check_messages(messages)
        log = self._engine.open(self._options(tools, asks=add_generation_prompt))
        log.append_messages(messages, step=0)
        tail = log.head.tail
        ids = self._remembered(log.stream.token_ids, messages, tail.pending_rewrite, tail)
        said = None if add_generation_prompt else given_assistants(log, self._engine.stop_ids)
        return attributed(ids, messages, log.message_spans(), self._renderer(log.options).text_spans(tail), said)

    def render_ids(
        self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None, add_generation_prompt: bool = False
    ) -> list[int]:
        """The tokens of `render`, without looking for who wrote them."""
        check_messages(messages)
        options = self._options(tools, asks=add_generation_prompt)
        tail = self._renderer(options).opening(messages)
        return self._remembered(tail.tokens, messages, tail.pending_rewrite, tail)

    def parse_response(
        self, token_ids: Sequence[int], *, tools: Sequence[Any] | None = None, prompt_ids: Sequence[int] | None = None
    ) -> ParsedResponse:
        """What a sampled turn says: content, thought and calls, each call with an id."""
        known = KNOWN_PROMPTS.get(self._key, prompt_ids) if prompt_ids else None
        options = self._options(tools, asks=True)
        return parsed_response(self._read(options, prompt_ids or (), token_ids, known))

    def get_stop_token_ids(self) -> list[int]:
        """The ids that end a turn."""
        return sorted(self._engine.stop_ids)

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: Sequence[int],
        previous_completion_ids: Sequence[int],
        new_messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
    ) -> RenderedTokens | None:
        """The prompt after a sampled turn: its prompt and its ids as they are, and what the template writes then.

        None where that would not be what the template writes for the conversation, as far as `thinking_retention` does
        not allow it; where the messages hold an assistant's; and where the template looks at earlier messages, and this
        process has not rendered the prompt.
        """
        if not previous_prompt_ids or not new_messages or any(one.get("role") == "assistant" for one in new_messages):
            return None
        options = self._options(tools, asks=True)
        known = KNOWN_PROMPTS.get(self._key, previous_prompt_ids)
        if known is None and self._looks_back(options):
            return None
        try:
            check_messages(new_messages)
            place = self._place(options, previous_prompt_ids, previous_completion_ids, known)
            tail, texts = self._renderer(options).tail_with_texts(place, new_messages)
        except (InvalidRequestError, TemplateRejectedError):
            return None
        if self._breaks(tail.reports, new_messages):
            return None
        conversation = [*(known.messages if known else ()), place.last.message, *new_messages]
        pending = rewrites.left_by(known.pending if known else None, tail)
        ids = self._remembered(np.concatenate([place.before, tail.tokens]), conversation, pending, tail)
        first = len(place.before)
        starts = [first + start for start in tail.message_starts]
        parts = list(zip(starts, [*starts[1:], len(ids) - tail.generation_prompt_length], strict=True))
        return attributed(ids, new_messages, parts, [(first + start, first + stop) for start, stop in texts], ())

    # -- the parts of it --------------------------------------------------------------------------

    def _options(self, tools: Sequence[Any] | None, *, asks: bool) -> RenderOptions:
        return RenderOptions(
            tools=check_tools([_schema(tool) for tool in tools or ()]),
            template_kwargs=self._kwargs,
            clock_unix_seconds=self._clock,
            add_generation_prompt=asks,
            control_token_policy=ControlTokenPolicy(self.config.control_token_policy),
        )

    def _renderer(self, options: RenderOptions) -> TemplateRenderer:
        renderer = self._engine.open(options).renderer
        assert isinstance(renderer, TemplateRenderer)  # noqa: S101 - a fast tokenizer has no other
        return renderer

    def _read(
        self, options: RenderOptions, prompt: Sequence[int], completion: Sequence[int], known: KnownPrompt | None
    ) -> ReadTurn:
        before = np.asarray(prompt[-END_TOKENS:], dtype=np.int32)
        ids = np.asarray(completion, dtype=np.int32)
        check_token_ids(ids, self._engine.token_id_limit)
        # By the prompt's length the turn's calls get the same ids each time, and other turns of it other ones.
        return self._renderer(options).read_turn(ids, before, len(prompt), prompted=known is None or known.prompted)

    def _place(
        self, options: RenderOptions, prompt: Sequence[int], completion: Sequence[int], known: KnownPrompt | None
    ) -> TailPlace:
        """Where a sampled turn ends, for the tail after it."""
        read = self._read(options, prompt, completion, known)
        stop_reason = StopReason.LENGTH if read.stop_id is None else StopReason.STOP
        last = SampledTurn(
            read.message,
            len(prompt),
            read.text,
            read.close,
            read.stop_id,
            stop_reason,
            start=len(prompt),
            after_prompt=True,
            prompted=known is None or known.prompted,
        )
        history = MessageSnapshot(known.messages, len(known.messages)) if known else MessageSnapshot()
        before = np.asarray([*prompt, *completion], dtype=np.int32)
        return TailPlace(history, last, before, known.pending if known else None)

    def _looks_back(self, options: RenderOptions) -> bool:
        """Whether what the template writes after a turn may depend on what came before that."""
        assert self._engine.chat_format is not None  # noqa: S101 - told at the start
        needs = self._engine.chat_format.dependencies(
            tools=options.tools is not None, asks=True, template_kwargs=self._kwargs
        )
        return needs.forgets or needs.system or needs.skeleton or needs.skeleton_under_system

    def _breaks(self, reports: Sequence[FidelityReport], messages: Sequence[Message]) -> bool:
        """Whether the prompt has to be rendered anew."""
        kinds = {report.kind for report in reports}
        if self.config.thinking_retention is None:
            return not kinds.isdisjoint(_BREAKS)
        asked_again = any(message.get("role") == "user" for message in messages)
        return FidelityKind.MESSAGE_DROPPED in kinds or (self.config.thinking_retention == "tool_cycle" and asked_again)

    def _remembered(
        self, tokens: Int32Array, messages: Sequence[Message], pending: PendingRewrite | None, tail: Tail
    ) -> list[int]:
        ids: list[int] = tokens.tolist()
        prompt = KnownPrompt(tuple(messages), pending, prompted=tail.generation_prompt_length > 0)
        KNOWN_PROMPTS.remember(self._key, ids, prompt)
        return ids


def _schema(tool: Any) -> Any:
    """A tool as templates want it: the package also has bare functions."""
    return {"type": "function", "function": tool} if isinstance(tool, Mapping) and "function" not in tool else tool
