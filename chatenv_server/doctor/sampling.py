"""What a model that has learnt a template would sample: derived from what the template itself writes for a turn.

The turn is rendered as the last of its conversation, and again with what follows it. It begins where the generation
prompt ends, and ends through the token at which a model stops, or where its scenario cuts it off.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chatenv_client.models import Message
from chatenv_server.doctor.reference import NotTakenError, Reference
from chatenv_server.doctor.scenarios import Ending, Round, calling
from chatenv_server.engine.codec import shared_prefix_length

_END_MARK: Final = "Zq7xE5nD"
_LONGEST_END: Final = 40
"""How much of what comes before a header tells which header it is."""
_CALLING: Final = calling({"city": "Bern"}, 0)
"""A turn that calls a tool: some templates show a thought in no other."""
_WORD: Final = re.compile(r"\w+")
_OPEN_TAG: Final = re.compile(r"(?P<bracket>[<\[])(?P<name>\w+)[>\]]\s*\Z")


@dataclass(frozen=True)
class SampledText:
    """A canonical sampled turn."""

    body: str
    """What the template writes between the generation prompt and the stop token."""
    stop: str
    """What the turn ends with, through the stop token; empty where nothing but a text follows the turn."""
    natural: bool
    """Whether the template writes the turn after its own generation prompt."""

    @property
    def text(self) -> str:
        """All of it."""
        return self.body + self.stop


def ended(turn: Round, said: SampledText, stops: Sequence[str]) -> tuple[Message, SampledText]:
    """The message and text of a turn that ends as its round says, which may not be as the template would close it.

    Args:
        turn: the round.
        said: the turn as the template closes it.
        stops: texts of all stop tokens.

    Raises:
        NotTakenError: this template or tokenizer has no such end.
    """
    content = str(turn.sampled.get("content", ""))
    if turn.ending is Ending.CUT_OFF:
        before, found, _ = said.body.rpartition(content)
        if not found:
            raise NotTakenError("the template writes a sampled turn in other words, so where to cut is unknown")
        half = content[: len(content) // 2].rstrip()
        return {**turn.sampled, "content": half}, SampledText(before + half, "", said.natural)
    if turn.ending is Ending.OTHER_STOP:
        others = [text for text in stops if text not in said.stop]
        if not others or not said.stop:
            raise NotTakenError("this tokenizer and template have only one stop token")
        return turn.sampled, SampledText(said.body, others[0], said.natural)
    return turn.sampled, said


def sampled_ids(reference: Reference, stream: Iterable[int], text: str) -> list[int]:
    """What the model samples: the tokens of the text, encoded after the end of the stream that it sees."""
    prompt = reference.decode(stream)
    specials = reference.specials_in(prompt)
    end = prompt[specials[-1].start() :] if specials else prompt
    anchor, whole = reference.encode(end), reference.encode(end + text)
    if whole[: len(anchor)] == anchor:
        return whole[len(anchor) :]
    # The text would merge with the prompt, which a sampled token cannot.
    newline, after = reference.encode("\n"), reference.encode("\n" + text)
    return after[len(newline) :] if after[: len(newline)] == newline else reference.encode(text)


def shown(message: Message, text: str) -> Message:
    """As much of a message as `text` shows: what the template leaves out of a turn, no model samples."""
    held = dict(message)
    for key in ("content", "reasoning_content"):
        # The last word is enough: a template may write the rest elsewhere.
        if str(held.get(key, "")).strip() and str(held[key]).split()[-1] not in text:
            held[key] = ""
    if "tool_calls" in message:
        held["tool_calls"] = [
            call for call in message["tool_calls"] if _last_word(call["function"]["arguments"]) in text
        ]
    return held  # type: ignore[return-value]


def _last_word(arguments: Any) -> str:
    """The last word of the last argument that is a text: no form of calls escapes it."""
    texts = [value for value in arguments.values() if isinstance(value, str)]
    return str(_WORD.findall(texts[-1])[-1])


def sampled_text(
    reference: Reference,
    history: Sequence[Message],
    message: Message,
    following: Sequence[Message],
    *,
    tools: bool,
    prompt: bool,
) -> SampledText:
    """The text that a model samples for `message`.

    Args:
        history: all messages before it.
        following: the messages that come next, for templates in which the next role's token ends a turn.
        prompt: whether it is sampled after a generation prompt.

    Raises:
        NotTakenError: the template rejects the conversation.
    """
    asked = reference.text(history, tools=tools, prompt=prompt)
    alone = reference.text([*history, message], tools=tools, prompt=False)
    natural = alone.startswith(asked)
    if not natural and message.get("reasoning_content"):
        silent: Message = {key: value for key, value in message.items() if key != "reasoning_content"}  # type: ignore[assignment]
        if reference.text([*history, silent], tools=tools, prompt=False).startswith(asked):
            # The prompt leaves the thought out, or has closed one already: a model that goes on from there has none.
            return sampled_text(reference, history, silent, following, tools=tools, prompt=prompt)
    # A token that opens turns ends none, for templates that write the generation prompt unasked.
    with_prompt, without = (reference.text(history, tools=tools, prompt=asks) for asks in (True, False))
    asking = with_prompt[len(_shared_start(reference, with_prompt, without)) :]
    shared = asked if natural else _shared_start(reference, asked, alone)
    if len(shared) + len(asking) < len(asked):
        shared = _through_same_end(asked, alone, asking, shared) or shared  # the history is another one by now
    opened = ""
    if not natural:
        prompted, written = asked[len(shared) :], alone[len(shared) :]
        opened = _end_of_tagged_thought(message, prompted, written)
        opened = opened or _end_of_marked_thought(reference, history, message, prompted, tools=tools)
    said = alone[len(shared) :]
    after = _after_last_word(reference, [*history, message], tools)
    if after is None or not said.endswith(after):
        ends = reference.specials_in(said)
        return SampledText(opened + said[: ends[-1].end() if ends else len(said)], "", natural)
    later = _after_last_word(reference, [*history, message], tools, following, prompt=prompt) or ""
    later = later.partition(str(following[0].get("content", "")).strip() or "\0")[0]
    stop = _stop(reference, after, later, without=asking or _unasked_prompt(reference, with_prompt, history))
    if not stop and message.get("tool_calls"):
        # Nothing tells where the turn ends but what follows a text that is none of a call's, or the next header.
        plain: Message = {"role": message["role"], "content": message.get("content") or "x"}
        close = _after_last_word(reference, [*history, plain], tools)
        header = next((after[found.start() :] for found in reference.specials_in(after)), after)
        after = close if close is not None and after.endswith(close) else header
    return SampledText(opened + said[: len(said) - len(after)], stop, natural)


def _unasked_prompt(reference: Reference, text: str, history: Sequence[Message]) -> str:
    """What makes the model speak in a template that writes it unasked; empty where that cannot be told.

    It begins with the token that the conversation begins with, after all that was said.
    """
    begins = [found[0] for found in reference.specials_in(text) if found[0] != reference.begin_of_text]
    said = str(history[-1].get("content") or "") if history else ""
    if not said or said not in text or not begins:
        return ""
    after = text.rpartition(said)[2]
    return after[after.index(begins[0]) :] if begins[0] in after else ""


def _through_same_end(asked: str, alone: str, header: str, shared: str) -> str:
    """The conversation up to where it reads as the prompt's end does; empty where that is nowhere, or in two places.

    Nothing that ends in what the two share is that place: the turn would hold the messages before it.
    """
    for length in range(len(header) + _LONGEST_END, len(header), -1):
        end = asked[-length:]
        if alone.count(end) == 1 and alone.index(end) + length > len(shared):
            return alone[: alone.index(end) + length]
    return ""


def _shared_start(reference: Reference, left: str, right: str) -> str:
    """The longest common beginning that cuts neither a special token nor a tag."""
    length = shared_prefix_length(left, right)
    for found in reference.specials_in(left):
        if found.start() < length < found.end():
            length = found.start()
    opened = max(left.rfind("<", 0, length), left.rfind("[", 0, length))
    if opened >= 0 and re.fullmatch(r"[<\[]/?\w*", left[opened:length]):
        length = opened
    return left[:length]


def _end_of_tagged_thought(message: Message, asked: str, written: str) -> str:
    """What the model says first after a prompt that opens a thought which the template does not write in history.

    Empty where no tag opens one.
    """
    tag = _OPEN_TAG.search(asked)
    if tag is None:
        return ""
    closing = f"{tag['bracket']}/{tag['name']}{'>' if tag['bracket'] == '<' else ']'}"
    if closing in written:
        return ""
    thought = message.get("reasoning_content")
    return (f"{thought}\n" if thought else "") + closing + "\n\n"


def _end_of_marked_thought(
    reference: Reference, history: Sequence[Message], message: Message, asked: str, *, tools: bool
) -> str:
    """The same where the template itself shows how a thought ends that the prompt opens: in this turn or in a call."""
    for turn in (message, _CALLING):
        thinking: Message = {**turn, "reasoning_content": _END_MARK}
        try:
            bare, whole = (reference.text([*history, one], tools=tools, prompt=False) for one in (turn, thinking))
        except NotTakenError:
            continue
        shared = _shared_start(reference, whole, bare)
        opener, shown, rest = whole[len(shared) :].partition(_END_MARK)
        said = bare[len(shared) :]
        if shown and opener.strip() and asked.rstrip().endswith(opener.strip()) and rest.endswith(said):
            return str(message.get("reasoning_content", "")) + rest[: len(rest) - len(said)]
    return ""


def _after_last_word(
    reference: Reference,
    messages: Sequence[Message],
    tools: bool,
    following: Sequence[Message] = (),
    *,
    prompt: bool = False,
) -> str | None:
    """What the template writes after the last word of the last message."""
    for marked in _marked(messages[-1]):
        try:
            text = reference.text([*messages[:-1], marked, *following], tools=tools, prompt=prompt)
        except NotTakenError:
            continue
        if _END_MARK in text:
            return text[text.rindex(_END_MARK) + len(_END_MARK) :]
    return None


def _marked(message: Message) -> list[Message]:
    """The message with a mark at the end of its last call's last text, and of its content.

    None of a call without a text: what follows its content is the call.
    """
    content: Message = {**message, "content": f"{message.get('content') or ''}{_END_MARK}"}
    if not message.get("tool_calls"):
        return [content]
    *calls, last = message["tool_calls"]
    arguments = last["function"]["arguments"]
    if not isinstance(arguments, str) and not any(isinstance(value, str) for value in arguments.values()):
        return []
    arguments = _with_mark(arguments)
    called: Message = {
        **message,
        "tool_calls": [*calls, {**last, "function": {**last["function"], "arguments": arguments}}],
    }
    return [called, content]


def _with_mark(arguments: Any) -> Any:
    """Arguments whose last text ends in the mark."""
    if isinstance(arguments, str):
        return json.dumps(_with_mark(json.loads(arguments)), ensure_ascii=False)
    last = [key for key, value in arguments.items() if isinstance(value, str)][-1]
    return {**arguments, last: arguments[last] + _END_MARK}


def _stop(reference: Reference, after: str, later: str, *, without: str) -> str:
    """What a turn ends with, through its stop token.

    That is the last special token that follows the turn whichever role comes next, but none after the tokenizer's own
    end of a turn; else the one that follows the last turn of a conversation; else the one that the next turn begins
    with. None comes after a header that is `without`.
    """

    def before_header(text: str) -> list[re.Match[str]]:
        return [*itertools.takewhile(lambda found: found[0] not in without, reference.specials_in(text))]

    shared = _shared_start(reference, after, later)
    always = before_header(shared)
    if always:
        ends = [found for found in always if found[0] == reference.end_of_turn]
        return shared[: (ends or always[-1:])[0].end()]
    return next((text[: ends[0].end()] for text in (after, later) if (ends := before_header(text))), "")
