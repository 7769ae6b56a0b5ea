"""Chat templates put together at random from the things that real ones do to a token stream.

`Traits` says what a template does, a word each; `source_of` writes it. Each trait is a small part that knows of no
other, so that any of them meet. The archetypes are templates that somebody thought of; these are the ones that nobody
did.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args, get_type_hints

from hypothesis import strategies as st

from chatenv_server.doctor.stand_in import stand_in
from chatenv_server.engine import TokenEngine

Header = Literal["im_start", "role token", "header token", "colon", "start_of_turn", "inst", "two tokens"]
Close = Literal["token", "token and line", "eos", "line", "nothing", "assistant only", "another at the end"]
System = Literal[
    "turn", "before all", "in the first user's turn", "in the last user's turn", "collected", "default", "repeated",
    "required", "rejected", "left out",
]  # fmt: skip
Tools = Literal["ignored", "system turn", "turn of their own", "before the last user", "required", "change results"]
Thought = Literal["ignored", "kept", "since the last user", "last turn", "cut from content", "always a block"]
Prompt = Literal["asked", "unasked", "nothing after results", "opens a thought", "closes a thought", "by argument"]
Calls = Literal["hermes", "list", "tokens", "elements", "python", "numbered", "with ids", "left out"]
Results = Literal[
    "turn", "user turn", "merged", "block", "by name", "by id", "name by id", "by position", "numbered", "rejected",
    "left out",
]  # fmt: skip
Texts = Literal["as given", "trimmed", "user trimmed", "assistant trimmed", "left-trimmed"]
State = Literal["none", "rounds", "messages counted", "first marked", "last marked", "alternation", "empties skipped"]


@dataclass(frozen=True)
class Traits:
    """What a generated template does."""

    header: Header = "im_start"
    close: Close = "token and line"
    system: System = "turn"
    tools: Tools = "system turn"
    thought: Thought = "ignored"
    prompt: Prompt = "asked"
    calls: Calls = "hermes"
    results: Results = "turn"
    texts: Texts = "as given"
    state: State = "none"
    begins_with_bos: bool = False
    content_is_parts: bool = False

    def __repr__(self) -> str:
        """Only what is not the default: the part that a person has to read."""
        told = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self)]
        plain = [f"{each.name}={each.default!r}" for each in fields(self)]
        return f"Traits({', '.join(one for one in told if one not in plain)})"


def _one_of(annotation: Any, usual: Any) -> st.SearchStrategy[Any]:
    choices = get_args(annotation) or (False, True)
    return st.just(usual) | st.sampled_from(choices)


traits: st.SearchStrategy[Traits] = st.builds(
    Traits, **{each.name: _one_of(get_type_hints(Traits)[each.name], each.default) for each in fields(Traits)}
)
"""All templates that there are, about half of the traits being the usual ones."""


@functools.lru_cache(maxsize=64)
def loaded(source: str) -> tuple[TokenEngine, Any]:
    """The engine on a template, and the tokenizer that it was loaded from; the latest ones are kept."""
    tokenizer: Any = stand_in(source)
    return TokenEngine.load(tokenizer), tokenizer


def source_of(template: Traits) -> str:
    """The template, in Jinja."""
    parts = [
        _PREAMBLE,
        _BEGIN if template.begins_with_bos else "",
        _beginning(template),
        "{%- for m in rest %}",
        _STATES_BEFORE.get(template.state, ""),
        _TOOLS_BEFORE_USER if template.tools == "before the last user" else "",
        "{%- if m.role == 'tool' %}",
        _result(template),
        "{%- elif m.role == 'assistant' %}",
        _answer(template),
        "{%- else %}",
        _question(template),
        "{%- endif %}",
        "{%- endif %}" if template.state == "empties skipped" else "",
        "{%- endfor %}",
        _prompt(template),
    ]
    return "\n".join(part for part in parts if part)


# -- headers and closes ------------------------------------------------------------------------------

_OPENED: Final[dict[Header, str]] = {
    "im_start": "'<|im_start|>' + ROLE + '\\n'",
    "role token": "'<|' + ROLE + '|>\\n'",
    "header token": "'<|start_header_id|>' + ROLE + '<|end_header_id|>\\n\\n'",
    "colon": "(ROLE | capitalize) + ': '",
    "start_of_turn": "'<start_of_turn>' + (ROLE | replace('assistant', 'model')) + '\\n'",
    "inst": "('' if ROLE == 'assistant' else '[INST]' if ROLE == 'user' else '[' + (ROLE | upper) + ']')",
    "two tokens": "'<|turn|><|' + ROLE + '_token|>'",
}
_CLOSED: Final[dict[Header, str]] = {
    "im_start": "<|im_end|>",
    "role token": "<|end|>",
    "header token": "<|eot_id|>",
    "colon": "</s>",
    "start_of_turn": "<end_of_turn>",
    "inst": "</s>",
    "two tokens": "<|turn_end|>",
}


def _open(template: Traits, role: str) -> str:
    """The expression of a header; `role` is an expression, too."""
    return _OPENED[template.header].replace("ROLE", role)


def _close(template: Traits, role: str, *, last: str = "loop.last") -> str:
    """The expression of a close after what `role` said; `last` tells whether that is the end of the conversation."""
    token = _CLOSED[template.header]
    if template.header == "inst" and role == "user":
        return "'[/INST]'"
    answers = role == "assistant"
    return {
        "token": f"'{token}'",
        "token and line": f"'{token}\\n'",
        "eos": "eos_token",
        "line": "'\\n'",
        "nothing": "''",
        "assistant only": f"'{token}\\n'" if answers else "'\\n'",
        "another at the end": (
            f"('<|return|>' if {last} and not add_generation_prompt else '{token}')" if answers else f"'{token}'"
        ),
    }[template.close]


def _text(template: Traits, role: str, text: str) -> str:
    """The expression of a text of `role`, with what the template does to it."""
    if template.texts in ("trimmed", f"{role} trimmed"):
        return f"({text} | trim)"
    return f"{text}.lstrip('\\n')" if template.texts == "left-trimmed" else text


# -- what comes before the loop ----------------------------------------------------------------------

_BEGIN: Final = "{{- bos_token }}"
_PREAMBLE: Final = """\
{%- set ns = namespace(last_user=-1, round=0, calls=0, results=0, system='', open=false, names={}) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}{% endfor %}
{%- set rest = messages %}"""
_LISTED: Final = "'<tools>' + (tools | tojson) + '</tools>'"


def _beginning(template: Traits) -> str:
    """System messages and tools, as far as they come first."""
    opened, closed = _open(template, "'system'"), _close(template, "system", last="false")
    turn = f"{{{{- {opened} + TEXT + {closed} }}}}"
    first = (
        "{%- if messages and messages[0].role == 'system' %}"
        f"{{%- set ns.system = {_own_text(template, 'messages[0]')} %}}{{%- set rest = messages[1:] %}}{{%- endif %}}"
        "{%- set ns.last_user = ns.last_user - (messages | length) + (rest | length) %}"
    )
    lines = {
        "turn": "",
        "before all": first + "{{- ns.system }}",
        "in the first user's turn": first,
        "in the last user's turn": first,
        "collected": (
            "{%- for m in messages if m.role == 'system' %}"
            f"{{%- set ns.system = ns.system + {_own_text(template, 'm')} + '\\n' %}}{{%- endfor %}}"
            "{%- set rest = messages | rejectattr('role', 'equalto', 'system') | list %}"
            "{%- for m in rest %}{% if m.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}{% endfor %}"
            "{%- if ns.system %}" + turn.replace("TEXT", "ns.system") + "{%- endif %}"
        ),
        "default": (
            "{%- if not messages or messages[0].role != 'system' %}"
            + turn.replace("TEXT", "'You are Test, made by us.'")
            + "{%- endif %}"
        ),
        "repeated": first,
        "required": (
            "{%- if not messages or messages[0].role != 'system' %}"
            "{{- raise_exception('A system message must come first') }}{%- endif %}"
        ),
        "rejected": "",
        "left out": "",
    }[template.system]
    if template.tools in ("system turn", "change results"):
        lines += "{%- if tools %}" + turn.replace("TEXT", _LISTED) + "{%- endif %}"
    if template.tools == "turn of their own":
        own = f"{_open(template, repr('tools'))} + {_LISTED} + {closed}"
        lines += f"{{%- if tools %}}{{{{- {own} }}}}{{%- endif %}}"
    if template.tools == "required":
        lines += "{%- for t in tools %}{{- t | tojson }}{%- endfor %}"
    return lines


_TOOLS_BEFORE_USER: Final = (
    f"{{%- if tools and m.role == 'user' and loop.index0 == ns.last_user %}}{{{{- {_LISTED} }}}}{{%- endif %}}"
)
_STATES_BEFORE: Final[dict[State, str]] = {
    "alternation": (
        "{%- if m.role == 'user' and not loop.first and loop.previtem.role == 'user' %}"
        "{{- raise_exception('Roles must alternate') }}{%- endif %}"
    ),
    "empties skipped": "{%- if m.content or m.tool_calls %}",
}


# -- messages ----------------------------------------------------------------------------------------


def _own_text(template: Traits, message: str) -> str:
    """The expression of a message's content as one text."""
    if template.content_is_parts:
        return f"({message}.content | map(attribute='text') | join)"
    return f"({message}.content or '')"


def _question(template: Traits) -> str:
    """What a user or a system message becomes."""
    text = _text(template, "user", _own_text(template, "m"))
    prefix = {
        "rounds": "('[Round ' + (ns.round | string) + '] ' if m.role == 'user' else '')",
        "first marked": "('(first) ' if loop.first else '')",
    }.get(template.state, "''")
    prefix += {
        "in the first user's turn": " + (ns.system + '\\n\\n' if loop.first and ns.system else '')",
        "in the last user's turn": " + (ns.system + '\\n\\n' if loop.index0 == ns.last_user and ns.system else '')",
        "repeated": " + (ns.system + '\\n\\n' if ns.system and m.role == 'user' else '')",
    }.get(template.system, "")
    suffix = " + ('\\nBe brief.' if loop.last else '')" if template.state == "last marked" else ""
    closed = (
        f"({_close(template, 'user')} if m.role == 'user' else {_close(template, 'system')})"
        if template.header == "inst"
        else _close(template, "user")
    )
    turn = f"{{{{- {_open(template, 'm.role')} + {prefix} + {text}{suffix} + {closed} }}}}"
    counts = "{%- if m.role == 'user' %}{%- set ns.round = ns.round + 1 %}{%- endif %}{%- set ns.open = false %}"
    if template.system in ("rejected", "left out"):
        refused = "{{- raise_exception('No system role') }}" if template.system == "rejected" else ""
        turn = f"{{%- if m.role == 'system' %}}{refused}{{%- else %}}{turn}{{%- endif %}}"
    return counts + turn


_THINKS: Final[dict[Thought, str]] = {
    "kept": "m.reasoning_content",
    "since the last user": "m.reasoning_content and loop.index0 > ns.last_user",
    "last turn": "m.reasoning_content and loop.last",
    "always a block": "loop.index0 > ns.last_user",
}


def _answer(template: Traits) -> str:
    """What an assistant's message becomes."""
    text = _own_text(template, "m")
    if template.thought == "cut from content":
        text = f"({text}.split('</think>')[-1] if not loop.last else {text})"
    thinks = _THINKS.get(template.thought)
    thought = "'<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n'"
    lines = [
        f"{{{{- {_open(template, repr('assistant'))} }}}}",
        f"{{%- if {thinks} %}}{{{{- {thought} }}}}{{%- endif %}}" if thinks else "",
        f"{{{{- {_text(template, 'assistant', text)} }}}}",
        _calls(template),
        f"{{{{- {_close(template, 'assistant')} }}}}",
    ]
    if template.prompt == "nothing after results":
        lines[0] = f"{{%- if not ns.open %}}{lines[0]}{{%- endif %}}{{%- set ns.open = false %}}"
    if template.results == "name by id":
        lines.append(
            "{%- for c in m.tool_calls or [] %}"
            "{%- set ns.names = dict(ns.names, **{c.id or '': c.function.name}) %}{%- endfor %}"
        )
    return "".join(lines)


_JSON: Final = "(c.function.arguments | tojson)"
_ONE_CALL: Final[dict[Calls, str]] = {
    "hermes": "'\\n<tool_call>\\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' + JSON + '}\\n</tool_call>'",
    "list": (
        "('[TOOL_CALLS][' if loop.first else ', ') + '{\"name\": \"' + c.function.name + '\", \"arguments\": '"
        " + JSON + '}' + (']' if loop.last else '')"
    ),
    "tokens": "'<|call|>' + c.function.name + '<|args|>' + JSON + '<|call_end|>'",
    "python": "('[' if loop.first else ', ') + c.function.name + '(**' + JSON + ')' + (']' if loop.last else '')",
    "numbered": "'<|call|>' + (ns.calls | string) + ' ' + c.function.name + '<|args|>' + JSON + '<|call_end|>'",
    "with ids": "'<|call|>' + (c.id or 'none') + ' ' + c.function.name + '<|args|>' + JSON + '<|call_end|>'",
}


def _calls(template: Traits) -> str:
    """What an assistant's calls become."""
    if template.calls == "left out":
        return ""
    if template.calls == "elements":
        body = (
            "{{- '<call><function=' + c.function.name + '>' }}"
            "{%- for k, v in c.function.arguments.items() %}"
            "{{- '<parameter=' + k + '>' + (v if v is string else v | tojson) + '</parameter>' }}{%- endfor %}"
            "{{- '</function></call>' }}"
        )
    else:
        body = f"{{{{- {_ONE_CALL[template.calls].replace('JSON', _JSON)} }}}}"
    counts = "{%- set ns.calls = ns.calls + 1 %}"
    return f"{{%- for c in m.tool_calls or [] %}}{body}{counts}{{%- endfor %}}"


def _result(template: Traits) -> str:
    """What a tool's answer becomes."""
    text = _own_text(template, "m")
    opened, closed = _open(template, "'tool'"), _close(template, "tool")
    user_opened, user_closed = _open(template, "'user'"), _close(template, "user")
    first = "(loop.first or loop.previtem.role != 'tool')"
    last = "(loop.last or loop.nextitem.role != 'tool')"
    marked = f"'<result>' + {text} + '</result>'"
    told = {
        "turn": f"{opened} + {text} + {closed}",
        "user turn": f"{user_opened} + {marked} + {user_closed}",
        "merged": f"({user_opened} if {first} else '\\n') + {marked} + ({user_closed} if {last} else '')",
        "block": f"('<results>' if {first} else '') + {marked} + ('</results>' if {last} else '')",
        "by name": f"{opened} + (m.name or 'unknown') + ': ' + {text} + {closed}",
        "by id": f"{opened} + (m.tool_call_id or 'unknown') + ': ' + {text} + {closed}",
        "name by id": f"{opened} + ns.names.get(m.tool_call_id, 'unknown') + ': ' + {text} + {closed}",
        "by position": f"{opened} + (loop.index0 | string) + ': ' + {text} + {closed}",
        "numbered": f"{opened} + (ns.results | string) + ': ' + {text} + {closed}",
        "rejected": "raise_exception('No tool role')",
        "left out": "''",
    }[template.results]
    if template.tools == "change results":
        told = f"({told} if tools else {text})"
    return f"{{%- set ns.open = true %}}{{{{- {told} }}}}{{%- set ns.results = ns.results + 1 %}}"


# -- the generation prompt ---------------------------------------------------------------------------


def _prompt(template: Traits) -> str:
    """What makes the model speak."""
    header = _open(template, "'assistant'")
    if template.state == "messages counted":
        header += " + '(' + (messages | length | string) + ') '"
    header += {
        "opens a thought": " + '<think>\\n'",
        "closes a thought": " + '<think>\\n\\n</think>\\n\\n'",
        "by argument": (
            " + ('<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking else '<think>\\n')"
        ),
    }.get(template.prompt, "")
    asked = {
        "unasked": "messages and messages[-1].role != 'assistant'",
        "nothing after results": "add_generation_prompt and not ns.open",
    }.get(template.prompt, "add_generation_prompt")
    return f"{{%- if {asked} %}}{{{{- {header} }}}}{{%- endif %}}"
