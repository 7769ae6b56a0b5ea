"""Values of arguments where strings are written bare, so that a value's type has to be read off its text.

A text becomes a number or constant only if that would be written the same way again, and is a string
otherwise. So writing the arguments anew gives the text back, whichever type the model had in mind.
"""

from __future__ import annotations

import json
from typing import Any

from chatenv_server.engine.parsing.cursor import Malformed, parse_json

_PYTHON_CONSTANTS = {"True": True, "False": False, "None": None}


def json_or_string(text: str) -> Any:
    """The value of `text` where all but strings are written as JSON."""
    try:
        value = parse_json(text)
    except Malformed:
        return text
    if isinstance(value, (dict, list)):
        return value
    return text if isinstance(value, str) or json.dumps(value) != text else value


def python_or_string(text: str) -> Any:
    """The value of `text` where constants are written as in Python, but lists and objects as JSON."""
    if text in _PYTHON_CONSTANTS:
        return _PYTHON_CONSTANTS[text]
    value = json_or_string(text)
    return text if value is None or isinstance(value, bool) else value
