"""Choosing the parser for a chat template by what it recovers from renders, never by a family's name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatenv_server.engine.parsing.calls import Notation, Verbatim
from chatenv_server.engine.parsing.deepseek import DEEPSEEK
from chatenv_server.engine.parsing.gemma import FUNCTION_GEMMA, GEMMA
from chatenv_server.engine.parsing.gpt_oss import GptOssParser
from chatenv_server.engine.parsing.json_calls import COMMAND, HERMES, NEMOTRON_NANO2, PHI4
from chatenv_server.engine.parsing.kimi import KIMI
from chatenv_server.engine.parsing.layout import learn_layout, shared_start
from chatenv_server.engine.parsing.layout_parser import LayoutParser
from chatenv_server.engine.parsing.lfm2 import LFM2
from chatenv_server.engine.parsing.llama3_json import Llama3Json
from chatenv_server.engine.parsing.mistral import MISTRAL
from chatenv_server.engine.parsing.turn import ProbeRender, TurnParser
from chatenv_server.engine.parsing.xml_calls import GLM, QWEN3_XML, QWEN3_XML_PYTHON

NOTATIONS: tuple[Notation, ...] = (
    Verbatim(),
    HERMES,
    QWEN3_XML,
    QWEN3_XML_PYTHON,
    GLM,
    KIMI,
    DEEPSEEK,
    MISTRAL,
    GEMMA,
    FUNCTION_GEMMA,
    LFM2,
    PHI4,
    COMMAND,
    NEMOTRON_NANO2,
    Llama3Json(),
)
"""Tried in this order; of those that recover equally much, the first is taken."""


def choose_parser(renders: Sequence[ProbeRender], generation_prompt: str = "") -> TurnParser:
    """The parser that recovers the messages of `renders` best; `verbatim` for calls if none recovers any.

    The texts and `generation_prompt` must begin at the same place: all after the generation prompt (which is
    empty then), or anywhere before it, the beginning of the whole render included. The turn is what follows
    their common beginning, so a generation prompt that opens a thought, or writes an empty one, is understood
    as the template means it. A text ends before what closes the turn.
    """
    start = _start_of_turns([generation_prompt, *(render.text for render in renders)])
    opening = generation_prompt[start:]
    turns = [replace(render, text=render.text[start:]) for render in renders]
    parsers = [LayoutParser(notation, learn_layout(turns, notation, opening)) for notation in NOTATIONS]
    candidates: list[LayoutParser | GptOssParser] = [*parsers, GptOssParser()]
    best = max(candidates, key=lambda parser: _recovered(parser, turns))
    return best.after(opening)


def _start_of_turns(texts: list[str]) -> int:
    shared = shared_start(texts)
    # Two different tags may begin alike; a tag is never cut in two.
    ends = [(shared.rfind(left), shared.rfind(right)) for left, right in ("<>", "[]")]
    return min((left for left, right in ends if left > right), default=len(shared))


def _recovered(parser: TurnParser, turns: Sequence[ProbeRender]) -> tuple[int, int]:
    """How many of the turns come back with their calls, and how many with everything."""
    parsed = [(parser.parse(turn.text), turn) for turn in turns]
    in_calls = [
        (one, turn)
        for one, turn in parsed
        if _functions(one.tool_calls) == _functions(turn.message.get("tool_calls") or ())
    ]
    in_all = [
        one
        for one, turn in in_calls
        if one.content == (turn.message.get("content") or "")
        and one.reasoning_content == turn.message.get("reasoning_content")
    ]
    return sum(bool(one.tool_calls) for one, _ in in_calls), len(in_all)


def _functions(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    functions = [call["function"] for call in calls]
    # As JSON, because in Python True equals 1.
    return [json.dumps([one["name"], _object(one["arguments"])], sort_keys=True) for one in functions]


def _object(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments
