"""Calls that take an episode elsewhere: one exports it as a snapshot, the other makes a snapshot live.

Like those of a session they are built and read here, without any input or output.
"""

from __future__ import annotations

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call
from chatenv_client.errors import ProtocolError
from chatenv_client.mirror import Mirror
from chatenv_client.reading import check_episode


def export(episode_id: str) -> Call[pb.EpisodeSnapshot]:
    """Read the whole episode, to take it elsewhere."""

    def receive(response: pb.ExportEpisodeResponse) -> pb.EpisodeSnapshot:
        check_episode(response.snapshot.episode_id, episode_id)
        return response.snapshot

    return Call("ExportEpisode", pb.ExportEpisodeRequest(episode_id=episode_id), receive)


def take_up(snapshot: pb.EpisodeSnapshot | bytes, episode_id: str | None) -> Call[Mirror]:
    """Make an exported episode live, under its own id or another one; its mirror.

    Raises:
        InvalidRequestError: the bytes are no snapshot.
    """
    told = wire.snapshot_of_bytes(snapshot) if isinstance(snapshot, bytes) else snapshot
    name = episode_id or told.episode_id
    steps = len(told.entries) - 1

    def receive(response: pb.ImportEpisodeResponse) -> Mirror:
        opened = told.entries[0].opened if told.entries else pb.ResetRequest()
        seed = opened.seed if opened.HasField("seed") else None
        mirror = Mirror.of_copy(wire.observation_from_proto(response.observation), name, steps, seed)
        if told.entries[-1].prompt_fingerprint not in ("", mirror.prompt_fingerprint):
            raise ProtocolError(f"episode {name!r} has another stream than its snapshot; update the older side")
        return mirror

    return Call("ImportEpisode", pb.ImportEpisodeRequest(snapshot=told, episode_id=name), receive)
