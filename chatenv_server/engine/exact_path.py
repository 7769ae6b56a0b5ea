"""The exact path: a chat template on a fast tokenizer, whose streams are exact or say why not."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from chatenv_client.errors import TemplateRejectedError
from chatenv_client.models import TokenText
from chatenv_server.bounded_cache import BoundedCache
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.conversation import RenderOptions
from chatenv_server.engine.dependencies import Dependencies
from chatenv_server.engine.kept_openings import MOST_KEPT, OpeningCache
from chatenv_server.engine.probe_messages import assistant, user
from chatenv_server.engine.reuse.reusing_template import ReusingTemplate
from chatenv_server.engine.template import variables_of
from chatenv_server.engine.template_renderer import TemplateRenderer

_MOST_RENDERERS: Final = 64
"""Different options whose renderer is kept. Callers choose them, so there must be a bound."""
_LONGEST_KEPT: Final = 32_768
"""Characters, as JSON, of tools and template arguments that are kept; longer ones belong to their episode alone."""


class ExactPath:
    """One chat format for all episodes. Safe for threads."""

    exact = True

    def __init__(self, chat_format: ChatFormat) -> None:
        self.chat_format = chat_format
        self._renderers: BoundedCache[tuple[Any, ...], TemplateRenderer] = BoundedCache(_MOST_RENDERERS)
        self._openings: OpeningCache = OpeningCache(MOST_KEPT)

    def renderer(self, options: RenderOptions) -> TemplateRenderer:
        """The chat format under one episode's options; the same again for the same options."""
        clock = options.clock_unix_seconds if "strftime_now" in self.chat_format.template.variables else 0.0
        # Nearly every episode has a clock of its own, but its tails may well be those of all others.
        if clock and not self._dependencies(options).clock:
            timeless = self.renderer(replace(options, clock_unix_seconds=0.0))
            return TemplateRenderer(self.chat_format, options, tails_of=timeless)
        policies = (options.add_generation_prompt, options.control_token_policy, clock)
        # The order of keys counts, since templates write tools with `tojson`.
        has_inputs = options.tools is not None or options.template_kwargs
        inputs = json.dumps([options.tools, options.template_kwargs]) if has_inputs else ""
        key = (inputs, *policies)
        if len(inputs) > _LONGEST_KEPT:
            return TemplateRenderer(self.chat_format, options)
        return self._renderers.get_or_put(
            key, lambda: TemplateRenderer(self.chat_format, options, openings=self._openings)
        )

    def _dependencies(self, options: RenderOptions) -> Dependencies:
        return self.chat_format.dependencies(
            tools=options.tools is not None,
            asks=options.add_generation_prompt,
            template_kwargs=options.template_kwargs,
        )

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a sampled turn."""
        return self.chat_format.profile.stop_ids

    @cached_property
    def features(self) -> tuple[str, ...]:
        """What the template does, a word each: see docs/wire.md."""
        under = [self.chat_format.dependencies(tools=tools) for tools in (False, True)]
        words = {
            "needs_system": any(needs.system for needs in under),
            "needs_tools": any(needs.tools for needs in under),
            "needs_skeleton": any(needs.skeleton_under_system for needs in under),
            "forgets": any(needs.forgets for needs in under),
            "reuses_renders": self._reuses_renders(),
        }
        return ("exact", *sorted(self.chat_format.profile.takes), *(word for word, holds in words.items() if holds))

    def _reuses_renders(self) -> bool:
        """Whether a plain conversation needs no second render; see `ReusingTemplate`."""
        variables = variables_of(self.chat_format.special_tokens)
        messages = [self.chat_format.profile.forms.apply(message) for message in (user(), assistant("x"), user())]
        try:
            return ReusingTemplate(self.chat_format.template, variables).reuses(messages, True)
        except TemplateRejectedError:
            return False

    @property
    def turn_parser(self) -> str:
        """Name of the parser for sampled turns."""
        return self.chat_format.parser_for({}).name

    @property
    def control_tokens(self) -> tuple[tuple[int, str, bool], ...]:
        """(id, text, whether it ends a sampled turn) of every control token, by id."""
        added = self.chat_format.codec.added
        control = added.special_ids | (self.stop_ids & added.texts.keys())
        return tuple((token_id, added.texts[token_id], token_id in self.stop_ids) for token_id in sorted(control))

    def token_text(self, token_id: int) -> TokenText:
        """What a token stands for; an empty text where there is none of this id."""
        return self.chat_format.codec.token_text(token_id)

    @property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 of all that decides how text is encoded."""
        return self.chat_format.codec.fingerprint

    @property
    def template_fingerprint(self) -> str:
        """SHA-256 of the chat template's text."""
        return self.chat_format.template.fingerprint
