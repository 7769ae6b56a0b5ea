"""An object that somebody else wrote, a transform or a task, in the hands of one episode.

It is called within a deadline, one call at a time, and gets its state back where a step is taken back.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from chatenv_client.errors import ChatEnvError, InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import dump_json, load_object
from chatenv_server.environment.user_calls import Lasting, UserCall
from chatenv_server.tasks.user_functions import is_async, is_the_users
from chatenv_server.work import done

State = dict[str, Any]
"""JSON."""


class StateKeeper(Protocol):
    """How the state of an object is told and given back."""

    def told(self) -> State | None:
        """The state; None: there is one that cannot be told. Raises BadState."""

    def give_back(self, state: State) -> None:
        """Be where that was told."""


class Kind(NamedTuple):
    """What messages call such an object, and how it fails."""

    name: str
    option: str
    """The setting of its deadline."""
    failed: type[ChatEnvError]
    overdue: type[ChatEnvError]


class BadState(Exception):  # noqa: N818 - told as the failure that it is
    """What was told as state is none. Says why."""


class UserCode:
    """One object of a user's.

    A call that overran cannot be stopped. It goes on, and the next call first waits for it, within a deadline of its
    own. So calls of one object never overlap.

    Args:
        kind: what it is.
        timeout_s: seconds that a call may take; 0: any.
        keeper: tells its state; None: it keeps none.
    """

    def __init__(self, kind: Kind, timeout_s: float, keeper: StateKeeper | None) -> None:
        self.kind = kind
        self.timeout_s = timeout_s
        self.keeper = keeper
        self._async: dict[int, bool] = {}
        """Of a function by its `id`, whether it is async: that takes long to find out."""
        self._running: UserCall | None = None
        """A call that overran, or that was given up."""
        self._owed: State | None = None
        """State that it has to be given before it is called again."""

    async def called(self, what: str, function: Callable[..., Any], argument: Any) -> tuple[Any, State | None]:
        """Call it, once it is where it should be: what that gives, and its state afterwards.

        Raises:
            ChatEnvError: of its kind; what it raised is the cause.
        """
        if self._running is not None or self._owed is not None:
            await self._make_ready()
        call = partial(self._with_state, function, argument)
        told: tuple[Any, State | None] = await self._returned(what, call, is_async=self._is_async(function))
        return told

    def _is_async(self, function: Callable[..., Any]) -> bool:
        plain = id(getattr(function, "__func__", function))
        known = self._async.get(plain)
        if known is None:
            known = self._async[plain] = is_async(function)
        return known

    async def state(self) -> State | None:
        """Its state as it is now; None: it keeps nothing that could be told. Raises as `called`."""
        if self.keeper is None:
            return None
        _, state = await self.called(f"state_dict of the {self.kind.name}", _nothing, None)
        return state

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Give it a state. Raises as `called`."""
        self._owed = dict(state)
        await self._make_ready()

    def take_back(self, state: Mapping[str, Any] | None) -> None:
        """Give it its state back after a step that failed, at the latest before it is called again. None: it has none.

        Where a deadline has to be watched, or a call goes on still, that is later.
        """
        self._owed = None if self.keeper is None or state is None else dict(state)
        if self._owed is not None and self._running is None and not self.timeout_s:
            with contextlib.suppress(ChatEnvError):
                done(self._make_ready())

    @property
    def is_at_rest(self) -> bool:
        """Whether no call that overran goes on still."""
        return self._running is None or self._running.is_over

    async def at_rest(self) -> None:
        """Wait for a call that overran, however long it lasts."""
        if self._running is not None:
            await Lasting(self._running, None)

    # -- calls ------------------------------------------------------------------------------------

    async def _make_ready(self) -> None:
        """Wait for a call that overran, then give the object the state that it is owed."""
        if self._running is not None:
            if not await Lasting(self._running, self.timeout_s):
                raise self._overdue()
            self._running = None
        if self._owed is not None and self.keeper is not None:
            state, keeper = copy.deepcopy(self._owed), self.keeper
            await self._returned(
                f"load_state_dict of the {self.kind.name}", lambda: keeper.give_back(state), is_async=False
            )
            self._owed = None

    async def _returned(self, what: str, function: Callable[[], Any], *, is_async: bool) -> Any:
        call = UserCall(function, self.timeout_s, is_async=is_async)
        try:
            outcome = await call
        finally:
            self._running = call if call.began and not call.is_over else None
        if outcome.is_overdue:
            raise self._overdue()
        raised, outcome.raised = outcome.raised, None
        if raised is None:
            return outcome.returned
        if is_the_users(raised):
            raise raised
        if isinstance(raised, BadState):
            raise self.failure(str(raised)) from raised.__cause__
        raise self.failure(f"{what} raised") from raised

    def failure(self, what: str) -> ChatEnvError:
        """The error of its kind, that says what happened."""
        return self.kind.failed(f"{what}; the step was taken back")

    def _overdue(self) -> ChatEnvError:
        return self.kind.overdue(
            f"the {self.kind.name} took longer than {self.timeout_s:g} s and the step was taken back; "
            f"mend it, or raise --{self.kind.option}"
        )

    # -- state ------------------------------------------------------------------------------------

    def _with_state(self, function: Callable[..., Any], argument: Any) -> Any:
        """Call and then tell the state: both in one call."""
        result = function(argument)
        is_awaitable = hasattr(type(result), "__await__")  # `inspect.isawaitable` takes longer than all else here
        return self._finished(result) if is_awaitable else (result, self._told())

    async def _finished(self, result: Awaitable[Any]) -> tuple[Any, State | None]:
        return await result, self._told()

    def _told(self) -> State | None:
        """The state as JSON has it. Raises BadState."""
        if self.keeper is None:
            return None
        try:
            return self.keeper.told()
        except BadState:
            raise
        except BaseException as error:
            raise BadState(f"state_dict of the {self.kind.name} raised") from error


def keeps_state(owner: Any) -> bool:
    """Whether an object says itself what its state is."""
    return all(state_methods(owner).values())


def state_methods(owner: Any) -> dict[str, bool]:
    """Which of the two methods it has that this takes."""
    return {name: callable(getattr(owner, name, None)) for name in ("state_dict", "load_state_dict")}


class OwnState(StateKeeper):
    """The state of an object that says itself what it is: by `state_dict` and `load_state_dict`.

    Args:
        owner: the object.
        kind: what messages call it.
    """

    def __init__(self, owner: Any, kind: Kind) -> None:
        self._owner = owner
        self._kind = kind

    def told(self) -> State:
        """What `state_dict` returns."""
        return _own_state(self._owner.state_dict(), self._kind.name)

    def give_back(self, state: State) -> None:
        """Calls `load_state_dict`."""
        self._owner.load_state_dict(state)


def _own_state(state: Any, what: str) -> State:
    """What `state_dict` of somebody's returned, as JSON has it. Raises BadState."""
    if not isinstance(state, Mapping):
        raise BadState(f"state_dict of the {what} returned {type(state).__name__}, not a mapping")
    try:
        return load_object(dump_json(dict(state), "state_dict", Reason.BAD_METADATA), "state", Reason.BAD_METADATA)
    except InvalidRequestError as error:
        raise BadState(f"state_dict of the {what} returned what is not JSON ({error.message})") from error


def _nothing(_: None) -> None:
    pass
