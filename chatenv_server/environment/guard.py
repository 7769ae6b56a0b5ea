"""Runs a transform for a server: within a deadline, and refusing a result that cannot be sent.

Both happen inside the step, so the environment takes the step back when the transform fails either.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import Any

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import TransformError, TransformTimeoutError
from chatenv_client.models import ChatObservation
from chatenv_server.environment.transforms import Transform


class TransformGuard:
    """The guarded transform of one episode; itself a transform.

    A call that overran cannot be stopped. It goes on in its thread, and the episode's next call first waits for it,
    within a deadline of its own. So calls of one episode never overlap.
    """

    def __init__(self, transform: Transform, timeout_s: float) -> None:
        self._transform = transform
        self._timeout_s = timeout_s
        """Seconds a call may take; 0: any."""
        self._running: Future[ChatObservation] | None = None

    def __call__(self, observation: ChatObservation) -> Any:
        """Transform an observation.

        Raises:
            TransformTimeoutError: it takes too long.
            TransformError: the result cannot be sent.
            Exception: whatever the transform raises.
        """
        if not self._timeout_s:
            return _checked(self._transform(observation))
        self._wait_for(self._running)
        self._running = self._started(observation)
        self._wait_for(self._running)
        return _checked(self._running.result())

    def _started(self, observation: ChatObservation) -> Future[ChatObservation]:
        future: Future[ChatObservation] = Future()

        def run() -> None:
            try:
                future.set_result(self._transform(observation))
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                future.set_exception(error)

        # A daemon, because a transform that hangs must not keep the server from ending.
        threading.Thread(target=run, name="transform", daemon=True).start()
        return future

    def _wait_for(self, call: Future[ChatObservation] | None) -> None:
        if call is not None and wait([call], self._timeout_s).not_done:
            raise TransformTimeoutError(
                f"the transform took longer than {self._timeout_s:g} s and the step was taken back; "
                "mend it, or raise --transform-timeout"
            )


def _checked(result: Any) -> Any:
    """What a transform returned. The environment refuses what is no observation."""
    return _sendable(result) if isinstance(result, ChatObservation) else result


def _sendable(observation: ChatObservation) -> ChatObservation:
    """The observation with its reward as a float, if all that a transform may set can be written to the wire."""
    try:
        if observation.reward is not None:
            observation.reward = float(observation.reward)
        wire.write_observation(
            pb.Observation(),
            ChatObservation(
                reward=observation.reward,
                terminated=observation.terminated,
                truncated=observation.truncated,
                metadata=observation.metadata,
            ),
        )
    except (TypeError, ValueError) as error:
        raise TransformError(
            "the transform set a reward that is no number, an end that is no bool, or metadata that is not JSON; "
            "the step was taken back"
        ) from error
    return observation
