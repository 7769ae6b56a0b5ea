"""What a chat template may do to a text that it writes: change its case, replace parts of it, cut it up, turn it round.

Read off the template's source. A text that spells no control token may spell one afterwards.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from jinja2 import nodes

Alteration = Callable[[str], str]

_TAGS: Final = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)


def _turned(text: str) -> str:
    return text[::-1]


def _replaced(old: str, new: str, text: str) -> str:
    return text.replace(old, new)


def _joined(separator: str | None, joint: str, text: str) -> str:
    return joint.join(text.split(separator))


def _cut(name: str, characters: str, text: str) -> str:
    return str(getattr(text, name)(characters))


def _untagged(text: str) -> str:
    return html.unescape(_TAGS.sub("", text))


_PLAIN: Final[dict[str, Alteration]] = {
    **{name: getattr(str, name) for name in ("lower", "upper", "capitalize", "title", "swapcase", "casefold")},
    "reverse": _turned,
    "unescape": html.unescape,
    "striptags": _untagged,
}
_OF_ENDS: Final = {
    "trim": "strip",
    **{name: name for name in ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix")},
}


def alterations_in(tree: nodes.Template) -> tuple[Alteration, ...]:
    """What a template may do to a text: each operation by itself, and all of them in their order."""
    operations = [*_operations(tree)]
    joints = {constants[0] if constants else "" for name, constants in operations if name == "join"}
    single = [alteration for name, constants in operations for alteration in _alterations(name, constants, joints)]
    if any(_is_turned_round(node) for node in tree.find_all(nodes.Slice)):
        single.append(_turned)
    if len(single) < 2:
        return tuple(single)
    return (*single, partial(_all_of, tuple(single)))


def _all_of(alterations: Iterable[Alteration], text: str) -> str:
    for alteration in alterations:
        text = alteration(text)
    return text


def _operations(tree: nodes.Template) -> Iterator[tuple[str, list[str]]]:
    """The filters and methods that a template uses, with the texts among their arguments."""
    for node in tree.find_all((nodes.Filter, nodes.Call)):
        if isinstance(node, nodes.Filter):
            yield node.name, _constants(node.args)
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            yield node.node.attr, _constants(node.args)


def _constants(arguments: Iterable[nodes.Expr]) -> list[str]:
    return [node.value for node in arguments if isinstance(node, nodes.Const) and isinstance(node.value, str)]


def _alterations(name: str, constants: list[str], joints: Iterable[str]) -> Iterator[Alteration]:
    if name in _PLAIN:
        yield _PLAIN[name]
    elif name in _OF_ENDS and constants:
        yield partial(_cut, _OF_ENDS[name], constants[0])
    elif name == "replace" and len(constants) > 1 and constants[0]:
        yield partial(_replaced, constants[0], constants[1])
    elif name == "split":
        yield from (partial(_joined, (constants or [""])[0] or None, joint) for joint in joints)


def _is_turned_round(node: nodes.Slice) -> bool:
    step = node.step
    return isinstance(step, nodes.Neg) and isinstance(step.node, nodes.Const) and step.node.value == 1
