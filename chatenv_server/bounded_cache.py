"""The one cache of the server."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class BoundedCache(Generic[KeyT, ValueT]):
    """Keeps up to `size` values by key; when it is full, the least recently used goes first. Safe for threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[KeyT, ValueT] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[KeyT]:
        """The keys that values are kept for, the least recently used first."""
        with self._lock:
            return iter(list(self._values))

    def values(self) -> list[ValueT]:
        """The values that are kept, in the same order."""
        with self._lock:
            return list(self._values.values())

    def get(self, key: KeyT) -> ValueT | None:
        """The value of a key, which counts as used now; None where none is kept."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def get_or_put(self, key: KeyT, make: Callable[[], ValueT]) -> ValueT:
        """The value of a key, made and kept if none is. Two threads that ask at once may make it twice."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value

    def put(self, key: KeyT, value: ValueT) -> None:
        """Keep a value, in the place of what the key had before."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._size:
                self._values.popitem(last=False)
