"""The environment variables of chatenv. All begin with CHATENV_, and one that nobody reads is refused by its name.

Without that a misspelt variable would be ignored, and the server would run with a default that nobody chose.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from chatenv_server.settings.errors import SettingError

PREFIX: Final = "CHATENV_"

ADDRESS: Final = "CHATENV_ADDRESS"
"""The server that a caller talks to."""
BEARER_TOKEN: Final = "CHATENV_BEARER_TOKEN"
BEARER_TOKEN_FILE: Final = "CHATENV_BEARER_TOKEN_FILE"
CALLERS: Final = (ADDRESS, BEARER_TOKEN, BEARER_TOKEN_FILE)
"""What callers read. A server and its callers may share an environment, as they share an image."""
TESTS: Final = ("CHATENV_CONFORMANCE", "CHATENV_CONFORMANCE_REQUIRED")
"""What the project's own tests read. Whoever works on chatenv has them in the shell that servers are started from."""

_SERVICE_LINK: Final = re.compile(
    r"CHATENV_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets in every pod beside a Service whose name begins with `chatenv`."""

_AS_GOOD_AS_MEANT: Final = 0.8
"""How alike two names are, of 1, when one is probably the other misspelt."""


def refuse_unknown(environment: Mapping[str, str], settings: Iterable[str]) -> None:
    """Refuse variables that begin with CHATENV_ and that neither a server nor a caller reads.

    Args:
        environment: all variables. An empty one counts as unset.
        settings: names of the variables that are settings of a server.

    Raises:
        SettingError: there are such variables; each is named, with the known one that is nearest.
    """
    known = {*settings, *CALLERS, *TESTS}
    if unknown := [_with_nearest(name, known, 0.6) for name in _given(environment) if name not in known]:
        raise SettingError(f"the environment has {', '.join(unknown)}; correct it or unset it")


def refuse_misspelt(environment: Mapping[str, str]) -> None:
    """Refuse variables that are nearly one that callers read. Callers do not know the settings of servers.

    Raises:
        SettingError: there are such variables; each is named, with the one that is probably meant.
    """
    others = [name for name in _given(environment) if name not in CALLERS]
    if unknown := [_with_nearest(name, CALLERS, 0) for name in others if is_nearly(name, CALLERS)]:
        raise SettingError(f"the environment has {', '.join(unknown)}; correct it or unset it")


def is_nearly(name: str, known: Collection[str]) -> bool:
    """Whether a variable's name is probably one of some others, misspelt."""
    return bool(_nearest(name, known, _AS_GOOD_AS_MEANT))


def _given(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(environment.items()):
        if name.upper().startswith(PREFIX) and value and not _SERVICE_LINK.fullmatch(name):
            yield name


def _with_nearest(name: str, known: Collection[str], alike: float) -> str:
    nearest = _nearest(name, known, alike)
    return f"{name}, which nobody reads" + (f" (nearest: {PREFIX}{nearest[0]})" if nearest else "")


def _nearest(name: str, known: Collection[str], alike: float) -> list[str]:
    bare = sorted(each.removeprefix(PREFIX) for each in known)
    return get_close_matches(name.upper().removeprefix(PREFIX), bare, n=1, cutoff=alike)
