"""How the models are shown as HTML: by the package of pages, which is built on them."""

from __future__ import annotations

import importlib
from typing import Any


def viewing(part: str = "") -> Any:
    """`chatenv_client.viewing`, or a part of it.

    It is loaded when it is first asked for, and by its name: it imports the models, which therefore do not import it.
    """
    return importlib.import_module(f"chatenv_client.viewing{part and '.'}{part}")
