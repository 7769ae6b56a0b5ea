"""Items of one call that are under way: those of one episode in order, different ones side by side, all in one thread.

Side by side means that one goes on while others wait, for a task or for an episode that another call holds. The work
itself holds the interpreter, so more threads would only take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from chatenv_server.work import Course, Work

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


exhaust: Final = deque[object](maxlen=0).extend
"""Has an iterator do its work."""


class Courses(Generic[ItemT, ResultT]):
    """The items of one call. Not safe for threads; only what `resumed` does may be called from any.

    Args:
        begin: the work of an item, which must not raise.
        resumed: called, from any thread, with a course that `go_on` is to be called with.
    """

    def __init__(self, begin: Callable[[ItemT], Work[ResultT]], resumed: Callable[[Course[ResultT]], None]) -> None:
        self._begin = begin
        self._resumed = resumed
        self._waiting: dict[str, deque[ItemT]] = {}
        """For each episode that is being worked on, the items that come next."""
        self._under_way: dict[Course[ResultT], _Item[ItemT]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def add(self, episode_id: str, item: ItemT) -> Iterator[ResultT]:
        """Begin an item, or let it wait for its episode; what became of those that are done now."""
        if episode_id in self._waiting:
            self._waiting[episode_id].append(item)
            return iter(())
        work = self._begin(item)
        try:
            waits_for = work.send(None)
        except StopIteration as end:  # as most do, which wait for nothing
            return iter((end.value,))
        return self._run(Course(work, self._resumed, waits_for), _Item(episode_id, item))

    def item_of(self, course: Course[ResultT]) -> ItemT:
        """The item that a course is of."""
        return self._under_way[course].item

    def go_on(self, course: Course[ResultT]) -> Iterator[ResultT]:
        """Go on with an item that has waited; what became of those that are done now."""
        return self._run(course, self._under_way.pop(course))

    def _run(self, course: Course[ResultT], of: _Item[ItemT]) -> Iterator[ResultT]:
        episode_id = of.episode_id
        while True:
            self._under_way[course] = of  # before it can be resumed
            if episode_id:  # an item that names no episode waits for no other
                self._waiting.setdefault(episode_id, deque())
            course.go_on()
            if not course.is_done:
                return
            del self._under_way[course]
            yield course.result
            queue = self._waiting.get(episode_id)
            if not queue:
                self._waiting.pop(episode_id, None)
                return
            of = _Item(episode_id, queue.popleft())
            course = Course(self._begin(of.item), self._resumed)


@dataclass(frozen=True, slots=True)
class _Item(Generic[ItemT]):  # which may be no NamedTuple before Python 3.11
    episode_id: str
    item: ItemT
