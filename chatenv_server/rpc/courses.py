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


MOST_HELD_BACK: Final = 32
"""Pauses that are begun together, at most. Each one held back saves two changes of threads; none is held back long."""

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
        self._held_back: list[Course[ResultT]] = []
        """Those that have come to a pause which has not begun."""

    def __len__(self) -> int:
        return len(self._under_way)

    def begin_pauses(self) -> None:
        """Begin what items have come to wait for. To be called before this thread waits for them.

        Begun one by one, each would wake a thread that takes the interpreter away from the items that are next.
        """
        held_back, self._held_back = self._held_back, []
        for course in held_back:
            course.wait()

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
        self._pauses(Course(work, self._resumed, waits_for), _Item(episode_id, item))
        return iter(())

    def item_of(self, course: Course[ResultT]) -> ItemT:
        """The item that a course is of."""
        return self._under_way[course].item

    def go_on(self, course: Course[ResultT]) -> Iterator[ResultT]:
        """Go on with an item that has waited; what became of those that are done now."""
        return self._run(course, self._under_way.pop(course))

    def _run(self, course: Course[ResultT], of: _Item[ItemT]) -> Iterator[ResultT]:
        while True:
            course.advance()
            if not course.is_done:
                self._pauses(course, of)
                return
            yield course.result
            queue = self._waiting.get(of.episode_id)
            if not queue:
                self._waiting.pop(of.episode_id, None)
                return
            of = _Item(of.episode_id, queue.popleft())
            course = Course(self._begin(of.item), self._resumed)

    def _pauses(self, course: Course[ResultT], of: _Item[ItemT]) -> None:
        self._under_way[course] = of
        if of.episode_id:  # an item that names no episode waits for no other
            self._waiting.setdefault(of.episode_id, deque())
        self._held_back.append(course)
        if len(self._held_back) >= MOST_HELD_BACK:
            self.begin_pauses()


@dataclass(frozen=True, slots=True)
class _Item(Generic[ItemT]):  # which may be no NamedTuple before Python 3.11
    episode_id: str
    item: ItemT
