"""Calls the transform of one episode: within a deadline, and taking nothing of its result but what it may set.

All of that happens inside the step, so the environment takes the step back when the transform fails.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from chatenv_client.errors import ChatEnvError, InvalidRequestError, TransformError, TransformTimeoutError
from chatenv_client.models import ChatObservation
from chatenv_client.reasons import Reason
from chatenv_client.wire.json_fields import dump_json, load_object
from chatenv_server.environment.transforms import Transform, keeps_state
from chatenv_server.threads import start_thread


class TransformGuard:
    """The guarded transform of one episode.

    A call that overran cannot be stopped. It goes on in its thread, and the episode's next call first waits for it,
    within a deadline of its own. So calls of one episode never overlap.
    """

    def __init__(self, transform: Transform, timeout_s: float = 0.0) -> None:
        self._transform = transform
        self._timeout_s = timeout_s
        """Seconds a call may take; 0: any."""
        self._running: _Running | None = None
        self._owed: Mapping[str, Any] | None = None
        """State that it has to be given before it is called again."""
        self._keeps_state = keeps_state(transform)

    def outcome(self, observation: ChatObservation) -> ChatObservation:
        """The observation with the reward, the end and the metadata that the transform gives it.

        Whatever else the transform sets stays with the copy that it is given. That a limit truncated the episode it
        cannot undo.

        Raises:
            TransformTimeoutError: it takes too long.
            TransformError: it raises, which is then the cause, or sets what no observation can hold.
        """
        result = self._called("the transform", self._transform, copy.copy(observation))
        if not isinstance(result, ChatObservation):
            raise _failure(f"the transform returned {type(result).__name__}, not an observation")
        try:
            outcome = _outcome(result)
        except BaseException as error:
            if isinstance(error, TransformError) or _is_the_users(error):
                raise
            # To read a value may run code of the transform's, or of its libraries: a tensor's, say.
            raise _failure("the transform set what cannot be read") from error
        observation.reward, observation.terminated, truncated, observation.metadata = outcome
        observation.truncated = observation.truncated or truncated
        return observation

    # -- state that the transform keeps -----------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """What `state_dict` of the transform gives, as JSON has it; None: it has no such method.

        Raises:
            TransformTimeoutError: it takes too long.
            TransformError: it raises, or gives what is no JSON object.
        """
        if not self._keeps_state:
            return None
        state = self._called("state_dict of the transform", self._transform.state_dict)  # type: ignore[attr-defined]
        if not isinstance(state, Mapping):
            raise _failure(f"state_dict of the transform returned {type(state).__name__}, not a mapping")
        try:
            text = dump_json(dict(state), "state_dict", Reason.BAD_METADATA)
            return load_object(text, "state_dict", Reason.BAD_METADATA)
        except InvalidRequestError as error:
            raise _failure(f"state_dict of the transform returned what is not JSON ({error.message})") from error

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Give the transform its state back. None: it kept none.

        Raises:
            TransformTimeoutError: it takes too long.
            TransformError: `load_state_dict` raises.
        """
        if self._keeps_state and state is not None:
            self._owed = state
            self._make_ready()

    def take_back(self, state: Mapping[str, Any] | None) -> None:
        """Give the transform its state back after a step that failed, at the latest before it is called again."""
        self._owed = state if self._keeps_state else None
        if self._running is None:  # else it goes on, and would change what it is given
            with contextlib.suppress(ChatEnvError):
                self._make_ready()

    def copied(self) -> TransformGuard:
        """A guard of the same transform, or of a copy where it keeps state.

        Raises:
            TransformError: it cannot be copied.
        """
        if not self._keeps_state:
            return TransformGuard(self._transform, self._timeout_s)
        return TransformGuard(self._called("a copy of the transform", copy.deepcopy, self._transform), self._timeout_s)

    # -- calls ------------------------------------------------------------------------------------

    def _called(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the transform or a method of it, once it is where it should be."""
        self._make_ready()
        return self._returned(what, function, *arguments)

    def _make_ready(self) -> None:
        """Wait for a call that overran, then give the transform the state that it is owed."""
        if self._running is not None:
            self._wait_for(self._running)
            self._running = None
        if self._owed is not None:
            state = copy.deepcopy(dict(self._owed))
            load = self._transform.load_state_dict  # type: ignore[attr-defined]
            self._returned("load_state_dict of the transform", load, state)
            self._owed = None

    def _returned(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._timeout_s:
            try:
                return function(*arguments)
            except BaseException as error:
                if _is_the_users(error):
                    raise
                raise _failure(f"{what} raised") from error
        self._running = running = _Running(partial(function, *arguments))
        self._wait_for(running)
        self._running = None
        if (raised := running.raised) is not None:
            running.raised = None  # its frames hold this one
            raise _failure(f"{what} raised") from raised
        return running.result

    def _wait_for(self, running: _Running) -> None:
        if not running.ended.wait(self._timeout_s):
            raise TransformTimeoutError(
                f"the transform took longer than {self._timeout_s:g} s and the step was taken back; "
                "mend it, or raise --transform-timeout"
            )


class _Running:
    """A call of a transform, in a thread of its own.

    Raises:
        ServerBusyError: the machine gives no thread for it.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.ended = threading.Event()
        self.result: Any = None
        self.raised: BaseException | None = None
        start_thread(partial(self._run, call), "transform")

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.result = call()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self.raised = error
        finally:
            self.ended.set()


def _is_the_users(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C, which only the main thread is told of. All else is the transform's doing."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def _outcome(result: ChatObservation) -> tuple[float | None, bool, bool, dict[str, Any]]:
    """The four things that a transform may set, as an observation holds them."""
    ends = _end(result.terminated, "terminated"), _end(result.truncated, "truncated")
    return _reward(result.reward), *ends, _metadata(result.metadata)


def _reward(value: Any) -> float | None:
    if value is None:
        return None
    try:
        reward = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        reward = math.nan
    if not math.isfinite(reward):
        raise _failure("the transform set a reward that is no finite number")
    return reward


def _end(value: Any, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise _failure(f"the transform set {name} to a {type(value).__name__}, not a bool")
    return bool(value)


def _metadata(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _failure(f"the transform set metadata to a {type(value).__name__}, not a mapping")
    metadata = dict(value)
    if metadata:
        try:
            dump_json(metadata, "metadata", Reason.BAD_METADATA)
        except InvalidRequestError as error:
            raise _failure(f"the transform set metadata that is not JSON ({error.message})") from error
    return metadata


def _failure(what: str) -> TransformError:
    return TransformError(f"{what}; the step was taken back")
