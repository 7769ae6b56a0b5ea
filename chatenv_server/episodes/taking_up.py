"""Lets episodes live that a snapshot holds: all of them, written together, or none."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import (
    ChatEnvError,
    EpisodeDamagedError,
    EpisodeExistsError,
    EpisodeNotFoundError,
    TokenizerMismatchError,
)
from chatenv_client.models import ChatObservation
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.snapshots import prove_last_span
from chatenv_server.episodes.answers import Answer
from chatenv_server.episodes.episode import Caller, Episode, Write
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.episodes.summaries import summary_of
from chatenv_server.episodes.writing import write_timed
from chatenv_server.stores.store import Begin, End, Place, new_run
from chatenv_server.work import done


class _Newcomer(NamedTuple):
    """An episode that is to become live."""

    environment: ChatEnvironment
    observation: ChatObservation


class TakingUp:
    """Makes live episodes of snapshots. Safe to use from many threads."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes
        self._shelf = episodes.shelf
        self._store = episodes.shelf.store

    def take_up(
        self,
        ids: Sequence[str],
        snapshot: pb.EpisodeSnapshot,
        caller: Caller | None,
        answer: Write | None,
    ) -> None:
        """Let a snapshot's episode live under each of these ids. One that lives there already stays, if it is the same.

        Raises:
            EpisodeExistsError: under one of the ids another episode lives; then none is made.
        """
        waiting = {episode_id: self._newcomer(episode_id, snapshot) for episode_id in ids}
        prove_last_span(snapshot)  # now that it has been found whole
        if answer is not None:
            answer(waiting[ids[0]].observation)
        begun: list[str] = []
        try:
            while waiting:
                begun += self._begin_free(waiting, snapshot, caller)
        except BaseException:
            for episode_id in begun:
                with suppress(ChatEnvError):
                    self._episodes.close(episode_id)
            raise

    def _newcomer(self, episode_id: str, snapshot: pb.EpisodeSnapshot) -> _Newcomer:
        snapshot.episode_id = episode_id
        environment = self._shelf.open_environment()
        return _Newcomer(environment, environment.restore(snapshot))

    def _begin_free(
        self, waiting: dict[str, _Newcomer], snapshot: pb.EpisodeSnapshot, caller: Caller | None
    ) -> list[str]:
        """Begin those whose id is free, and take out of `waiting` what is live now; the ids of those begun."""
        with ExitStack() as held:
            free: list[Episode] = []
            for episode_id in sorted(waiting):  # in one order, so that no two calls wait for each other
                episode = done(self._shelf.open_place(episode_id, caller))
                held.callback(self._let_go, episode)
                self._look_up(episode)
                if episode.environment is not None:
                    _check_same(episode.environment, waiting[episode_id].environment)
                    del waiting[episode_id]
                elif not episode.is_out:
                    free.append(episode)
            begun = self._begin(free, waiting, snapshot) if free else []
            for episode_id in begun:
                del waiting[episode_id]
            return begun

    def _look_up(self, episode: Episode) -> None:
        """Let an episode be here if it is live. One that was here and is not any more is out."""
        try:
            self._shelf.look_up(episode)
        except EpisodeNotFoundError:
            return  # it ended meanwhile
        except (EpisodeDamagedError, TokenizerMismatchError) as error:
            raise EpisodeExistsError(
                f"an episode {episode.episode_id!r} is live that this server cannot read; "
                "choose another id, or close that one"
            ) from error
        if episode.environment is None:
            return
        if self._shelf.is_outdated(episode, None):
            self._shelf.drop(episode)
        elif self._shelf.usage.is_idle(episode):
            self._shelf.endings.end(episode, End.EXPIRED)

    def _let_go(self, episode: Episode) -> None:
        if episode.environment is None:
            self._shelf.drop(episode)
        self._shelf.release(episode)

    def _begin(
        self, free: Sequence[Episode], newcomers: Mapping[str, _Newcomer], snapshot: pb.EpisodeSnapshot
    ) -> list[str]:
        """Let episodes live here and in the store; the ids of those where no other process was quicker."""
        table, pieces = self._shelf.table, _pieces(snapshot)
        tokens = newcomers[free[0].episode_id].environment.held_tokens
        self._episodes.check_room(len(free), tokens * len(free))
        table.reserve(tokens * len(free))
        try:
            created = time.time()
            begins = [_begin_of(episode, newcomers, pieces, created) for episode in free]
            took = write_timed(self._store, begins, self._shelf.telemetry)
            for episode, begin, took_place in zip(free, begins, took, strict=True):
                if took_place:
                    self._settle(episode, newcomers[episode.episode_id], Place(begin.run, len(pieces)), created)
                    if digest := snapshot.entries[-1].request_digest:
                        episode.answer = Answer(newcomers[episode.episode_id].observation, digest)
        finally:
            for episode in free:
                table.account(episode, reserved=tokens)
        return [episode.episode_id for episode in free if episode.environment is not None]

    def _settle(self, episode: Episode, newcomer: _Newcomer, place: Place, created: float) -> None:
        episode.begin(newcomer.environment, place, created)
        episode.segment = newcomer.observation.segment
        self._shelf.telemetry.episode_started()


def _begin_of(episode: Episode, newcomers: Mapping[str, _Newcomer], pieces: Sequence[bytes], created: float) -> Begin:
    name = pb.EpisodeSnapshot(episode_id=episode.episode_id).SerializeToString()
    summary = summary_of(newcomers[episode.episode_id].environment, created)
    entries = [name + pieces[0], *pieces[1:]]
    return Begin(episode.episode_id, new_run(), entries, summary, replaces=False)


def _pieces(snapshot: pb.EpisodeSnapshot) -> list[bytes]:
    """A snapshot in pieces, one an entry, without the episode's id."""
    opening = pb.EpisodeSnapshot()
    opening.CopyFrom(snapshot)
    opening.episode_id = ""
    del opening.entries[1:]
    more = (pb.EpisodeSnapshot(entries=[entry]) for entry in snapshot.entries[1:])
    return [piece.SerializeToString() for piece in (opening, *more)]


def _check_same(there: ChatEnvironment, here: ChatEnvironment) -> None:
    """Raise EpisodeExistsError unless what is live under an id is what was to become live."""
    if not _are_alike(there, here):
        raise EpisodeExistsError(
            f"an episode {there.episode_id!r} is live, and another one than this; choose another id, or close that one"
        )


def _are_alike(there: ChatEnvironment, here: ChatEnvironment) -> bool:
    """Whether two environments hold the same episode."""
    return wire.state_to_proto(there.state) == wire.state_to_proto(here.state) and (
        wire.trajectory_to_proto(there.trajectory()).SerializeToString()
        == wire.trajectory_to_proto(here.trajectory()).SerializeToString()
    )
