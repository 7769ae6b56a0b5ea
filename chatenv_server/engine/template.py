"""One chat template: compiled once in Jinja's sandbox, rendered many times.

Renders to the text that transformers' `apply_chat_template(tokenize=False)` gives for the same messages. Knows
nothing of tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.alterations import alterations_in
from chatenv_server.engine.template_language import configured

RESERVED_NAMES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception"}
)
"""Inputs of a template that are not a caller's to set as keyword arguments."""

REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
"""Under each of them a caller may give the thinking; the template gets it under the name that it reads."""

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Roles that callers give, whatever the template."""


class ChatTemplate:
    """A compiled chat template. Immutable and safe to share between threads.

    Raises:
        ValueError: the text is not a valid Jinja template.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            tree = _ENVIRONMENT.parse(source)
            self._template = _ENVIRONMENT.from_string(source)
            # Jinja keeps globals in layers, which it would flatten again for every render.
            self._template.globals = dict(self._template.globals)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template is not valid Jinja (line {error.lineno}): {error.message}") from None
        self.variables = frozenset(meta.find_undeclared_variables(tree))
        """Names that the template reads from outside."""
        self.literal_text = _literal_text(tree)
        """Everything the template can write by itself, pieces joined by NUL."""
        self.settled_roles = _ROLES.union(self.literal_text.split("\0"))
        """Roles that are no texts of a caller's, though another text may read the same.

        A template may make its control tokens of them: `'<|' + message.role + '|>'`.
        """
        self.tested_texts = _tested_texts(tree)
        """What the template looks for in texts, such as `/no_think`."""
        self.cut_texts = _cut_texts(tree)
        """What the template cuts texts at, such as `</think>`."""
        self.alterations = alterations_in(tree)
        """What the template may do to a text that it writes."""
        self.is_random = "random" in source or "lipsum" in source
        """Whether it may write what Jinja draws at random, each time something else."""
        self.fingerprint = hashlib.sha256(source.encode()).hexdigest()

    def render(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], *, add_generation_prompt: bool
    ) -> str:
        """Render `messages`, already in the form the template wants (see `normalise`).

        Raises:
            TemplateRejectedError: the template raised; the message holds its own words.
        """
        try:
            return self._template.render(
                {**variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
            )
        except jinja2.TemplateError as error:
            raise TemplateRejectedError(
                f"the chat template rejects these messages: {error.message}", field="messages"
            ) from error
        except RecursionError as error:
            raise TemplateRejectedError(
                "the chat template recurses too deeply on these messages", field="messages"
            ) from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            raise TemplateRejectedError(
                f"the chat template cannot take these messages ({type(error).__name__} while rendering)",
                field="messages",
            ) from error


class FilledTemplate:
    """A chat template and all that it sees beside the messages. Safe for threads."""

    def __init__(self, template: ChatTemplate, variables: Mapping[str, Any]) -> None:
        self._template = template
        self._variables = variables

    def render(self, messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
        """The text of a conversation, with the generation prompt or without. Raises TemplateRejectedError."""
        return self._template.render(messages, self._variables, add_generation_prompt=prompt)


def normalise(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers 5 hands it to a template: no keys without a value, all names of reasoning filled in."""
    plain = {key: value for key, value in message.items() if value is not None}
    reasoning = next((plain[key] for key in REASONING_NAMES if key in plain), None)
    if reasoning is None:
        return plain
    return {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def variables_of(
    special_tokens: Mapping[str, str],
    template_kwargs: Mapping[str, Any] | None = None,
    *,
    tools: list[Any] | None = None,
    clock_unix_seconds: float = 0.0,
) -> dict[str, Any]:
    """What a template sees beside the messages."""
    return {
        **special_tokens,
        **(template_kwargs or {}),
        "tools": tools,
        "documents": None,
        "strftime_now": clock_at(clock_unix_seconds),
    }


def clock_at(unix_seconds: float) -> Callable[[str], str]:
    """A `strftime_now` for templates that always tells the same time, in UTC."""
    moment = datetime.fromtimestamp(unix_seconds, tz=timezone.utc)
    return moment.strftime


_ENVIRONMENT = configured(ImmutableSandboxedEnvironment)


def _tested_texts(tree: nodes.Template) -> tuple[str, ...]:
    compared = [node.expr for node in tree.find_all(nodes.Compare) if node.ops[0].op in ("in", "notin")]
    begun = [
        node.args[0]
        for node in tree.find_all(nodes.Call)
        if isinstance(node.node, nodes.Getattr) and node.node.attr == "startswith" and node.args
    ]
    texts = {node.value for node in (*compared, *begun) if isinstance(node, nodes.Const)}
    # A bare name is the key of a mapping: `'tool_calls' in message`.
    return tuple(sorted(text for text in texts if isinstance(text, str) and not text.isidentifier()))


def _cut_texts(tree: nodes.Template) -> tuple[str, ...]:
    cutting = ("split", "rsplit", "partition", "rpartition", "replace", "find", "rfind", "index", "rindex")
    cuts = [
        node.args[0]
        for node in tree.find_all(nodes.Call)
        if isinstance(node.node, nodes.Getattr) and node.node.attr in cutting and node.args
    ]
    texts = {node.value for node in cuts if isinstance(node, nodes.Const)}
    return tuple(sorted(text for text in texts if isinstance(text, str) and text.strip()))


def _literal_text(tree: nodes.Template) -> str:
    literals = {node.data for node in tree.find_all(nodes.TemplateData)}
    literals |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return "\0".join(sorted(literals))
