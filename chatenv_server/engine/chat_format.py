"""One chat template on one fast tokenizer: what is known of the two, probed once and shared by all episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from chatenv_server.bounded_cache import BoundedCache
from chatenv_server.engine.codec import Codec
from chatenv_server.engine.controls import ControlTokens
from chatenv_server.engine.dependencies import Dependencies
from chatenv_server.engine.learn_parser import learn_parser
from chatenv_server.engine.parsing import PROBE_TOOLS, VERBATIM, ResponseTemplateParser, TurnParser
from chatenv_server.engine.probe import probe
from chatenv_server.engine.probe_messages import PROBE_CLOCK, PROBE_TOOL, user
from chatenv_server.engine.probe_renders import ProbeRenders
from chatenv_server.engine.probe_tails import find_dependencies
from chatenv_server.engine.profile import Profile
from chatenv_server.engine.suspects import SuspectFinder
from chatenv_server.engine.template import ChatTemplate, variables_of

_MOST_KEPT = 64
"""Different options of which is kept what was found out. Callers choose them, so there must be a bound."""
_LONGEST_KEPT = 32_768
"""Characters, as JSON, of template arguments that are kept."""


class ChatFormat:
    """A fast tokenizer and its Jinja template. Safe for threads.

    What depends on an episode's options is found out when it is first asked for: parsers, and what tails depend on.
    """

    def __init__(
        self,
        template: ChatTemplate,
        codec: Codec,
        special_tokens: Mapping[str, str],
        stop_ids: Sequence[int],
        parse_response: Callable[..., Any] | None = None,
        named_controls: Collection[str] | None = None,
    ) -> None:
        self.template = template
        self.codec = codec
        self.special_tokens = dict(special_tokens)
        self.profile: Profile = probe(template, codec, special_tokens, stop_ids)
        added = codec.added
        self.controls = ControlTokens(
            added.spellings(self._control_texts(named_controls)), added.spellings(added.texts.values())
        )
        self._parse_response = parse_response
        self._parsers: BoundedCache[str, TurnParser] = BoundedCache(_MOST_KEPT)
        self._dependencies: BoundedCache[tuple[bool, bool, str], Dependencies] = BoundedCache(_MOST_KEPT)

    def _control_texts(self, named: Collection[str] | None) -> list[str]:
        """Special tokens, and added tokens that the tokenizer names, or else those that the template writes."""
        added, written = self.codec.added, self.template.literal_text

        def is_control(text: str) -> bool:
            # White space is excepted: some tokenizers have it as added tokens, and templates hold it as plain text.
            return text in named if named is not None else text in written and not text.isspace()

        return [text for i, text in added.texts.items() if i in added.special_ids or is_control(text)]

    @cached_property
    def suspects(self) -> SuspectFinder:
        """Finds the texts that may have made a control token."""
        return SuspectFinder(self.template, self.controls)

    def dependencies(
        self, *, tools: bool = False, asks: bool = True, template_kwargs: Mapping[str, Any] | None = None
    ) -> Dependencies:
        """What tails depend on; found out when it is first asked for under these options.

        Args:
            tools: whether there are any.
            asks: whether the model is asked to speak.
            template_kwargs: template arguments.
        """
        key = json.dumps(template_kwargs or {}, sort_keys=True, default=str)
        if len(key) > _LONGEST_KEPT:
            return self._find_dependencies(tools, asks, template_kwargs)
        return self._dependencies.get_or_put(
            (tools, asks, key), lambda: self._find_dependencies(tools, asks, template_kwargs)
        )

    def _find_dependencies(self, tools: bool, asks: bool, template_kwargs: Mapping[str, Any] | None) -> Dependencies:
        variables = variables_of(
            self.special_tokens,
            template_kwargs,
            tools=[PROBE_TOOL] if tools else None,
            clock_unix_seconds=PROBE_CLOCK,
        )
        return find_dependencies(self._renders(variables), asks=asks)

    def _renders(self, variables: Mapping[str, Any]) -> ProbeRenders:
        return ProbeRenders(self.template, variables, self.profile.forms, self.profile.wants_system)

    def parser_for(self, template_kwargs: Mapping[str, Any], *, with_tools: bool = False) -> TurnParser:
        """The parser for turns sampled under these template arguments, by a model that was given tools or none."""
        # They may decide whether a thought is open already when sampling starts, and whether calls are written at all.
        key = json.dumps([template_kwargs, with_tools], sort_keys=True, default=str)
        if len(key) > _LONGEST_KEPT:
            return self._learn_parser(template_kwargs, with_tools)
        return self._parsers.get_or_put(key, lambda: self._learn_parser(template_kwargs, with_tools))

    def _learn_parser(self, template_kwargs: Mapping[str, Any], with_tools: bool) -> TurnParser:
        learnt = self._learn_from(template_kwargs, PROBE_TOOLS if with_tools else None)
        if learnt.name == VERBATIM and "tools" in self.template.variables:
            other = self._learn_from(template_kwargs, None if with_tools else PROBE_TOOLS)
            learnt = learnt if other.name == VERBATIM else other
        if self._parse_response is None:
            return learnt
        prompt = self._renderer(template_kwargs, None)([user()], True) or ""
        return ResponseTemplateParser(self._parse_response, prompt, learnt)

    def _learn_from(self, template_kwargs: Mapping[str, Any], tools: list[Any] | None) -> TurnParser:
        stop_texts = [self.codec.added.texts[i] for i in self.profile.stop_ids if i in self.codec.added]
        # No model writes what a template puts after the last turn unasked, be it closed or not.
        ends = [*stop_texts, *filter(None, [self.profile.opener])]
        return learn_parser(self._renderer(template_kwargs, tools), ends)

    def _renderer(
        self, template_kwargs: Mapping[str, Any], tools: list[Any] | None
    ) -> Callable[[Sequence[Mapping[str, Any]], bool], str | None]:
        renders = self._renders(variables_of(self.special_tokens, template_kwargs, tools=tools))
        return lambda messages, prompt: renders.render(messages, prompt=prompt)
