"""What a chat template does whatever the episode, found out by rendering small conversations once, at load.

Nothing here goes by the name of a model family: each fact is read off renders. Source of the method: docs/tokens.md,
"The probe". What tails depend on is found out in `probe_tails.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Final

from chatenv_server.engine.codec import Codec, shared_prefix_length
from chatenv_server.engine.forms import Forms
from chatenv_server.engine.probe_messages import (
    HEAD_TEXT,
    PROBE_CLOCK,
    PROBE_TOOL,
    SENTINEL,
    assistant,
    calling,
    tool_result,
    user,
)
from chatenv_server.engine.probe_renders import ProbeRenders
from chatenv_server.engine.profile import Profile
from chatenv_server.engine.template import ChatTemplate, variables_of

_OTHER_CALL_ID: Final = "callZq7b2"


def probe(template: ChatTemplate, codec: Codec, special_tokens: Mapping[str, str], stop_ids: Iterable[int]) -> Profile:
    """Find out what `template` does.

    Args:
        special_tokens: the tokenizer's, by the names that templates read.
        stop_ids: ids that end a generation by the tokenizer's own account.
    """
    return _Probe(template, codec, special_tokens).run(frozenset(stop_ids))


class _Probe:
    def __init__(self, template: ChatTemplate, codec: Codec, special_tokens: Mapping[str, str]) -> None:
        self._codec = codec
        self._begin = special_tokens.get("bos_token", "")
        variables = variables_of(special_tokens, clock_unix_seconds=PROBE_CLOCK)
        bare = ProbeRenders(template, variables)
        # Some templates list the tools unasked, and fail where there are none; some insist on a system prompt.
        tooled = replace(bare, variables={**variables, "tools": [PROBE_TOOL]})
        ways = [replace(way, wants_system=wants) for wants in (False, True) for way in (bare, tooled)]
        self._renders = next(filter(_takes_any_user, ways), bare)

    def run(self, stop_ids: frozenset[int]) -> Profile:
        self._renders = replace(self._renders, forms=self._find_forms())
        self._opener = self._find_opener(stop_ids)
        generation_prompt = self._generation_prompt()
        closers = self._closers(generation_prompt)
        last_closers = self._control_tokens_in(self._close([user(), assistant(SENTINEL)]))
        return Profile(
            forms=self._renders.forms,
            closers=closers,
            call_closers=self._call_closers(generation_prompt),
            opener=self._opener,
            last_closers=last_closers,
            stop_ids=stop_ids | self._ids([*closers, *last_closers, *self._turn_ends(generation_prompt)]),
            role_closes=self._role_closes(closers),
            call_close=self._call_close(),
            needs_call_ids=self._needs_call_ids(),
            wants_system=self._renders.wants_system,
            takes=self._takes(),
        )

    # -- rendering --------------------------------------------------------------------------------

    def _render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True, **variables: Any) -> str | None:
        return self._renders.render(messages, prompt=prompt, **variables)

    def _after(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = True) -> str | None:
        return self._renders.after(messages, prompt=prompt)

    def _shows(self, messages: Sequence[Mapping[str, Any]], forms: Forms, *, damage: str) -> bool:
        """Whether the sentinel comes through in messages of these forms, and nothing that tells of damage."""
        text = replace(self._renders, forms=forms).render(messages)
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
        escaped_twice, as_python = '\\"' + SENTINEL, repr({"key": SENTINEL})
        if self._shows(messages, forms, damage=escaped_twice) and self._shows(messages, forms, damage=as_python):
            return forms
        return as_text if self._shows(messages, as_text, damage=escaped_twice) else forms

    # -- how turns begin and end ------------------------------------------------------------------

    def _find_opener(self, stop_ids: Iterable[int]) -> str:
        """The control token that conversations begin with, and so turns, too; empty where there is none."""
        tokens = self._control_tokens_in(self._render([user()], prompt=False) or "")
        ends = {self._begin, *(self._codec.added.text_of(stop_id) for stop_id in stop_ids)}
        return next((token for token in tokens if token not in ends), "")

    def _close(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """What follows the sentinel in a conversation's last message, without a prompt that nobody asked for."""
        text = self._after(messages, prompt=False) or ""
        return text.partition(self._opener)[0] if self._opener else text

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

    def _call_closers(self, generation_prompt: str) -> tuple[str, ...]:
        """The control token that follows a call at the end of its turn, where a result's own header follows that."""
        call = self._after([user(), calling({"key": SENTINEL})], prompt=False) or ""
        whole = self._after([user(), calling({"key": SENTINEL}), tool_result(HEAD_TEXT)]) or ""
        header = whole.removeprefix(call).lstrip()
        closer = "".join(self._special_tokens_in(call)[-1:])
        opener = "".join(self._control_tokens_in(header)[:1])
        closes = whole.startswith(call) and opener and header.startswith(opener)
        return (closer,) if closer and closes and closer not in generation_prompt else ()

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

    def _role_closes(self, closers: Sequence[str]) -> dict[str, str]:
        examples = {
            "system": [{"role": "system", "content": SENTINEL}],
            "user": [user(SENTINEL)],
            "assistant": [user(), assistant(SENTINEL)],
            "tool": [user(), calling({"key": "x"}), tool_result(SENTINEL)],
        }
        closes = {role: self._close(messages) for role, messages in examples.items()}
        for closer in closers:
            if closer not in closes["assistant"]:  # some templates close a turn only once the next one follows
                before, found, _ = (self._after([*examples["assistant"], user()]) or "").partition(closer)
                closes["assistant"] = before + found
        return closes

    def _call_close(self) -> str:
        """What messages of calls end in alike: with several kinds of arguments, other ids, whoever speaks next."""
        bare = calling({}, ids=(_OTHER_CALL_ID,))
        bare["tool_calls"][0]["function"]["name"] = SENTINEL
        examples = (
            (calling({"key": SENTINEL}), [user(), tool_result(HEAD_TEXT)]),
            (
                calling({"key": SENTINEL, "more": 1}, ids=(_OTHER_CALL_ID,)),
                [user(), tool_result(HEAD_TEXT, _OTHER_CALL_ID)],
            ),
            (bare, [user()]),
        )
        closes = [self._close_before(call, following) for call, following in examples]
        return reduce(_shared_end, filter(None, closes)) if any(closes) else ""

    def _close_before(self, call: Mapping[str, Any], following: Sequence[Mapping[str, Any]]) -> str:
        """What follows the sentinel in a message of calls, whether it is the last or one of these follows."""
        close = self._close([user(), call])
        for message in following:
            if (text := self._after([user(), call, message])) is not None:
                close = self._codec.common_prefix(text, close)
        return close

    # -- features ---------------------------------------------------------------------------------

    def _needs_call_ids(self) -> bool:
        with_id, without = calling({"key": "x"}), calling({"key": "x"})
        del without["tool_calls"][0]["id"]
        return self._render([user(), with_id]) is not None and self._render([user(), without]) is None

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


def _shared_end(left: str, right: str) -> str:
    length = shared_prefix_length(left[::-1], right[::-1])
    return left[len(left) - length :]


def _takes_any_user(renders: ProbeRenders) -> bool:
    forms = (Forms(), *(Forms(parts_roles=frozenset(roles)) for roles in (["user"], ["user", "system"])))
    return any(replace(renders, forms=form).render([user()]) is not None for form in forms)
