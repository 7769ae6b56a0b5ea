"""Forks: the calls that make episodes which share another one's past, and the ids that they are asked for under.

Without any input or output.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call
from chatenv_client.errors import ProtocolError
from chatenv_client.mirror import Mirror


class Forks:
    """The forks that one client asks for. Forks of lost answers are found again: they keep their ids until answered."""

    def __init__(self) -> None:
        self._unanswered: dict[tuple[str, int], str] = {}
        """How the ids of forks begin that were not answered yet, by episode and step. Where only the answer was lost,
        the next call asks for the same ones, and leaves none behind that nobody knows."""

    def ask(self, mirror: Mirror, n: int, episode_ids: Sequence[str] | None, at_step: int | None) -> Call[list[Mirror]]:
        """Make episodes that share one's past up to a step, or as its mirror knows it; a mirror of each.

        Raises:
            ValueError: `n` or `episode_ids` asks for no episode.
            InvalidRequestError: there is no such step.
        """
        step = mirror.step_count if at_step is None else at_step
        key = (mirror.episode_id, step)
        ids = self._ids(key, n, episode_ids)

        def receive(response: pb.ForkEpisodeResponse) -> list[Mirror]:
            if list(response.fork_ids) != ids:
                what = "the answer names other forks than were asked for; update the older of client and server"
                raise ProtocolError(what)
            delta = wire.observation_from_proto(response.observation)
            mirrors = [Mirror.of_copy(delta, fork_id, step, mirror.seed) for fork_id in ids]
            if step == mirror.step_count and delta.observation.prompt_fingerprint != mirror.prompt_fingerprint:
                raise ProtocolError(f"the forks are of another stream than {mirror.episode_id!r} has; call resume()")
            self._unanswered.pop(key, None)
            return mirrors

        return Call("ForkEpisode", wire.fork_to_proto(mirror.episode_id, ids, step), receive)

    def _ids(self, key: tuple[str, int], n: int, episode_ids: Sequence[str] | None) -> list[str]:
        if isinstance(episode_ids, str) or (episode_ids is not None and n not in (1, len(episode_ids))):
            raise ValueError("episode_ids has one id for each fork; give n, or the ids")
        if (n if episode_ids is None else len(episode_ids)) < 1:
            raise ValueError("a fork makes at least one episode")
        if episode_ids is not None:
            return list(episode_ids)
        begin = self._unanswered.setdefault(key, uuid.uuid4().hex)
        return [f"{begin}.{number}" for number in range(n)]
