"""Calls that read an episode and change nothing: its state, its trajectory, an audit, what messages would add.

Like those of a session they are built and read here, without any input or output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from chatenv_client import wire
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client.calls import Call
from chatenv_client.errors import ProtocolError
from chatenv_client.models import AuditReport, ChatAction, ChatState, Message, Rendered, Trajectory, own_message


def state(episode_id: str) -> Call[ChatState]:
    """Read the whole episode."""

    def receive(response: pb.GetStateResponse) -> ChatState:
        check_episode(response.episode_id, episode_id)
        return wire.state_from_proto(response)

    return Call("GetState", pb.GetStateRequest(episode_id=episode_id), receive)


def trajectory(episode_id: str, *, assistants: bool) -> Call[Trajectory]:
    """Read the episode as training wants it, perhaps with what given assistants say."""
    request = pb.GetTrajectoryRequest(episode_id=episode_id, assistants=assistants)
    return Call("GetTrajectory", request, partial(trajectory_of, episode_id, assistants=assistants))


def trajectory_of(episode_id: str, response: pb.GetTrajectoryResponse, *, assistants: bool) -> Trajectory:
    """The trajectory of an episode from an answer about it.

    Raises:
        ProtocolError: the answer is about another episode.
    """
    check_episode(response.episode_id, episode_id)
    return wire.trajectory_from_proto(response, assistants=assistants)


def audit(episode_id: str) -> Call[AuditReport]:
    """Compare the stream with a full rendering."""
    return Call("AuditEpisode", pb.AuditEpisodeRequest(episode_id=episode_id), wire.audit_from_proto)


def render(messages: Sequence[Mapping[str, Any]], episode_id: str) -> Call[Rendered]:
    """Ask what messages would add now."""
    return Call("RenderMessage", wire.render_to_proto(messages, episode_id=episode_id), wire.rendered_from_proto)


def preview(message: Mapping[str, Any], episode_id: str) -> Call[ChatAction]:
    """Make an action of a message, with the tokens that it would add now."""
    given: Message = own_message(message)
    rendering = render([given], episode_id)
    return rendering.then(lambda rendered: ChatAction(tokens=rendered.tokens, messages=(given,)))


def check_episode(answered: str, asked: str) -> None:
    """Hold the episode that an answer is about against the one that was asked for.

    Raises:
        ProtocolError: they differ.
    """
    if answered != asked:
        what = f"the answer is about episode {answered!r}, not {asked!r}; update the older of client and server"
        raise ProtocolError(what)
