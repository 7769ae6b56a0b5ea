"""What a chat template does, found out by rendering small conversations once, when a tokenizer is loaded.

Nothing here goes by the name of a model family: each fact is read off renders. Source of the method: docs/tokens.md,
"The probe".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.codec import Codec
from chatenv_server.engine.forms import Forms
from chatenv_server.engine.probe_messages import (
    DEEPER_HEADS,
    HEAD_TEXT,
    LONGER_HEADS,
    PROBE_TOOL,
    SENTINEL,
    assistant,
    calling,
    tool_result,
    user,
)
from chatenv_server.engine.profile import Profile
from chatenv_server.engine.template import ChatTemplate, clock_at, variables_of

_PROBE_CLOCK = 1_700_000_000.0


def probe(template: ChatTemplate, codec: Codec, special_tokens: Mapping[str, str], stop_ids: Iterable[int]) -> Profile:
    """Find out what `template` does.

    Args:
        special_tokens: the tokenizer's, by the names that templates read.
        stop_ids: ids that end a generation by the tokenizer's own account.
    """
    return _Probe(template, codec, special_tokens).run(frozenset(stop_ids))


class _Probe:
    def __init__(self, template: ChatTemplate, codec: Codec, special_tokens: Mapping[str, str]) -> None:
        self._template = template
        self._codec = codec
        self._variables = variables_of(special_tokens, clock_unix_seconds=_PROBE_CLOCK)
        self._forms = Forms()

    def run(self, stop_ids: frozenset[int]) -> Profile:
        self._forms = self._find_forms()
        generation_prompt = self._generation_prompt()
        closers = self._closers(generation_prompt)
        last_closers = self._control_tokens_in(self._after([user(), assistant(SENTINEL)], prompt=False) or "")
        stops = stop_ids | self._ids([*closers, *last_closers, *self._turn_ends(generation_prompt)])
        needs_skeleton = self._needs_skeleton()
        return Profile(
            forms=self._forms,
            closers=closers,
            last_closers=last_closers,
            stop_ids=stops,
            role_closes=self._role_closes(),
            needs_system=self._needs_system(),
            needs_tools=self._needs_tools(),
            needs_clock=self._needs_clock(),
            needs_skeleton=needs_skeleton,
            needs_call_ids=self._needs_call_ids(),
            rounds_are_alike=needs_skeleton and self._rounds_are_alike(),
            forgets=self._forgets(),
            forgets_late=self._rewrites([user(), {**assistant("x"), "reasoning_content": "Zq7xR1"}, user(SENTINEL)]),
            takes=self._takes(),
        )

    # -- rendering --------------------------------------------------------------------------------

    def _render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, **variables: Any) -> str | None:
        """The rendered text; None where the template rejects the messages."""
        try:
            prepared = [self._forms.apply(message) for message in messages]
            return self._template.render(prepared, {**self._variables, **variables}, add_generation_prompt=prompt)
        except TemplateRejectedError:
            return None

    def _after(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, **variables: Any) -> str | None:
        """What the template writes after the last sentinel; None where it rejects or hides it."""
        text = self._render(messages, prompt=prompt, **variables)
        if text is None or SENTINEL not in text:
            return None
        return text[text.rindex(SENTINEL) + len(SENTINEL) :]

    def _shows(self, messages: Sequence[Mapping[str, Any]], forms: Forms, *, damage: str) -> bool:
        """Whether the sentinel comes through in messages of these forms, and nothing that tells of damage."""
        self._forms, before = forms, self._forms
        text = self._render(messages)
        self._forms = before
        return text is not None and SENTINEL in text and damage not in text

    # -- the form of messages ---------------------------------------------------------------------

    def _find_forms(self) -> Forms:
        forms = Forms()
        examples: dict[str, list[dict[str, Any]]] = {
            "user": [user(SENTINEL)],
            "assistant": [user(), assistant(SENTINEL), user()],
            "system": [{"role": "system", "content": SENTINEL}, user()],
            "tool": [user(), calling({"key": "x"}), tool_result(SENTINEL)],
        }
        listed = "'text'"  # Python wrote the part as it is
        for role, messages in examples.items():
            parts = replace(forms, parts_roles=forms.parts_roles | {role})
            if not self._shows(messages, forms, damage=listed) and self._shows(messages, parts, damage=listed):
                forms = parts
            if role == "assistant":
                forms = self._find_arguments_form(forms)
        return forms

    def _find_arguments_form(self, forms: Forms) -> Forms:
        as_text = replace(forms, arguments_as_text=True)
        messages = [user(), calling({"key": SENTINEL}), tool_result("x")]
        escaped_twice = '\\"' + SENTINEL
        if self._shows(messages, forms, damage=escaped_twice):
            return forms
        return as_text if self._shows(messages, as_text, damage=escaped_twice) else forms

    # -- how turns begin and end ------------------------------------------------------------------

    def _generation_prompt(self) -> str:
        with_prompt, without = self._render([user()]), self._render([user()], prompt=False)
        if with_prompt is None or without is None:
            return ""
        return with_prompt[len(self._codec.common_prefix(with_prompt, without)) :]

    def _closers(self, generation_prompt: str) -> tuple[str, ...]:
        """The control token that follows an assistant's text, no matter who speaks next, unless it opens a turn."""
        tails: Sequence[list[dict[str, Any]]]
        for tails in ([], [user()]), ([user()], [{"role": "system", "content": HEAD_TEXT}]):
            found = [self._control_tokens_in(self._after([user(), assistant(SENTINEL), *tail]) or "") for tail in tails]
            firsts = {tokens[:1] for tokens in found}
            # Where the last turn of all is closed in a way of its own, a close is told by the header after it.
            if len(firsts) == 1 and (not tails[0] or all(len(tokens) > 1 for tokens in found)):
                closer = "".join(firsts.pop())
                return (closer,) if closer and closer not in generation_prompt else ()
        return ()

    def _turn_ends(self, generation_prompt: str) -> list[str]:
        """Special tokens at which a model may stop: after text, and after a call."""
        text = self._after([user(), assistant(SENTINEL), user()]) or ""
        call = self._after([user(), calling({"key": SENTINEL})], prompt=False) or ""
        result = (self._after([user(), calling({"key": SENTINEL}), tool_result(HEAD_TEXT)]) or "").removeprefix(call)
        closing = self._special_tokens_in(call)
        ends = [*self._special_tokens_in(text)[:1], *(closing[-1:] or self._special_tokens_in(result)[:1])]
        return [token for token in ends if token not in generation_prompt]

    def _control_tokens_in(self, text: str) -> tuple[str, ...]:
        """Added tokens in `text`, in order, before the constant user text."""
        ids = self._codec.encode(text.split(HEAD_TEXT, maxsplit=1)[0])
        return tuple(
            self._codec.added.texts[i]
            for i in ids
            if i in self._codec.added and not self._codec.added.texts[i].isspace()
        )

    def _special_tokens_in(self, text: str) -> list[str]:
        return [
            token
            for token in self._control_tokens_in(text)
            if self._codec.id_of(token) in self._codec.added.special_ids
        ]

    def _ids(self, texts: Iterable[str]) -> frozenset[int]:
        ids = (self._codec.id_of(text) for text in texts)
        return frozenset(token_id for token_id in ids if token_id is not None)

    def _role_closes(self) -> dict[str, str]:
        examples = {
            "system": [{"role": "system", "content": SENTINEL}],
            "user": [user(SENTINEL)],
            "assistant": [user(), assistant(SENTINEL)],
            "tool": [user(), calling({"key": "x"}), tool_result(SENTINEL)],
        }
        return {role: self._after(messages, prompt=False) or "" for role, messages in examples.items()}

    # -- what a tail depends on -------------------------------------------------------------------

    def _tails(self, head: Sequence[Mapping[str, Any]], **variables: Any) -> list[str | None]:
        """What stands after an assistant turn, for each kind of tail."""
        said, called = assistant(SENTINEL), calling({"key": SENTINEL})
        return [
            self._after([*head, said, user()], **variables),
            self._after([*head, called, tool_result("x")], **variables),
            self._after([*head, called, tool_result("x"), tool_result("y")], **variables),
            self._after([*head, said, user(), assistant("x"), user()], **variables),
        ]

    def _needs_system(self) -> bool:
        texts = ("Zq7xS1", "Zq7xS2", *self._template.tested_texts)
        heads = [[{"role": "system", "content": text}, user()] for text in texts]
        return len({tuple(self._tails(head)) for head in heads}) > 1 or _differ(
            self._tails([user()]), self._tails(heads[0])
        )

    def _needs_tools(self) -> bool:
        return "tools" in self._template.variables and _differ(
            self._tails([user()]), self._tails([user()], tools=[PROBE_TOOL])
        )

    def _needs_clock(self) -> bool:
        other = clock_at(_PROBE_CLOCK / 2)  # another year, month, day, hour and minute
        return "strftime_now" in self._template.variables and _differ(
            self._tails([user()]), self._tails([user()], strftime_now=other)
        )

    def _needs_skeleton(self) -> bool:
        shallow, shallow_lost = self._tails([user()]), self._lost([user()])
        telling = [[user(text)] for text in self._template.tested_texts]
        return any(_differ(shallow, self._tails(head)) for head in (*DEEPER_HEADS, *telling)) or any(
            _differ(shallow_lost, self._lost(head)) for head in DEEPER_HEADS
        )

    def _rounds_are_alike(self) -> bool:
        pairs = [
            (self._tails(few) + self._lost(few), self._tails(many) + self._lost(many)) for few, many in LONGER_HEADS
        ]
        return not any(_differ(few, many) for few, many in pairs)

    def _lost(self, head: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """What stands at the end of `head` until an assistant speaks, for answers and calls."""
        asked, unasked = self._render(head), self._render(head, prompt=False)
        if asked is None or unasked is None:
            return [None, None]
        written = self._codec.common_prefix(asked, unasked)
        spoken = [self._render([*head, turn], prompt=False) for turn in (assistant("x"), calling({"key": "x"}))]
        return [text and written[len(self._codec.common_prefix(written, text)) :] for text in spoken]

    def _needs_call_ids(self) -> bool:
        with_id, without = calling({"key": "x"}), calling({"key": "x"})
        del without["tool_calls"][0]["id"]
        return self._render([user(), with_id]) is not None and self._render([user(), without]) is None

    # -- forgetting -------------------------------------------------------------------------------

    def _forgets(self) -> bool:
        """Whether a turn that waited for a tool is written differently once a user has spoken again."""
        thinking = [
            {**calling({"key": "x"}), "reasoning_content": "Zq7xR1"},
            {**calling({"key": "x"}), "content": "<think>\nZq7xR1\n</think>\n\nx"},
            {**calling({"key": "x"}), "content": "x"},
        ]
        waiting = [[user(), message, tool_result(SENTINEL)] for message in thinking]
        answering = [[user(), {**assistant(SENTINEL), "reasoning_content": "Zq7xR1"}]]
        return any(self._rewrites(messages) for messages in waiting + answering)

    def _rewrites(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether what stands before the sentinel is written differently once further turns have come."""
        now = self._render(messages, prompt=False)
        later = self._render([*messages, assistant("x"), user()], prompt=False)
        return bool(now and later and SENTINEL in now and not later.startswith(now[: now.index(SENTINEL)]))

    # -- features ---------------------------------------------------------------------------------

    def _takes(self) -> frozenset[str]:
        examples: dict[str, Sequence[Mapping[str, Any]]] = {
            "system": [{"role": "system", "content": SENTINEL}, user()],
            "tool": [user(), calling({"key": "x"}), tool_result(SENTINEL)],
            "tool_calls": [user(), calling({"key": SENTINEL}), tool_result("x")],
            "reasoning": [user(), {**assistant("x"), "reasoning_content": SENTINEL}],
            "two_users": [user(), user(SENTINEL)],
            "system_later": [user(), assistant("x"), {"role": "system", "content": SENTINEL}, user()],
        }
        takes = {name for name, messages in examples.items() if self._after(messages) is not None}
        shown = self._render([user()], tools=[PROBE_TOOL])
        return frozenset(takes | ({"tools"} if shown is not None and "lookup" in shown else set()))


def _differ(left: Sequence[str | None], right: Sequence[str | None]) -> bool:
    """Whether two lists of tails differ where both heads were accepted."""
    return any(a != b for a, b in zip(left, right, strict=True) if a is not None and b is not None)
