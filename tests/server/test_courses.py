"""Items of one call that pause: their pauses begin together, so no thread takes the interpreter from the others."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from chatenv_server.rpc.courses import MOST_HELD_BACK, Courses, exhaust
from chatenv_server.work import Course, Pause


class Told(Pause[None]):
    """A pause that is over at once, and says that it began."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def wait(self) -> None:
        self._tell()

    def start(self, ended: Callable[[], None]) -> None:
        self._tell()
        ended()

    def result(self) -> None: ...


def happenings(items: int) -> list[str]:
    """What happens, in its order, to items that pause once."""
    happened: list[str] = []

    async def work(item: int) -> int:
        happened.append("item")
        await Told(lambda: happened.append("pause"))
        return item

    resumed: SimpleQueue[Course[int]] = SimpleQueue()
    courses = Courses(work, resumed.put)
    for item in range(items):
        exhaust(courses.add(str(item), item))
    ended: list[int] = []
    while courses:
        if resumed.empty():
            courses.begin_pauses()
        ended += courses.go_on(resumed.get())
    assert ended == list(range(items))
    return happened


def test_pauses_begin_once_there_is_nothing_else_to_do() -> None:
    assert happenings(3) == ["item"] * 3 + ["pause"] * 3


def test_no_pause_is_held_back_for_long() -> None:
    assert happenings(MOST_HELD_BACK + 1) == [
        *["item"] * MOST_HELD_BACK,
        *["pause"] * MOST_HELD_BACK,
        "item",
        "pause",
    ]
