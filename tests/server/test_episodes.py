"""Episodes by id: replay, budgets, expiry, isolation."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import errors
from chatenv_client.models import ChatAction, ChatObservation
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.copies import Copies
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.stores import memory as episode_store
from chatenv_server.stores.sqlite import SqliteStore
from chatenv_server.stores.store import Begin, Journal, new_run
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer

OpenStore = Callable[..., Episodes]
HELLO: tuple[Any, ...] = ({"role": "user", "content": "Hello!"},)
SAMPLED = ChatAction(tokens=[*b"Hi!", 257])
OTHER = ChatAction(tokens=[*b"Ho!", 257])


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(engine: TokenEngine, clock: Clock) -> OpenStore:
    def open_store(
        max_episodes: int = 100, max_live_tokens: int = 10**6, idle_timeout_s: float = 0, **options: Any
    ) -> Episodes:
        budget = Budget(max_episodes, max_live_tokens, idle_timeout_s)
        return Episodes(lambda: ChatEnvironment(engine, **options), budget, clock=clock)

    return open_store


@pytest.fixture
def store(open_store: OpenStore) -> Episodes:
    return open_store()


@pytest.fixture
def on_a_file(engine: TokenEngine, tmp_path: Path) -> Iterator[Callable[..., Episodes]]:
    """Opens episodes that a store keeps."""
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as file:
        yield lambda *limits: Episodes(lambda: ChatEnvironment(engine), Budget(*limits), store=file)


def step(store: Episodes, episode_id: str, index: int | None, action: ChatAction = SAMPLED) -> ChatObservation:
    return store.step(episode_id, action, step_index=index)


def step_count(store: Episodes, episode_id: str) -> int:
    with store.reading(episode_id) as environment:
        return environment.step_count


def length(store: Episodes, episode_id: str) -> int:
    with store.reading(episode_id) as environment:
        return environment.token_count


def test_an_episode_without_an_id_gets_one_of_its_own(store: Episodes) -> None:
    ids = {store.reset({}).episode_id for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("episode_id", ["a b", "é", "x" * 129, "a/b", "a\n"])
def test_a_bad_id_is_refused(store: Episodes, episode_id: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as refusal:
        store.reset({"episode_id": episode_id})
    assert (refusal.value.reason, refusal.value.field) == ("BAD_EPISODE_ID", "episode_id")
    assert store.live_episodes == 0


def test_the_same_step_again_gets_the_stored_answer_and_changes_nothing(store: Episodes) -> None:
    store.reset({"episode_id": "e"})
    first = step(store, "e", 0)
    assert step(store, "e", 0) is first
    assert step_count(store, "e") == 1


def test_the_last_step_of_a_finished_episode_is_replayed_too(open_store: OpenStore) -> None:
    store = open_store(max_steps=1)
    store.reset({"episode_id": "e"})
    first = step(store, "e", 0)
    assert first.truncated
    assert step(store, "e", 0) is first
    with pytest.raises(errors.EpisodeDoneError):
        step(store, "e", 1)


@pytest.mark.parametrize(("index", "action"), [(0, SAMPLED), (1, OTHER), (3, SAMPLED), (99, SAMPLED)])
def test_neither_the_next_step_nor_the_last_one_again_is_refused(
    store: Episodes, index: int, action: ChatAction
) -> None:
    store.reset({"episode_id": "e"})
    step(store, "e", 0)
    step(store, "e", 1)
    with pytest.raises(errors.StepIndexMismatchError) as refusal:
        step(store, "e", index, action)
    assert refusal.value.details == {"expected_step_index": "2", "received_step_index": str(index)}
    assert step_count(store, "e") == 2


def test_a_step_that_was_refused_is_no_answer_to_replay(store: Episodes) -> None:
    store.reset({"episode_id": "e"})
    step(store, "e", 0)
    with pytest.raises(errors.InvalidRequestError):
        store.step("e", ChatAction(tokens=[-1]), step_index=1)
    with pytest.raises(errors.StepIndexMismatchError):
        step(store, "e", 0, ChatAction(tokens=[-1]))
    assert step(store, "e", 0).step_count == 1


def test_a_reset_episode_does_not_answer_for_the_one_before(store: Episodes) -> None:
    store.reset({"episode_id": "e"})
    step(store, "e", 0)
    assert store.reset({"episode_id": "e", "messages": HELLO}).step_count == 0
    with pytest.raises(errors.StepIndexMismatchError):
        step(store, "e", 1)
    assert step(store, "e", 0).step_count == 1
    assert store.live_episodes == 1


def test_a_reset_that_fails_leaves_the_live_episode_as_it_was(store: Episodes) -> None:
    store.reset({"episode_id": "e", "messages": HELLO})
    first = step(store, "e", 0)
    tokens = store.live_tokens
    with pytest.raises(errors.InvalidRequestError):
        store.reset({"episode_id": "e", "messages": ({"role": ""},)})
    assert step(store, "e", 0) is first
    assert store.live_tokens == tokens


def test_a_reset_that_fails_leaves_no_new_episode(store: Episodes) -> None:
    with pytest.raises(errors.InvalidRequestError):
        store.reset({"episode_id": "e", "messages": ({"role": ""},)})
    assert (store.live_episodes, store.live_tokens) == (0, 0)
    with pytest.raises(errors.EpisodeUnknownError):
        step(store, "e", 0)


def test_not_found_tells_unknown_closed_and_expired_apart(open_store: OpenStore, clock: Clock) -> None:
    store = open_store(idle_timeout_s=10)
    for name in ("closed", "expired"):
        store.reset({"episode_id": name})
    assert store.close("closed")
    clock.now = 11
    expected = {
        "unknown": errors.EpisodeUnknownError,
        "closed": errors.EpisodeClosedError,
        "expired": errors.EpisodeExpiredError,
    }
    for name, kind in expected.items():
        for _ in range(2):
            with pytest.raises(kind):
                step(store, name, 0)


def test_closing_twice_is_fine_and_says_which_did_it(store: Episodes) -> None:
    store.reset({"episode_id": "e"})
    assert [store.close("e"), store.close("e"), store.close("never")] == [True, False, False]


def test_a_closed_id_can_be_opened_again(store: Episodes) -> None:
    store.reset({"episode_id": "e"})
    store.close("e")
    store.reset({"episode_id": "e"})
    assert step(store, "e", 0).step_count == 1


def test_every_call_puts_expiry_off(open_store: OpenStore, clock: Clock) -> None:
    store = open_store(idle_timeout_s=10)
    store.reset({"episode_id": "e"})
    for index in range(5):
        clock.now += 9
        step(store, "e", index)
        clock.now += 9
        step_count(store, "e")
    clock.now += 10.5
    with pytest.raises(errors.EpisodeExpiredError):
        step_count(store, "e")


def test_expiry_frees_what_an_episode_held(open_store: OpenStore, clock: Clock) -> None:
    store = open_store(idle_timeout_s=10)
    store.reset({"episode_id": "old", "messages": HELLO})
    clock.now = 6
    store.reset({"episode_id": "young", "messages": HELLO})
    clock.now = 11
    store.expire_idle()
    assert store.live_episodes == 1
    assert store.live_tokens == length(store, "young") > 0


def test_without_a_timeout_nothing_expires(store: Episodes, clock: Clock) -> None:
    store.reset({"episode_id": "e"})
    clock.now = 1e9
    store.expire_idle()
    assert step(store, "e", 0).step_count == 1


def test_too_many_episodes_are_refused_until_one_is_gone(open_store: OpenStore) -> None:
    store = open_store(max_episodes=2)
    for name in ("a", "b"):
        store.reset({"episode_id": name})
    with pytest.raises(errors.EpisodeLimitError):
        store.reset({"episode_id": "c"})
    store.reset({"episode_id": "a"})
    store.close("a")
    store.reset({"episode_id": "c"})


def test_idle_episodes_make_room_before_anybody_is_refused(open_store: OpenStore, clock: Clock) -> None:
    store = open_store(max_episodes=1, max_live_tokens=50, idle_timeout_s=10)
    store.reset({"episode_id": "a", "messages": HELLO})
    clock.now = 11
    store.reset({"episode_id": "b", "messages": HELLO})
    assert store.live_episodes == 1


def test_idle_episodes_make_room_for_a_steps_tokens_too(open_store: OpenStore, clock: Clock) -> None:
    store = open_store(max_live_tokens=100, idle_timeout_s=10)
    store.reset({"episode_id": "idle", "messages": HELLO})
    clock.now = 11
    store.reset({"episode_id": "busy", "messages": HELLO})
    room = 100 - store.live_tokens
    store.step("busy", ChatAction(tokens=[65] * (room + 1)), step_index=0)
    assert store.live_tokens == length(store, "busy")
    assert store.live_episodes == 1


def test_tokens_beyond_the_budget_are_refused_and_the_episode_stays_as_it_was(open_store: OpenStore) -> None:
    store = open_store(max_live_tokens=100)
    store.reset({"episode_id": "e", "messages": HELLO})
    held = store.live_tokens
    with pytest.raises(errors.TokenLimitError):
        store.step("e", ChatAction(tokens=[65] * 100), step_index=0)
    assert store.live_tokens == held == length(store, "e")
    assert step(store, "e", 0).step_count == 1


def test_live_tokens_are_the_lengths_of_the_live_episodes(store: Episodes) -> None:
    for name in ("a", "b"):
        store.reset({"episode_id": name, "messages": HELLO})
        step(store, name, 0)
    assert store.live_tokens == length(store, "a") + length(store, "b")
    store.reset({"episode_id": "a"})
    with pytest.raises(errors.InvalidRequestError):
        store.step("b", ChatAction(tokens=[999]), step_index=1)
    assert store.live_tokens == length(store, "a") + length(store, "b")
    store.close("a")
    assert store.live_tokens == length(store, "b")
    store.close("b")
    assert store.live_tokens == 0


def test_remembered_ends_are_bounded(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_store, "REMEMBERED_ENDS", 3)
    store = open_store()
    for number in range(4):
        store.reset({"episode_id": f"e{number}"})
        store.close(f"e{number}")
    with pytest.raises(errors.EpisodeUnknownError):
        step(store, "e0", 0)
    with pytest.raises(errors.EpisodeClosedError):
        step(store, "e1", 0)


def test_two_threads_on_one_episode_leave_it_consistent(store: Episodes) -> None:
    store.reset({"episode_id": "e"})
    applied: list[int] = []

    def race(action: ChatAction) -> None:
        for index in range(50):
            with contextlib.suppress(errors.StepIndexMismatchError):
                store.step("e", action, step_index=index)
                applied.append(index)

    threads = [threading.Thread(target=race, args=[action]) for action in (SAMPLED, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == list(range(50))
    assert step_count(store, "e") == 50
    with store.reading("e") as environment:
        assert environment.trajectory().loss_mask.sum() == 50 * len(SAMPLED.tokens)


class Gatekeeper:
    """A transform that waits to be let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, observation: ChatObservation) -> ChatObservation:
        self.entered.set()
        assert self.let_go.wait(30)
        return observation


@pytest.fixture
def stuck(open_store: OpenStore) -> Any:
    """A store in which a step of episode `slow` is in the middle of its transform."""
    gatekeeper = Gatekeeper()
    store = open_store(transform=gatekeeper, idle_timeout_s=10)
    store.reset({"episode_id": "slow"})
    store.reset({"episode_id": "other"})
    worker = threading.Thread(target=step, args=[store, "slow", 0])
    worker.start()
    gatekeeper.entered.wait(30)
    yield store
    gatekeeper.let_go.set()
    worker.join()


class Impatient:
    """A caller whose deadline is over, or who hung up."""

    def __init__(self, *, active: bool = True) -> None:
        self._active = active

    def time_remaining(self) -> float:
        return 0.0

    def is_active(self) -> bool:
        return self._active


def test_other_episodes_do_not_wait_for_a_transform(stuck: Episodes) -> None:
    stuck.reset({"episode_id": "new", "messages": HELLO})
    assert step_count(stuck, "other") == 0
    assert stuck.close("other")
    assert stuck.live_tokens > 0


def test_a_call_waits_for_its_episode_no_longer_than_its_deadline(stuck: Episodes) -> None:
    with pytest.raises(errors.DeadlineError):
        stuck.step("slow", SAMPLED, caller=Impatient())


def test_an_episode_at_work_does_not_expire(stuck: Episodes, clock: Clock) -> None:
    clock.now = 100
    stuck.expire_idle()
    with pytest.raises(errors.DeadlineError):
        stuck.close("slow", caller=Impatient())


def test_a_step_that_lasts_long_keeps_its_episode_from_expiring_in_another_process(
    engine: TokenEngine, clock: Clock, tmp_path: Path
) -> None:
    began = clock.now = time.time()
    gatekeeper = Gatekeeper()
    files = [SqliteStore(tmp_path / "store.db") for _ in range(2)]
    here, there = (
        Episodes(
            lambda: ChatEnvironment(engine, transform=gatekeeper), Budget(10, 10**6, 10.0), store=file, clock=clock
        )
        for file in files
    )
    for episode_id in ("slow", "left"):
        here.reset({"episode_id": episode_id})
    worker = threading.Thread(target=step, args=[here, "slow", 0])
    worker.start()
    assert gatekeeper.entered.wait(30)
    for seconds in range(2, 60, 2):
        clock.now = began + seconds
        here.expire_idle()
        there.expire_idle()
    gatekeeper.let_go.set()
    worker.join()
    clock.now = time.time()  # what a step writes is of that time
    assert (step_count(here, "slow"), step_count(there, "slow")) == (1, 1)
    with pytest.raises(errors.EpisodeExpiredError):
        step_count(there, "left")
    clock.now += 100
    there.expire_idle()
    with pytest.raises(errors.EpisodeExpiredError):
        step_count(here, "slow")
    for file in files:
        file.close()


def test_a_caller_who_hung_up_has_no_step_begun(store: Episodes) -> None:
    store.reset({"episode_id": "e"})
    with pytest.raises(errors.DeadlineError):
        store.step("e", SAMPLED, caller=Impatient(active=False))
    assert step_count(store, "e") == 0


def test_a_caller_who_hung_up_has_no_call_begun_where_a_store_keeps_them(on_a_file: Callable[..., Episodes]) -> None:
    store, gone = on_a_file(10, 10**6), Impatient(active=False)
    store.reset({"episode_id": "e"})
    with pytest.raises(errors.DeadlineError):
        store.step("e", SAMPLED, caller=gone)
    with pytest.raises(errors.DeadlineError):
        store.reset({"episode_id": "other"}, caller=gone)
    writing = store.writing()
    assert writing is not None
    store.step("e", SAMPLED, writing=writing)
    with pytest.raises(errors.DeadlineError):  # while the step before it waits to be written
        store.step("e", SAMPLED, caller=gone, writing=writing)
    assert writing.finish() == []
    assert step_count(store, "e") == 1
    with pytest.raises(errors.EpisodeUnknownError):
        step_count(store, "other")


def test_a_call_that_was_not_begun_leaves_no_episode_behind(open_store: OpenStore) -> None:
    store = open_store(max_episodes=1)
    with pytest.raises(errors.DeadlineError):
        store.reset({"episode_id": "e"}, caller=Impatient(active=False))
    assert store.live_episodes == 0
    assert store.reset({"episode_id": "another"}).episode_id == "another"


def test_a_read_that_was_not_begun_leaves_nothing_held(on_a_file: Callable[..., Episodes]) -> None:
    store = on_a_file(10, 10**6)
    with pytest.raises(errors.DeadlineError), store.reading("e", caller=Impatient(active=False)):
        pytest.fail("the call was begun")
    assert store.held_episodes == 0


def test_an_episode_that_was_never_opened_is_not_closed_nor_expired(open_store: OpenStore, clock: Clock) -> None:
    store = open_store(idle_timeout_s=10)
    for _ in range(2):
        store.shelf.table.find_or_add("e")  # as a call does that has not begun yet
        assert not store.close("e")
        assert store.live_episodes == 0
    store.shelf.table.find_or_add("e")
    clock.now = 11
    store.expire_idle()
    with pytest.raises(errors.EpisodeUnknownError):
        step(store, "e", 0)


def test_a_store_takes_as_many_episodes_as_the_limit_says(on_a_file: Callable[..., Episodes]) -> None:
    store = on_a_file(3, 10**6)
    for index in range(3):
        store.reset({"episode_id": str(index)})
    with pytest.raises(errors.EpisodeLimitError):
        store.reset({"episode_id": "3"})
    assert store.reset({"episode_id": "2"}).episode_id == "2"
    store.close("0")
    store.reset({"episode_id": "3"})


def test_a_store_takes_as_many_episodes_written_together_as_the_limit_says(
    on_a_file: Callable[..., Episodes],
) -> None:
    store = on_a_file(4, 10**6)
    store.reset({"episode_id": "there"})
    for end in range(2):
        together = store.writing()
        assert together is not None
        store.reset({"episode_id": "there"}, writing=together)
        with pytest.raises(errors.InvalidRequestError):
            store.reset({"messages": ({"role": "", "content": ""},)}, writing=together)
        for index in range(end, 3):
            store.reset({"episode_id": str(index)}, writing=together)
        with pytest.raises(errors.EpisodeLimitError):
            store.reset({"episode_id": "3"}, writing=together)
        assert together.finish() == []
        store.close("2")
        store.close("1")


def test_forks_count_with_all_their_tokens_before_they_are_made(on_a_file: Callable[..., Episodes]) -> None:
    store = on_a_file(1000, 1000)
    store.reset({"episode_id": "e", "messages": ({"role": "user", "content": "x" * 400},)})
    copies = Copies(store)
    with pytest.raises(errors.TokenLimitError):
        copies.fork("e", ["", ""], None)
    assert len(copies.fork("e", [""], None)) == 1


@pytest.mark.parametrize("at_step", [None, 2])
def test_history_may_change_in_an_episode_that_was_imported(
    on_a_file: Callable[..., Episodes], at_step: int | None
) -> None:
    store = on_a_file(100, 10**6)
    copies = Copies(store)
    store.reset({"episode_id": "e", "messages": HELLO})
    step(store, "e", 0)
    for _ in range(2):
        store.step("e", ChatAction(messages=HELLO))
    copies.imported(copies.exported("e"), "copy")
    copies.fork("copy", ["fork"], at_step)
    for episode_id in ("copy", "fork"):
        again = store.step(episode_id, ChatAction(messages=HELLO, replace_from=0))
        store.shelf.table.shrink(0)
        assert store.held_episodes == 0
        with store.reading(episode_id) as environment:
            assert environment.state.token_ids.tolist() == again.token_ids.tolist()


def test_steps_written_together_are_done_again_together_where_another_process_was_quicker(
    engine: TokenEngine, tmp_path: Path
) -> None:
    with (
        contextlib.closing(SqliteStore(tmp_path / "store.db")) as file,
        contextlib.closing(SqliteStore(tmp_path / "store.db")) as same,
    ):
        here, there = (
            Episodes(lambda: ChatEnvironment(engine), Budget(10, 10**6), store=each) for each in (file, same)
        )
        here.reset({"episode_id": "e"})
        together = here.writing()
        assert together is not None
        for key in range(2):
            together.key = key
            here.step("e", SAMPLED, writing=together)
        there.step("e", ChatAction(messages=HELLO))
        assert together.finish() == [(0, None), (1, None)]
        assert [step_count(each, "e") for each in (here, there)] == [1, 1]


@pytest.mark.parametrize("index", [0, 7, None])
def test_a_call_that_writes_nothing_puts_expiry_off_in_every_process(
    engine: TokenEngine, tmp_path: Path, clock: Clock, index: int | None
) -> None:
    with (
        contextlib.closing(SqliteStore(tmp_path / "store.db")) as file,
        contextlib.closing(SqliteStore(tmp_path / "store.db")) as same,
    ):
        budget = Budget(10, 10**6, idle_timeout_s=1000)
        here, there = (
            Episodes(lambda: ChatEnvironment(engine), budget, store=each, clock=lambda: time.time() + clock.now)
            for each in (file, same)
        )
        here.reset({"episode_id": "e"})
        step(here, "e", 0)
        for clock.now in (600, 1200):
            with contextlib.suppress(errors.StepIndexMismatchError):
                step_count(here, "e") if index is None else step(here, "e", index)
            there.expire_idle()
            here.expire_idle()
        assert [step_count(each, "e") for each in (here, there)] == [1, 1]


def test_an_id_whose_episode_this_server_cannot_read_is_taken(engine: TokenEngine, tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as file:
        limited = TokenEngine.load(ByteTokenizer(), token_id_limit=1000)
        budget = Budget(10, 10**6)
        store = Episodes(lambda: ChatEnvironment(engine), budget, store=file)
        other = Episodes(lambda: ChatEnvironment(limited), budget, store=file)
        store.reset({"episode_id": "e"})
        other.reset({"episode_id": "taken"})
        with pytest.raises(errors.TokenizerMismatchError):
            step_count(store, "taken")
        copies = Copies(store)
        with pytest.raises(errors.EpisodeExistsError, match="cannot read"):
            copies.fork("e", ["taken"], None)
        with pytest.raises(errors.EpisodeExistsError, match="cannot read"):
            copies.imported(copies.exported("e"), "taken")
        assert step_count(other, "taken") == 0


def test_a_record_that_holds_no_episode_is_told_as_damaged_and_is_left_as_it_is(
    engine: TokenEngine, tmp_path: Path
) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as file:
        store = Episodes(lambda: ChatEnvironment(engine), Budget(10, 10**6), store=file)
        store.reset({"episode_id": "whole"})
        journal = file.load("whole")
        assert journal is not None
        for episode_id, entry in (("cut", journal.entries[0][:-1]), ("empty", b"")):
            file.write([Begin(episode_id, new_run(), [entry], journal.summary, replaces=False)])
            for _ in range(2):
                with pytest.raises(errors.EpisodeDamagedError, match="is damaged, and is left as it is"):
                    step(store, episode_id, None)
            with pytest.raises(errors.EpisodeDamagedError):
                Copies(store).exported(episode_id)
            left = file.load(episode_id)
            assert left is not None
            assert list(left.entries) == [entry]
            assert store.close(episode_id)


def test_who_waits_for_an_episode_holds_no_other(on_a_file: Callable[..., Episodes]) -> None:
    store = on_a_file(10, 10**6)
    for episode_id in ("done", "held"):
        store.reset({"episode_id": episode_id})
    writing = store.writing()
    assert writing is not None
    store.step("done", SAMPLED, writing=writing)
    with pytest.raises(errors.DeadlineError):
        store.close("done", caller=Impatient())  # its step is not written yet
    held = store.shelf.table.find_or_add("held")
    held.acquire(None)
    with pytest.raises(errors.DeadlineError):
        store.step("held", SAMPLED, caller=Impatient(), writing=writing)
    assert store.close("done", caller=Impatient())
    held.release()
    assert writing.finish() == []


class Untold(ChatEnvironment):
    """One of whose steps the store cannot be told once, as where memory runs out."""

    fails = False

    def newest_piece(self, digest: bytes = b"") -> bytes:
        if Untold.fails:
            Untold.fails = False
            raise MemoryError
        return super().newest_piece(digest)


@pytest.mark.parametrize("together", [False, True])
def test_a_call_that_the_store_cannot_be_told_of_has_changed_nothing(
    engine: TokenEngine, tmp_path: Path, together: bool
) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as file:
        store = Episodes(lambda: Untold(engine), Budget(10, 10**6), store=file)
        store.reset({"episode_id": "e"})
        writing = store.writing() if together else None
        store.step("e", SAMPLED, step_index=0, writing=writing)
        Untold.fails = True
        with pytest.raises(MemoryError):
            store.step("e", ChatAction(messages=HELLO), step_index=1, writing=writing)
        store.step("e", SAMPLED, step_index=1, writing=writing)
        assert writing is None or writing.finish() == []
        Untold.fails = True
        with pytest.raises(MemoryError):
            store.reset({"episode_id": "e"}, writing=writing)
        assert writing is None or writing.finish() == []
        with store.reading("e") as held:
            shown = held.state.token_ids.tolist()
        store.shelf.table.shrink(0)
        with store.reading("e") as loaded:
            assert (loaded.step_count, loaded.state.token_ids.tolist()) == (2, shown)


class Overtaken(SqliteStore):
    """One that is asked for an episode just after another process has ended it, and just before it opens it anew."""

    def __init__(self, path: Path, other: Episodes) -> None:
        self._others: list[Episodes] = [other]
        super().__init__(path)

    def load(self, episode_id: str) -> Journal | None:
        if not self._others:
            return super().load(episode_id)
        other = self._others.pop()
        other.close(episode_id)
        journal = super().load(episode_id)
        other.reset({"episode_id": episode_id})
        return journal


def test_an_episode_that_is_opened_anew_while_it_is_looked_for_is_found(engine: TokenEngine, tmp_path: Path) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as file:
        budget = Budget(10, 10**6)
        other = Episodes(lambda: ChatEnvironment(engine), budget, store=file)
        other.reset({"episode_id": "e"})
        step(other, "e", 0)
        with contextlib.closing(Overtaken(tmp_path / "store.db", other)) as overtaken:
            store = Episodes(lambda: ChatEnvironment(engine), budget, store=overtaken)
            assert step_count(store, "e") == 0


def test_an_episode_at_work_does_not_expire_in_its_store_either(
    engine: TokenEngine, tmp_path: Path, clock: Clock
) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "store.db")) as file:
        budget = Budget(10, 10**6, idle_timeout_s=1000)
        store = Episodes(lambda: ChatEnvironment(engine), budget, store=file, clock=lambda: time.time() + clock.now)
        store.reset({"episode_id": "e"})
        held = store.shelf.table.find_or_add("e")
        held.acquire(None)
        clock.now = 1200
        store.expire_idle()
        assert (there := file.standing("e")) is not None
        assert there.end is None
        held.release()
        clock.now = 2400
        store.expire_idle()
        with pytest.raises(errors.EpisodeExpiredError):
            step(store, "e", 0)


class CountingClock(Clock):
    """Counts how often it is read."""

    reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


def test_a_refused_reset_looks_at_no_episode_while_none_can_be_idle(engine: TokenEngine) -> None:
    clock = CountingClock()
    store = Episodes(lambda: ChatEnvironment(engine), Budget(50, 10**6, idle_timeout_s=10), clock=clock)
    for index in range(50):
        clock.now += 0.1
        store.reset({"episode_id": str(index)})
    reads = []
    for _ in range(3):
        before = clock.reads
        with pytest.raises(errors.EpisodeLimitError):
            store.reset({})
        reads.append(clock.reads - before)
    assert reads[0] > 50  # to learn when the first can be
    assert max(reads[1:]) < 5
    clock.now = 10.15
    assert store.reset({}).episode_id  # the first has expired
    with pytest.raises(errors.EpisodeExpiredError):
        step(store, "0", 0)


def test_an_episode_that_a_call_holds_as_it_would_expire_expires_later(open_store: OpenStore, clock: Clock) -> None:
    store = open_store(idle_timeout_s=10)
    store.reset({"episode_id": "e"})
    clock.now = 11
    held = store.shelf.table.find_or_add("e")
    held.acquire(None)
    store.expire_idle()
    held.release()
    assert store.live_episodes == 1
    clock.now = 22
    store.expire_idle()
    assert store.live_episodes == 0
