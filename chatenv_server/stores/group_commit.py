"""Group commit: concurrent writes share one transaction.

The first thread that comes leads: it opens a transaction, takes the changes of all that wait by then, and commits them
together. Threads that come meanwhile wait for the next one, which the first of them leads. So a store does one commit
for many calls when there are many, and a lone call waits for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from chatenv_client.errors import StoreUnavailableError
from chatenv_server.stores.store import Change

Apply = Callable[[Sequence[Change]], list[bool]]
"""Makes changes; of each, whether it took place."""

MOST_CHANGES: Final = 1024
"""A transaction that has as many changes takes no further call: the time that others wait stays bounded."""


class GroupCommit:
    """Writes in groups. Safe to use from many threads.

    `transaction` is entered before the calls are gathered: while it waits for another process, the group grows. It
    gives what makes the changes, and commits as it is left. Where it fails, every call in it fails.
    """

    def __init__(self, transaction: Callable[[], AbstractContextManager[Apply]]) -> None:
        self._transaction = transaction
        self._guard = threading.Lock()
        self._waiting: list[_Call] = []
        self._led = False

    def write(self, changes: Sequence[Change]) -> list[bool]:
        """Make changes in one transaction, perhaps together with those of other threads.

        Raises:
            StoreUnavailableError: the transaction failed, for every call in it.
        """
        call = _Call(changes)
        with self._guard:
            self._waiting.append(call)
            leads = not self._led
            self._led = True
        if not leads:
            call.turn.acquire()  # until the call is done, or its thread is the next to lead
        if not call.done:
            self._lead()
        return call.outcome()

    def _lead(self) -> None:
        """Commit a group: the calling thread's own call is the first that waits."""
        group: list[_Call] = []
        try:
            with self._transaction() as apply:
                group = self._gather(MOST_CHANGES)
                results = iter(apply([change for call in group for change in call.changes]))
            for call in group:
                call.results = [next(results) for _ in call.changes]
        except BaseException as error:
            # A transaction that did not even open would keep the others waiting as long, one after another.
            group = group or self._gather()
            for call in group:
                call.failure = error
            raise
        finally:
            self._hand_over(group)

    def _gather(self, most_changes: float = float("inf")) -> list[_Call]:
        """Take the calls that wait, in their order."""
        with self._guard:
            taken = changes = 0
            while taken < len(self._waiting) and changes < most_changes:
                changes += len(self._waiting[taken].changes)
                taken += 1
            group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group

    def _hand_over(self, group: Sequence[_Call]) -> None:
        """Wake the threads of the group, and the one that leads next."""
        with self._guard:
            heirs = self._waiting[:1]
            self._led = bool(heirs)
        for call in (*group, *heirs):
            call.turn.release()


class _Call:
    """A call of `write` that waits."""

    __slots__ = ("changes", "failure", "results", "turn")

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.results: list[bool] | None = None
        self.failure: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()

    @property
    def done(self) -> bool:
        return self.results is not None or self.failure is not None

    def outcome(self) -> list[bool]:
        if self.results is None:
            raise StoreUnavailableError(str(self.failure)) from self.failure
        return self.results
