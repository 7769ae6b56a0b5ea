"""A chat template under one episode's options: what it sees beside the messages, and messages in its own form.

Knows nothing of tokens, tails or turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from chatenv_client.errors import InvalidRequestError
from chatenv_client.models import ControlTokenPolicy, Message
from chatenv_client.reasons import Reason
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.controls import has_marks, strings_in
from chatenv_server.engine.conversation import RenderOptions
from chatenv_server.engine.forms import PreparedMessage
from chatenv_server.engine.probe_messages import PROBE_CALL_ID
from chatenv_server.engine.template import ChatTemplate, FilledTemplate, normalise, variables_of


class Filled(Protocol):
    """A template that renders messages; all else that it sees is settled."""

    def render(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        """The text of a conversation, with the generation prompt or without. Raises TemplateRejectedError."""


Fill = Callable[[ChatTemplate, Mapping[str, Any]], Filled]
"""Makes a filled template of a template and its variables."""


class BoundTemplate:
    """The template of a chat format with an episode's tools, arguments and clock. Safe for threads."""

    def __init__(self, chat_format: ChatFormat, options: RenderOptions, fill: Fill) -> None:
        self.chat_format = chat_format
        self.options = options
        self.profile = chat_format.profile
        self.needs = chat_format.dependencies(
            tools=options.tools is not None,
            asks=options.add_generation_prompt,
            template_kwargs=options.template_kwargs,
        )
        self.literal_text = chat_format.template.literal_text
        """Everything the template can write by itself."""
        self._fill = fill

    # -- what the template sees -------------------------------------------------------------------

    @cached_property
    def _variables(self) -> dict[str, Any]:
        options = self.options
        tools = None if options.tools is None else self._marked(list(options.tools), "tools")
        return variables_of(
            self.chat_format.special_tokens,
            self._marked(dict(options.template_kwargs), "chat_template_kwargs"),
            tools=tools,
            clock_unix_seconds=options.clock_unix_seconds,
        )

    def variables(self, *, local: bool) -> Mapping[str, Any]:
        """What the template sees beside the messages in `render_local`, or in `render_opening`."""
        return {**self._variables, "tools": None} if local and self._leaves_out_tools else self._variables

    def given(self, *, local: bool) -> list[Any]:
        """What callers gave of that."""
        variables = self.variables(local=local)
        return [variables["tools"], [variables[name] for name in self.options.template_kwargs]]

    @property
    def _leaves_out_tools(self) -> bool:
        return not self.needs.tools and self._variables["tools"] is not None

    @cached_property
    def _whole(self) -> Filled:
        return self._fill(self.chat_format.template, self._variables)

    @cached_property
    def _local(self) -> Filled:
        if not self._leaves_out_tools:
            return self._whole
        return self._fill(self.chat_format.template, self.variables(local=True))

    def render_opening(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        """The text of a whole conversation. Raises TemplateRejectedError."""
        return self._whole.render(messages, prompt)

    def render_afresh(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        """As `render_opening`, of nothing that earlier renders showed. Raises TemplateRejectedError."""
        template = FilledTemplate(self.chat_format.template, self._variables)
        return template.render([normalise(message) for message in messages], prompt)

    def render_local(self, messages: Sequence[PreparedMessage], prompt: bool) -> str:
        """The text of a few turns, for what they end in: without the tools where no tail depends on them.

        Raises:
            TemplateRejectedError: the template rejects the messages.
        """
        return self._local.render(messages, prompt)

    # -- messages in the template's form ----------------------------------------------------------

    def formed(self, message: Mapping[str, Any]) -> PreparedMessage:
        """A message in the template's form, its texts as they are."""
        return self.profile.forms.apply(message)

    def prepare(self, message: Mapping[str, Any], path: str = "messages") -> PreparedMessage:
        """A message in the template's form, control-token strings in its texts marked.

        Raises:
            InvalidRequestError: it holds control-token strings and the policy is `reject`.
        """
        prepared: PreparedMessage = self._marked(self.formed(message), path)
        return prepared

    def recorded(self, value: Any) -> Any:
        """What is on record, its control-token strings marked: it was given before, or a model spelt them."""
        controls = self.chat_format.controls
        if self.options.control_token_policy is ControlTokenPolicy.ALLOW or not controls.occur_in(value):
            return value
        return controls.mark(value)

    def prepare_own(self, message: Message | dict[str, Any]) -> PreparedMessage:
        """A message of ours or on record in the template's form, its texts unmarked."""
        if self.profile.needs_call_ids and message.get("tool_calls"):
            calls = [{"id": PROBE_CALL_ID, **call} for call in message["tool_calls"]]
            return self.formed({**message, "tool_calls": calls})
        return self.formed(message)

    def prepare_recorded(self, message: Message, *, own: bool = False) -> PreparedMessage:
        """A message on record in the template's form, control-token strings in its texts marked.

        Those of `own` messages are tokens that a model sampled, and stay. The policy `reject` has no say: what is on
        record was taken once.
        """
        formed = self.prepare_own(message)
        if not own:
            marked: PreparedMessage = self.recorded(formed)
            return marked
        escaped: PreparedMessage = (
            self.chat_format.controls.escape(formed) if any(map(has_marks, strings_in(formed))) else formed
        )
        return escaped

    def _marked(self, value: Any, path: str) -> Any:
        policy, controls = self.options.control_token_policy, self.chat_format.controls
        if not controls.occur_in(value):
            return value
        if policy is ControlTokenPolicy.ALLOW:
            return controls.escape(value)
        if policy is ControlTokenPolicy.REJECT and controls.are_spelt_in(value):
            raise InvalidRequestError(
                "a text spells a control token of this tokenizer; remove it, or choose control_token_policy 'escape'",
                reason=Reason.CONTROL_TOKEN_IN_TEXT,
                field=path,
            )
        return controls.mark(value)
