"""The conversations that the doctor plays: what every trainer's rollouts are made of, and what breaks them.

Plain data: `sampling` derives what is sampled of it, `examine` plays it and checks every step.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from chatenv_client.models import Message, ToolCall

CONTROL_TEXT: Final = "\ue0c7"
"""Stands in a message for the tokenizer's own control tokens, spelt as text."""


class Ending(enum.Enum):
    """How a sampled turn ends."""

    STOP = "stop"
    """With the token that the template closes the turn with."""
    CUT_OFF = "cut_off"
    """In the middle of its content, as when the token limit is reached."""
    OTHER_STOP = "other_stop"
    """With another stop token than the template's."""


@dataclass(frozen=True)
class Round:
    """A turn that the model samples, and the messages that are appended together after it."""

    sampled: Message
    """What is sampled is what the template would have written for it."""
    given: tuple[Message, ...]
    ending: Ending = Ending.STOP


@dataclass(frozen=True)
class Scenario:
    """One conversation: an opening, then rounds."""

    name: str
    opening: tuple[Message, ...]
    rounds: tuple[Round, ...]
    tools: bool = False
    """Whether the template is handed the tools."""
    escapes: bool = False
    """Whether message texts hold control tokens, which have to stay text."""
    add_generation_prompt: bool = True
    answered: bool = False
    """Whether a task gives the messages after each turn, in the step of that turn; else the caller, in the next one."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Template arguments; the scenario is played only where the template reads one of them."""


TOOLS: Final[tuple[dict[str, Any], ...]] = (
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Says what the weather will be.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name of the city."},
                    "days": {"type": "integer", "description": "How many days ahead."},
                },
                "required": ["city"],
            },
        },
    },
)


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _says(text: str, *cities: str, thought: str = "", number: int = 1) -> Message:
    """An assistant's message, with a call for each city."""
    message: Message = {"role": "assistant", "content": text}
    if thought:
        message["reasoning_content"] = thought
    if cities:
        message["tool_calls"] = [_call(city, number + index) for index, city in enumerate(cities)]
    return message


def _call(city: str, number: int) -> ToolCall:
    return _call_of({"city": city, "days": 3}, number)


def _call_of(arguments: Mapping[str, Any], number: int) -> ToolCall:
    function = {"name": "get_weather", "arguments": dict(arguments)}
    return {"id": _call_id(number), "type": "function", "function": function}  # type: ignore[typeddict-item]


def _call_id(number: int) -> str:
    return f"callid{number:03d}"  # nine letters and digits: what the strictest template wants


def tool_result(text: str, number: int = 1) -> Message:
    """What the tool says to the call of that number."""
    return {"role": "tool", "content": text, "tool_call_id": _call_id(number), "name": "get_weather"}


def calling(arguments: Mapping[str, Any], number: int = 1) -> Message:
    """An assistant's message that is one call."""
    return {"role": "assistant", "content": "", "tool_calls": [_call_of(arguments, number)]}


def _with_text_arguments(message: Message) -> Message:
    """The same calls, their arguments as JSON text."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}  # type: ignore[typeddict-item]


def _without(message: Message, key: str) -> Message:
    return {name: value for name, value in message.items() if name != key}  # type: ignore[return-value]


def _round(sampled: Message, *given: Message, ending: Ending = Ending.STOP) -> Round:
    return Round(sampled, given, ending)


def _scenario(name: str, opening: tuple[Message, ...], *rounds: Round, **options: Any) -> Scenario:
    return Scenario(name, opening, rounds, **options)


SCENARIOS: Final[tuple[Scenario, ...]] = (
    _scenario(
        "plain chat",
        (_user("What is the capital of France, please?"),),
        _round(_says("It is Paris, of course."), _user("And what about Germany then?")),
        _round(_says("Berlin is."), _user("Thank you so much!")),
        _round(_says("Welcome."), _user("Good bye now.")),
    ),
    _scenario(
        "system prompt",
        (_system("You are terse and kind."), _user("Name three primary colours.")),
        _round(_says("Red, blue, yellow."), _user("Name another one.")),
        _round(_says("Green"), _user("Last question here.")),
    ),
    _scenario(
        "unicode and code",
        (_user("Schreib: äöü 你好 🙂\n```py\nx=1\n```"),),
        _round(_says("Код:\n```python\nprint('π')\n```"), _user("Ещё раз 🙂🙂  with  spaces")),
        _round(_says("def f():\n\treturn {}"), _user("more {{ braces }} and <b>tags</b>")),
    ),
    _scenario(
        "thinking in content",
        (_user("How many is 2+2?"),),
        _round(_says("<think>\nTwo and two.\n</think>\n\n4 is it."), _user("Sure about that?")),
        _round(_says("<think>\nhm\n</think>\n\nYes."), _user("Great work.")),
    ),
    _scenario(
        "reasoning_content",
        (_user("How many is 2+2?"),),
        _round(_says("4 is it.", thought="Two and two make four."), _user("Sure about that?")),
        _round(_says("Yes.", thought="Check it again."), _user("Great work.")),
    ),
    _scenario(
        "tools over several turns",
        (_user("What will the weather be in Paris?"),),
        _round(_says("", "Paris"), tool_result('{"temp": 21}')),
        _round(_says("It is 21 degrees."), _user("And in Rome?")),
        _round(_says("", "Rome", number=2), tool_result("sunny and warm", 2)),
        _round(_says("", "Milan", number=3), tool_result("rainy", 3)),
        _round(_says("Sunny in one, rainy in the other."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "parallel tools",
        (_user("What will the weather be in Paris and Rome?"),),
        _round(_says("", "Paris", "Rome"), tool_result("cold"), tool_result("hot", 2)),
        _round(_says("Cold; hot."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "tools with text",
        (_user("What will the weather be in Paris?"),),
        _round(_says("Let me look.", "Paris"), tool_result('{"temp": 21}')),
        _round(_says("It is 21."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "thinking before tools",
        (_system("You are terse and kind."), _user("What will the weather be in Paris?")),
        _round(_says("", "Paris", thought="The tool will know."), tool_result('{"temp": 21}')),
        _round(_says("It is 21.", thought="That was quick."), _user("Thanks a lot.")),
        _round(_says("Welcome.", thought="How polite."), _user("Good bye now.")),
        tools=True,
    ),
    _scenario(
        "turn cut off",
        (_user("Tell me a long story."),),
        _round(_says("Once upon a time there was a king who"), _user("Go on, please."), ending=Ending.CUT_OFF),
        _round(_says("And so it ended."), _user("Good bye now.")),
    ),
    _scenario(
        "another stop token",
        (_user("What is the capital of France, please?"),),
        _round(_says("It is Paris, of course."), _user("And what about Germany then?"), ending=Ending.OTHER_STOP),
    ),
    _scenario(
        "two users in a row",
        (_user("I have a question."), _user("What is the capital of France?")),
        _round(_says("It is Paris."), _user("Hm."), _user("And what about Germany then?")),
    ),
    _scenario(
        "assistant in the opening",
        (
            _user("Name a colour."),
            _says("The colour is red."),
            _user("Name another colour."),
            _says("The colour is blue.", thought="Not red again."),
            _user("And another one."),
        ),
        _round(_says("The colour is green."), _user("One more, please.")),
        _round(_says("The colour is grey."), _user("Good bye now.")),
    ),
    _scenario(
        "assistant among the given",
        (_user("Name a colour."),),
        _round(
            _says("The colour is red."),
            _user("Name another colour."),
            _says("The colour is blue."),
            _user("And another one."),
        ),
        _round(_says("The colour is green."), _user("Good bye now.")),
    ),
    _scenario(
        "system message later",
        (_user("Name a colour."),),
        _round(_says("The colour is red."), _system("From now on answer in French."), _user("Name another colour.")),
        _round(_says("Bleu."), _user("Good bye now.")),
    ),
    _scenario(
        "white space at the edges",
        (_system("  You are terse.\n"), _user("\n  Name a colour. \n")),
        _round(_says("Red."), _user("  Name another colour.\n\n")),
        _round(_says("Blue."), _user("Good bye now.")),
    ),
    _scenario(
        "control tokens in text",
        (_user(f"What do {CONTROL_TEXT} mean?"),),
        _round(_says("They part the turns."), _user(f"Say {CONTROL_TEXT}")),
        _round(_says("I would rather not."), _user("Good bye now.")),
        escapes=True,
    ),
    _scenario(
        "no generation prompt",
        (_user("What is the capital of France, please?"),),
        _round(_says("It is Paris, of course."), _user("And what about Germany then?")),
        add_generation_prompt=False,
    ),
    _scenario(
        "long plain chat",
        (_user("Name a colour, any colour."),),
        *(
            _round(_says(f"The colour is number {number}."), _user(f"And what comes after {number}?"))
            for number in range(1, 7)
        ),
    ),
    _scenario(
        "tools and a system prompt",
        (_system("You are terse and kind."), _user("What will the weather be in Paris?")),
        _round(_says("", "Paris"), tool_result("sunny and warm")),
        _round(_says("It is sunny."), _user("And in Rome?")),
        _round(_says("", "Rome", number=2), tool_result("rainy and cold", 2)),
        _round(_says("Rainy."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "tools that nobody calls",
        (_user("What is the capital of France, please?"),),
        _round(_says("It is Paris, of course."), _user("And what about Germany then?")),
        _round(_says("Berlin is."), _user("Thank you so much!")),
        tools=True,
    ),
    _scenario(
        "calls in a row",
        (_user("Where is it warmer, in Paris or in Rome?"),),
        _round(_says("", "Paris"), tool_result("ten degrees")),
        _round(_says("", "Rome", number=2), tool_result("twenty degrees", 2)),
        _round(_says("", "Oslo", "Bergen", number=3), tool_result("minus one", 3), tool_result("minus two", 4)),
        _round(_says("In Rome it is."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "results in another order",
        (_user("What will the weather be in Paris and Rome?"),),
        _round(_says("", "Paris", "Rome"), tool_result("hot and dry", 2), tool_result("cold and wet")),
        _round(_says("Cold; hot."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "results without names",
        (_user("What will the weather be in Paris and Rome?"),),
        _round(
            _says("", "Paris", "Rome"),
            _without(tool_result("cold and wet"), "name"),
            _without(tool_result("hot", 2), "name"),
        ),
        _round(_says("Cold; hot."), _user("And in Milan?")),
        _round(_says("", "Milan", number=3), _without(tool_result("rainy", 3), "name")),
        _round(_says("Rainy, too."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "results without ids",
        (_user("What will the weather be in Paris?"),),
        _round(_says("", "Paris"), _without(tool_result("cold and wet"), "tool_call_id")),
        _round(_says("Cold."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "results that nobody asked for",
        (_user("What will the weather be in Paris?"),),
        _round(_says("I wonder about that."), tool_result("sunny and warm")),
        _round(_says("It is warm, I hear."), tool_result("rainy and cold", 2)),
        _round(_says("Now it is cold."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "a result and a user",
        (_user("What will the weather be in Paris?"),),
        _round(_says("", "Paris"), tool_result("sunny and warm"), _user("Be quick about it.")),
        _round(_says("It is sunny."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "calls in the opening",
        (
            _user("What will the weather be in Paris?"),
            _says("", "Paris"),
            tool_result("sunny and warm"),
            _says("It is sunny."),
            _user("And in Rome?"),
        ),
        _round(_says("", "Rome", number=2), tool_result("rainy and cold", 2)),
        _round(_says("Rainy."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "a call without content in the opening",
        (
            _user("What will the weather be in Paris?"),
            {**_says("", "Paris"), "content": None},
            tool_result("sunny and warm"),
        ),
        _round(_says("It is sunny."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "arguments given as text",
        (
            _user("What will the weather be in Paris?"),
            _with_text_arguments(_says("", "Paris")),
            tool_result("sunny, warm"),
        ),
        _round(_says("It is sunny."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "calls among the given",
        (_user("What will the weather be in Paris?"),),
        _round(
            _says("I shall look."),
            _user("Please do so."),
            _says("", "Paris"),
            tool_result("sunny and warm"),
        ),
        _round(_says("It is sunny."), _user("And in Rome?")),
        _round(_says("", "Rome", number=2), tool_result("rainy and cold", 2)),
        tools=True,
    ),
    _scenario(
        "numbers and flags as arguments",
        (_user("What will the weather be in Paris?"),),
        _round(calling({"city": "94103", "days": 3}), tool_result("sunny and warm")),
        _round(calling({"city": "true", "days": 0}, 2), tool_result("rainy and cold", 2)),
        _round(_says("Sunny; rainy."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "quotes and lines as arguments",
        (_user("What will the weather be in Paris?"),),
        _round(calling({"city": 'It\'s "Saint-Cloud",\nnear {Paris}', "days": 3}), tool_result("sunny and warm")),
        _round(_says("Sunny."), _user("Thanks a lot.")),
        tools=True,
    ),
    _scenario(
        "tools without a generation prompt",
        (_user("What will the weather be in Paris?"),),
        _round(_says("", "Paris"), tool_result("sunny and warm")),
        _round(_says("It is sunny."), _user("Thanks a lot.")),
        tools=True,
        add_generation_prompt=False,
    ),
    _scenario(
        "thoughts in content, over several turns",
        (_system("You are terse and kind."), _user("How many is 2+2?")),
        _round(_says("<think>\nTwo and two.\n</think>\n\n4 is it."), _user("Sure about that?")),
        _round(_says("Very sure indeed."), _user("And how many is 3+3?")),
        _round(_says("<think>\nThree and three.\n</think>\n\n6 is it."), _user("Great work.")),
    ),
    _scenario(
        "text that begins and ends in lines",
        (_user("What is the capital of France, please?"),),
        _round(_says("\n\nIt is Paris."), _user("And what about Germany then?")),
        _round(_says("\nBerlin is.\n"), _user("Thank you so much!")),
    ),
    _scenario(
        "empty texts",
        (_user("What is the capital of France, please?"),),
        _round(_says("It is Paris, of course."), _user("")),
        _round(_says("Are you there?"), _user("Thank you so much!")),
    ),
    _scenario(
        "developer message",
        ({"role": "developer", "content": "You are terse and kind."}, _user("Name three primary colours.")),
        _round(_says("Red, blue, yellow."), _user("Name another one.")),
    ),
    _scenario(
        "system prompt alone at first",
        (_system("You are terse and kind."),),
        _round(_says("What can I do for you?"), _user("Name three primary colours.")),
        _round(_says("Red, blue, yellow."), _user("Name another one.")),
    ),
    _scenario(
        "a task answers as a user",
        (_system("You are terse and kind."), _user("Guess my number, please.")),
        _round(_says("Is it fifty?"), _user("No, it is higher.")),
        _round(_says("Is it seventy?", thought="Between fifty and a hundred."), _user("No, it is lower.")),
        _round(_says("It is sixty"), _user("Well done, good bye."), ending=Ending.CUT_OFF),
        answered=True,
    ),
    _scenario(
        "a task answers with results of tools",
        (_user("What will the weather be in Paris and Rome?"),),
        _round(_says("Let me look.", "Paris", "Rome"), tool_result("cold"), tool_result("hot", 2)),
        _round(_says("", "Milan", number=3), tool_result("rainy", 3)),
        _round(_says("Cold, hot and rainy."), _user("Thanks a lot.")),
        tools=True,
        answered=True,
    ),
    *(
        _scenario(
            f"{key}={value}",
            (_system("You are terse and kind."), _user("What will the weather be in Paris?")),
            _round(_says("", "Paris", thought="The tool will know."), tool_result("sunny and warm")),
            _round(_says("It is sunny.", thought="That was quick."), _user("And in Rome, is it?")),
            _round(_says("I do not know that."), _user("Good bye now.")),
            tools=True,
            template_kwargs={key: value},
        )
        for key in ("enable_thinking", "thinking")
        for value in (True, False)
    ),
)
"""In the order of the table."""


def looking_for(text: str) -> tuple[Scenario, ...]:
    """Conversations that hold a text which the template looks for, such as `/no_think`."""
    rounds = (
        _round(_says("The colour is red."), _user("Name another colour.")),
        _round(_says("The colour is blue."), _user("Good bye now.")),
    )
    said = _user(f"{text} Name a colour.")
    return (
        _scenario(f"{text!r} of a user", (said,), *rounds, escapes=True),
        _scenario(
            f"{text!r} of the system",
            (_system(f"You are terse. {text}"), _user("Name a colour.")),
            *rounds,
            escapes=True,
        ),
        _scenario(
            f"{text!r} of a later user",
            (_user("Name a colour."),),
            _round(_says("The colour is red."), said),
            *rounds,
            escapes=True,
        ),
    )
