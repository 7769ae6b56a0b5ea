"""Tools made of Python functions: their schemas, and what cannot be a tool."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any, Literal

import pytest

from chatenv_server.tasks.tool import Tool, by_name
from chatenv_server.tasks.tool_task import ToolTask
from tests.tasks.conftest import answered, call, contents, opened, turn


def weather(city: str, unit: Literal["celsius", "kelvin"] = "celsius", days: list[int] | None = None) -> str:
    """Say what the weather is like.

    Args:
        city: Where.
        unit: Of the temperature.
        days: From today on.
    """
    return f"{city}: 20 {unit} {days}"


SCHEMA = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say what the weather is like.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where."},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"], "description": "Of the temperature."},
                "days": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "nullable": True,
                    "description": "From today on.",
                },
            },
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}


class Forecast(ToolTask):
    tools = (weather,)


class Diary(ToolTask):
    """Its tool changes the state."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def note(self, text: str) -> int:
        """Note a text.

        Args:
            text: What to note.
        """
        self.pages.append(text)
        return len(self.pages)

    tools = (note,)


def test_a_schema_comes_from_the_signature_and_the_docstring() -> None:
    opening = opened(Forecast())
    assert opening is not None
    assert opening.tools == [SCHEMA]


def test_a_method_is_a_tool_of_its_task() -> None:
    one, other = Diary(), Diary()
    answered(one, turn("", call("note", {"text": "a"})))
    assert contents(answered(one, turn("", call("note", {"text": "b"})))) == ["2"]
    assert (one.pages, other.pages) == (["a", "b"], [])
    opening = opened(one)
    assert opening is not None
    assert opening.tools is not None
    assert list(opening.tools[0]["function"]["parameters"]["properties"]) == ["text"]


def test_attributes_are_the_state_and_tools_are_not_among_them() -> None:
    task = Diary()
    answered(task, turn("", call("note", {"text": "a"})))
    assert vars(task) == {"pages": ["a"], "rounds": 1}


def test_a_subclass_makes_tools_of_its_own_arguments() -> None:
    class Greeter(ToolTask):
        def __init__(self, greeting: str) -> None:
            def greet(name: str) -> str:
                """Greet somebody.

                Args:
                    name: Whom.
                """
                return f"{greeting}, {name}"

            super().__init__([greet])

    assert contents(answered(Greeter("Ahoy"), turn("", call("greet", {"name": "Ada"})))) == ["Ahoy, Ada"]


def test_a_tool_with_a_schema_by_hand_gets_the_arguments_as_they_are() -> None:
    def echo(arguments: dict[str, Any]) -> Any:
        return arguments

    class Echo(ToolTask):
        tools = (Tool({"type": "function", "function": {"name": "echo", "description": "Echo."}}, echo),)

    assert contents(answered(Echo(), turn("", call("echo", {"any": [1]})))) == ['{"any": [1]}']


def without_docstring(a: int) -> int:
    return a


def without_hint(a) -> int:  # type: ignore[no-untyped-def]
    """Have no hint.

    Args:
        a: Something.
    """
    return int(a)


def without_description(a: int) -> int:
    """Do not say what `a` is."""
    return a


def with_any_number(*numbers: int) -> int:
    """Take any number.

    Args:
        numbers: Of numbers.
    """
    return sum(numbers)


class NotAFunction:
    """Has an implementation."""

    def __call__(self, a: int) -> int:
        """Call it."""
        return a


@pytest.mark.parametrize(
    "function", [without_docstring, without_hint, without_description, with_any_number, NotAFunction(), "weather"]
)
def test_what_has_no_schema_is_refused_where_the_class_is_defined(function: Any) -> None:
    with pytest.raises(ValueError, match=getattr(function, "__name__", "is a function, a method or a Tool")):
        type("Bad", (ToolTask,), {"tools": (function,)})


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two tools are called 'weather'"):
        by_name([weather, weather])


def test_a_function_that_nobody_has_any_more_is_forgotten() -> None:
    def short_lived() -> None:
        """Be short-lived."""

    by_name([short_lived])
    kept = weakref.ref(short_lived)
    del short_lived
    gc.collect()
    assert kept() is None


PROGRAM = """
import sys
from chatenv_server.tokenizer_files.loading import torch_hidden

with torch_hidden():
    from chatenv_server.tasks.tool_task import ToolTask

    def now() -> str:
        \"\"\"Tell the time.\"\"\"

    class Clock(ToolTask):
        tools = (now,)

assert "torch" not in sys.modules
"""


def test_schemas_need_no_torch() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
