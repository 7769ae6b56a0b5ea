"""Pages as one file each: Jinja writes the frame, the page's own script the rest, out of data that is never markup.

The policy in the page lets nothing run but that script, known by its hash, and lets nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from chatenv_client.distribution import needing
from chatenv_client.models import Trajectory
from chatenv_client.models.token_text import TokenText
from chatenv_client.viewing.episode_data import View, episode_data
from chatenv_client.viewing.run_data import EpisodeRow, run_data

_AS_ESCAPES: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""So that no text of an episode can end the script element that it stands in."""
_SCRIPTS: Final = {
    "episode": (
        *("episode_data.js", "episode_tokens.js", "episode_turns.js", "episode_head.js", "episode_tools.js"),
        *("episode_keys.js", "episode.js"),
    ),
    "run": ("run_plots.js", "run_table.js", "run.js"),
}
"""Parts of the script of each kind of page, in order; the last one begins."""
_HALF_PAIR: Final = re.compile("[\ud800-\udfff]")


def episode_page(trajectory: Trajectory, texts: Mapping[int, TokenText] | None = None, view: View | None = None) -> str:
    """The HTML page of an episode.

    Args:
        trajectory: the episode.
        texts: what its tokens stand for; ids alone are shown of all others.
        view: what else the page is to show.

    Raises:
        ImportError: jinja2 is not installed: the extra `view`.
    """
    view = view or View()
    data = episode_data(trajectory, texts or {}, view)
    return _page("episode", trajectory.episode_id, as_json(data), follows=bool(view.data_href))


def run_page(rows: Iterable[EpisodeRow], title: str, *, data_href: str = "") -> str:
    """The HTML page of many episodes.

    Args:
        rows: what it shows of each, in the order in which they were played.
        title: what they are.
        data_href: where a page that follows a live server finds its data anew; empty: it stays as it is.

    Raises:
        ImportError: jinja2 is not installed: the extra `view`.
    """
    return _page("run", title, as_json(run_data(rows, title, data_href)), follows=bool(data_href))


def as_json(data: Any) -> str:
    """JSON that may stand in an HTML page, and be written as UTF-8. Numbers that JSON has not are null."""
    try:
        text = _dumped(data)
    except ValueError:
        text = _dumped(_finite(data))
    escaped = text.translate(_AS_ESCAPES)
    return _HALF_PAIR.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)


def _dumped(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same with null for what is no finite number: JSON has no such numbers, and a browser would read nothing."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Numbers of numpy, which metadata in-process may hold, as Python's; of all else its `repr`."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _page(kind: str, title: str, data: str, *, follows: bool) -> str:
    style, script = _source("common.css", f"{kind}.css"), _source("common.js", *_SCRIPTS[kind])
    return str(
        _template().render(
            title=title.encode(errors="replace").decode(),
            policy=_policy(style, script, follows=follows),
            style=style,
            script=script,
            data=data,
        )
    )


def _policy(style: str, script: str, *, follows: bool) -> str:
    rules = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "connect-src": "'self'" if follows else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


@cache
def _source(*names: str) -> str:
    folder = resources.files(__package__).joinpath("templates")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


@cache
def _template() -> Any:
    with needing("view", "a page of episodes"):
        from jinja2 import Environment, StrictUndefined
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_source("page.html"))
