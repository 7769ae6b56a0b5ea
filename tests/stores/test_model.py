"""Any sequence of calls leaves a store as it leaves plain dictionaries."""

from __future__ import annotations

import math
import time
from typing import ClassVar

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from chatenv_server.stores.store import Append, Begin, Change, End, Finish, Place, Store, Summary, Touch
from tests.stores.conftest import OpenStore
from tests.stores.model import ModelStore

IDS = st.sampled_from(["a", "ab", "b", "c:1"])
RUNS = st.sampled_from(["r1", "r2"])
MOMENTS = st.integers(0, 9).map(float)
ENTRIES = st.binary(max_size=40)
SUMMARIES = st.builds(
    Summary,
    step_count=st.integers(0, 9),
    token_count=st.integers(0, 2**40),
    held_tokens=st.integers(0, 1000),
    message_count=st.integers(0, 9),
    created=MOMENTS,
    last_used=MOMENTS,
    terminated=st.booleans(),
    truncated=st.booleans(),
    failed=st.booleans(),
    metadata_json=st.sampled_from(["", "{}", '{"a": "ä"}']),
)
BEGINS = st.builds(Begin, IDS, RUNS, st.lists(ENTRIES, max_size=4), SUMMARIES, st.booleans())
APPENDS = st.builds(Append, IDS, st.builds(Place, RUNS, st.integers(0, 5)), ENTRIES, SUMMARIES, st.booleans())
VERSIONS = st.none() | st.integers(0, 5)
FINISHES = st.builds(
    Finish, IDS, RUNS, st.sampled_from(End), st.builds(time.time), st.just(math.inf) | MOMENTS, VERSIONS, ENTRIES
)
TOUCHES = st.builds(Touch, IDS, RUNS, MOMENTS)


ALL_IDS = ("a", "ab", "b", "c:1")
EITHER = st.sampled_from([0, 1])


class StoreMachine(RuleBasedStateMachine):
    """Two stores on one backend, used in turn, and the model beside them."""

    stores: ClassVar[list[Store]]

    @initialize()
    def empty(self) -> None:
        """End all episodes, the same way on every run."""
        self.model = ModelStore()
        for episode_id in ALL_IDS:
            changes: list[Change] = [Begin(episode_id, "r1", [], Summary()), Finish(episode_id, "r1", End.CLOSED, 0.0)]
            assert self.stores[0].write(changes) == self.model.write(changes)

    @rule(which=EITHER, changes=st.lists(BEGINS | APPENDS | FINISHES | TOUCHES, max_size=6))
    def write(self, which: int, changes: list[Change]) -> None:
        assert self.stores[which].write(changes) == self.model.write(changes)

    @rule(which=EITHER, episode_id=IDS, entry=ENTRIES, summary=SUMMARIES)
    def append_in_place(self, which: int, episode_id: str, entry: bytes, summary: Summary) -> None:
        standing = self.model.standing(episode_id)
        assert standing is not None
        change = Append(episode_id, standing.place, entry, summary)
        assert self.stores[which].write([change]) == self.model.write([change])

    @rule(which=EITHER, prefix=st.sampled_from(["", "a", "c:", "x"]), limit=st.integers(1, 4))
    def listed(self, which: int, prefix: str, limit: int) -> None:
        shown, after = self.stores[which].listed(prefix, "", limit)
        found = list(shown)
        while after:
            shown, after = self.stores[which].listed(prefix, after, limit)
            found += shown
        assert found == self.model.listed(prefix)

    @rule(which=EITHER, moment=MOMENTS, limit=st.integers(1, 4))
    def idle(self, which: int, moment: float, limit: int) -> None:
        assert self.stores[which].idle_since(moment, limit) == self.model.idle_since(moment)[:limit]

    @invariant()
    def same(self) -> None:
        for store in self.stores:
            assert store.totals() == self.model.totals()
            assert [store.standing(i) for i in ALL_IDS] == [self.model.standing(i) for i in ALL_IDS]
            assert [store.load(i) for i in ALL_IDS] == [self.model.load(i) for i in ALL_IDS]
            assert [store.answer(i) for i in ALL_IDS] == [self.model.answer(i) for i in ALL_IDS]


def test_a_store_does_what_plain_dictionaries_do(open_store: OpenStore) -> None:
    machine = type("Machine", (StoreMachine,), {"stores": [open_store(), open_store()]})
    few = settings(max_examples=min(60, settings().max_examples), stateful_step_count=20)
    run_state_machine_as_test(machine, settings=few)
