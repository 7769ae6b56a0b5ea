"""One chat template on one fast tokenizer: what is known of the two, probed once and shared by all episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.codec import Codec
from chatenv_server.engine.controls import ControlTokens
from chatenv_server.engine.conversation import RenderOptions
from chatenv_server.engine.parsing import ResponseTemplateParser, TurnParser
from chatenv_server.engine.probe import Profile, learn_parser, probe, user
from chatenv_server.engine.renderer import TemplateRenderer
from chatenv_server.engine.template import ChatTemplate, clock_at

_MOST_KEPT = 64
"""Different options whose renderer is kept, and different template arguments whose parser is. Callers choose both, so
there must be a bound."""
_LONGEST_KEPT = 32_768
"""Characters, as JSON, of tools and template arguments that are kept; longer ones belong to their episode alone."""


class ChatFormat:
    """The exact path: a fast tokenizer and its Jinja template."""

    exact = True

    def __init__(
        self,
        template: ChatTemplate,
        codec: Codec,
        special_tokens: Mapping[str, str],
        stop_ids: Sequence[int],
        parse_response: Callable[..., Any] | None = None,
    ) -> None:
        self.template = template
        self.codec = codec
        self.special_tokens = dict(special_tokens)
        self.profile: Profile = probe(template, codec, special_tokens, stop_ids)
        self.controls = ControlTokens(self._control_texts(), codec.added_tokens.values())
        self._parse_response = parse_response
        self._parsers: dict[str, TurnParser] = {}
        self._renderers: dict[tuple[Any, ...], TemplateRenderer] = {}

    def _control_texts(self) -> list[str]:
        """Special tokens, and added tokens that the template writes."""
        # White space is excepted: some tokenizers have it as added tokens, and templates hold it as plain text.
        texts = self.codec.added_tokens.items()
        written = self.template.literal_text
        return [text for i, text in texts if i in self.codec.special_ids or (text in written and not text.isspace())]

    def parser_for(self, template_kwargs: Mapping[str, Any]) -> TurnParser:
        """The parser for turns sampled under these template arguments."""
        # They may decide whether a thought is open already when sampling starts.
        key = json.dumps(template_kwargs, sort_keys=True, default=str)
        parser = self._parsers.get(key) or self._learn_parser(template_kwargs)
        if key not in self._parsers and len(self._parsers) < _MOST_KEPT and len(key) <= _LONGEST_KEPT:
            self._parsers[key] = parser
        return parser

    def _learn_parser(self, template_kwargs: Mapping[str, Any]) -> TurnParser:
        variables = {
            **self.special_tokens,
            **template_kwargs,
            "tools": None,
            "documents": None,
            "strftime_now": clock_at(0.0),
        }

        def render(messages: Sequence[Mapping[str, Any]], prompt: bool) -> str | None:
            try:
                prepared = [self.profile.forms.apply(message) for message in messages]
                return self.template.render(prepared, variables, add_generation_prompt=prompt)
            except TemplateRejectedError:
                return None

        stop_texts = [self.codec.added_tokens[i] for i in self.stop_ids if i in self.codec.added_tokens]
        learnt = learn_parser(render, stop_texts)
        if self._parse_response is None:
            return learnt
        return ResponseTemplateParser(self._parse_response, render([user()], True) or "", learnt)

    def renderer(self, options: RenderOptions) -> TemplateRenderer:
        """What this chat format does under certain options; the same again for the same options."""
        clock = options.clock_unix_seconds if "strftime_now" in self.template.variables else 0.0
        policies = (options.add_generation_prompt, options.control_token_policy, clock)
        # The order of keys counts, since templates write tools with `tojson`.
        inputs = json.dumps([options.tools, options.template_kwargs])
        key = (inputs, *policies)
        renderer = self._renderers.get(key) or TemplateRenderer(self, options)
        if key not in self._renderers and len(inputs) <= _LONGEST_KEPT:
            if len(self._renderers) >= _MOST_KEPT:
                self._renderers.clear()
            self._renderers[key] = renderer
        return renderer

    def encoding_ahead(self, said: Iterable[tuple[str, str]]) -> AbstractContextManager[None]:
        """While it lasts, texts that are about to be appended, as (role, text), are at hand encoded."""
        return self.codec.enclosures.encoding_ahead(said)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a sampled turn."""
        return self.profile.stop_ids
