"""Immutable values, for the many that a step makes and reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):  # noqa: D103 - of the type checker
        return lambda decorator: decorator


KindT = TypeVar("KindT")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(kind: type[KindT]) -> type[KindT]:
    """Make a class one of immutable values; `dataclasses.replace` makes others of one.

    That nobody changes them is for the type checker to see: a frozen dataclass takes three times as long to make. The
    fields of a NamedTuple take three times as long to read, on Python 3.11. Arrays are no part of what two are compared
    by (`field(compare=False)`): numpy compares them item by item.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
