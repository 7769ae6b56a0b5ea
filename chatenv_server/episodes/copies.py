"""Episodes copied and listed: forks, exports, imports, pages of a list. What is copied is the journal, as snapshots."""

from __future__ import annotations

import time
from collections.abc import Sequence

from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.errors import InvalidRequestError
from chatenv_client.reasons import Reason
from chatenv_server.environment.snapshots import cut_at, mark_as_fork, seal
from chatenv_server.episodes.calls import environment_of
from chatenv_server.episodes.episode import Caller, Write
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.episodes.ids import checked_id
from chatenv_server.episodes.summaries import summary_of
from chatenv_server.episodes.taking_up import TakingUp
from chatenv_server.stores.paging import Use, chosen, use_after
from chatenv_server.stores.store import Listed

MAX_PAGE = 1000
"""Episodes of one page."""


class Copies:
    """Copies and lists the episodes of a server. Safe to use from many threads."""

    def __init__(self, episodes: Episodes) -> None:
        self._shelf = episodes.shelf
        self._store = episodes.shelf.store
        self._taking_up = TakingUp(episodes)

    # -- out --------------------------------------------------------------------------------------

    def exported(self, episode_id: str, *, caller: Caller | None = None) -> pb.EpisodeSnapshot:
        """The whole episode.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
        """
        snapshot = self._snapshot(episode_id, None, caller)
        seal(snapshot)
        return snapshot

    def _snapshot(self, episode_id: str, at_step: int | None, caller: Caller | None) -> pb.EpisodeSnapshot:
        with self._shelf.reading(episode_id, caller) as episode:
            if self._store.keeps:
                snapshot = self._shelf.journals.snapshot_of(episode_id)
                if at_step is not None:
                    cut_at(snapshot, at_step)
                return snapshot
            environment = environment_of(episode)
            snapshot = environment.snapshot(at_step)
            if episode.answer is not None and len(snapshot.entries) == environment.step_count + 1:
                snapshot.entries[-1].request_digest = episode.answer.digest
            return snapshot

    # -- in ---------------------------------------------------------------------------------------

    def fork(
        self,
        episode_id: str,
        fork_ids: Sequence[str],
        at_step: int | None,
        *,
        caller: Caller | None = None,
        answer: Write | None = None,
    ) -> list[str]:
        """New episodes that share an episode's past up to a step, or until now: all of them or none; their ids.

        They are of the episode's group; where it has none, of one that has the episode's id as its name.

        Args:
            episode_id: the episode.
            fork_ids: ids of the new ones; an empty text: one is chosen.
            at_step: the last step to share; None: all.
            caller: who waits for the answer.
            answer: writes what each of them shows. If it fails, there are none.

        Raises:
            EpisodeNotFoundError: unknown, closed or expired.
            EpisodeExistsError: an id is that of another live episode.
            InvalidRequestError: a bad id, or no such step.
        """
        ids = [checked_id(fork_id, f"fork_ids[{index}]") for index, fork_id in enumerate(fork_ids)]
        snapshot = self._snapshot(episode_id, at_step, caller)
        mark_as_fork(snapshot, episode_id)
        self._taking_up.take_up(ids, snapshot, caller, answer)
        return ids

    def imported(
        self,
        snapshot: pb.EpisodeSnapshot,
        episode_id: str = "",
        *,
        caller: Caller | None = None,
        answer: Write | None = None,
    ) -> str:
        """Let the episode of a snapshot live, under its own id or another one; the id.

        Raises:
            EpisodeExistsError: the id is that of another live episode.
            TokenizerMismatchError: another tokenizer, chat template or token-id limit wrote it.
            InvalidRequestError: a bad id, or a snapshot that cannot be read.
        """
        taken_up = checked_id(episode_id or snapshot.episode_id)
        self._taking_up.take_up([taken_up], snapshot, caller, answer)
        return taken_up

    # -- lists ------------------------------------------------------------------------------------

    def listed(self, prefix: str, after: str, limit: int) -> tuple[Sequence[Listed], str]:
        """Live episodes whose id begins with `prefix`, newest use first; and where the next page begins.

        Raises:
            InvalidRequestError: there is no such page.
        """
        if limit > MAX_PAGE:
            raise _no_page(f"a page has at most {MAX_PAGE} episodes, not {limit}", "page_size")
        try:
            if self._store.keeps:
                return self._store.listed(prefix, after, limit)
            return self._held(prefix, after, limit)
        except ValueError as error:
            raise _no_page("page_token is none that this server gave", "page_token") from error

    def _held(self, prefix: str, after: str, limit: int) -> tuple[Sequence[Listed], str]:
        """A page of the episodes that this process holds. Raises ValueError where there is no such page."""
        start = use_after(after)
        here = {
            Use(episode.last_used, episode.episode_id): (environment, episode.created)
            for episode in self._shelf.table.all()
            if episode.episode_id.startswith(prefix) and (environment := episode.environment) is not None
        }
        page, following = chosen(sorted((use for use in here if use < start), reverse=True), "", limit)
        age = self._shelf.clock() - time.time()
        listed = [Listed(use.episode_id, summary_of(*here[use])._replace(last_used=use.at - age)) for use in page]
        return listed, following


def _no_page(what: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(what, reason=Reason.BAD_PAGE, field=field)
