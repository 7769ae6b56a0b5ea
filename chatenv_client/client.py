"""ChatEnv: the synchronous client. Its `Session` builds the calls and reads the answers; its connection makes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from chatenv_client._connection import FAREWELL_S, Connection, yielding_to
from chatenv_client._generated.chatenv_pb2 import EpisodeSnapshot
from chatenv_client.calls import DEFAULT_TIMEOUT_S, CallDefaults
from chatenv_client.channel import DEFAULT_MAX_MESSAGE_BYTES, Tls
from chatenv_client.docker import ContainerOptions, ServerContainer
from chatenv_client.episode_client import EpisodeClient
from chatenv_client.models import Action, ChatAction, ResetOptions, StepResult, Trajectory
from chatenv_client.preview import action_from_message
from chatenv_client.session import Session

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class ChatEnv(EpisodeClient):
    """One episode on a chatenv server, as a context manager.

        with ChatEnv("localhost:50051") as env:
            result = env.reset(seed=7)
            result = env.step({"role": "user", "content": "Hello!"})
            result = env.step(ChatAction(tokens=sample(result.observation.tokens)))

    Threads: use one ChatEnv from one thread at a time; any number of them may share a channel across threads.
    Processes: those made by `spawn` and `forkserver` open clients of their own. A process forked from one that has used
    a client gets a RuntimeError, since gRPC would hang there.
    """

    def __init__(
        self,
        target: str | grpc.Channel,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
        token: str | None = None,
        affinity: bool = False,
    ) -> None:
        """Connect with the first call.

        Args:
            target: `host:port`, `unix:///path`, `dns:///name:port`, or a ready channel, which is left open.
            timeout_s: deadline of each call that gives none of its own.
            max_message_bytes: largest message either way, as on the server. Not with a ready channel.
            tls: certificates; None is plain text. Not with a ready channel.
            token: bearer token that goes along with every call. Without TLS it can be read on the way.
            affinity: whether the calls of an episode stick to one of the servers that the target names, by a hash of
                its id. A ready channel needs it in its `channel_options`, too.

        Raises:
            ValueError: the target is no gRPC target, no header can carry the token, or an option is the channel's.
        """
        defaults = CallDefaults.of(timeout_s=timeout_s, token=token, affinity=affinity)
        connection = Connection(target, defaults, tls=tls, max_message_bytes=max_message_bytes, affinity=affinity)
        super().__init__(connection, Session())

    @classmethod
    def from_docker_image(
        cls,
        image: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        token: str | None = None,
        **container: Unpack[ContainerOptions],
    ) -> Self:
        """Start a container of an image, and connect to the server in it. Needs the extra `docker`.

        The container is removed by `close`, and when the interpreter ends; see `ServerContainer`, which also serves
        the other clients.

        Args:
            image: name of the image.
            timeout_s: as for `ChatEnv`.
            max_message_bytes: as for `ChatEnv`; the server is told.
            token: bearer token; the server is told.
            **container: `env`, `port`, `start_timeout_s`, `tokenizer`, `network_mode`; see `ContainerOptions`.

        Raises:
            ImportError: the package docker is not installed.
            UnavailableError: the server does not come up; the message says why, with its log.
        """
        container["env"] = {"CHATENV_MAX_MESSAGE_BYTES": str(max_message_bytes), **container.get("env", {})}
        server = ServerContainer(image, token=token, **container)
        try:
            client = cls(server.address, timeout_s=timeout_s, max_message_bytes=max_message_bytes, token=token)
        except BaseException:
            server.remove()
            raise
        client._connection.at_close.callback(server.remove)
        return client

    @classmethod
    def from_snapshot(
        cls,
        target: str | grpc.Channel,
        snapshot: EpisodeSnapshot | bytes,
        *,
        episode_id: str | None = None,
        **options: Any,
    ) -> Self:
        """A client that goes on with an exported episode, from its `observation`; see `import_episode`.

        Args:
            target: as for `ChatEnv`.
            snapshot: what `export` gave, or its bytes.
            episode_id: the id that it gets; None: its own.
            **options: as for `ChatEnv`.

        Raises:
            EpisodeExistsError: the episode that was exported is live still, and has gone on since; or another one of
                this id is. Close it, or give another id.
            ChatEnvError: as of `import_episode`.
        """
        env = cls(target, **options)
        try:
            env.import_episode(snapshot, episode_id)
        except BaseException:
            env.close()
            raise
        return env

    def reset(self, *, timeout_s: float | None = None, **options: Unpack[ResetOptions]) -> StepResult:
        """Start an episode; the one before it is closed then. Keywords: see `ResetOptions`.

        After an error the one before is as it was. It is closed first only where the server has no room for both.

        Raises:
            TypeError: there is no such keyword, or a value is of another type; nothing was sent.
            ChatEnvError: see `chatenv_client.errors`.
        """
        opening = self._session.reset(options)
        return self._connection.succeed(self._session.close(unless=options.get("episode_id")), opening, timeout_s)

    def step(self, action: Action, *, replace_from: int | None = None, timeout_s: float | None = None) -> StepResult:
        """Append what a model sampled, a message, or a list of messages.

        With `replace_from` the messages, which may be none, take the place of all messages from that index on. Where
        those are part of what a model has read already, the observation's `segment` goes up: its stream is then the
        full rendering of the conversation as it is now, and begins a new segment.

        The result's `done` is either `observation.terminated`, the task itself ended, or
        `observation.truncated`, a limit cut it off. After an error the same step may be tried again: where
        only the answer was lost, the server gives it again.

        Raises:
            RuntimeError: there was no reset.
            TypeError: it is neither an action, a message nor a list of messages.
            ChatEnvError: see `chatenv_client.errors`.
        """
        return self._connection.make(self._session.step(action, replace_from=replace_from), timeout_s)

    def resume(self, episode_id: str, *, timeout_s: float | None = None) -> StepResult:
        """Continue an episode as another client left it. The one that this client had before stays live.

        The episode stays its opener's: neither `close`, the end of a `with` block nor the next `reset` ends it.
        The result is that of the episode's last step, without its metadata and fidelity reports; nor with its reward,
        where a segment began in that very step.

        Raises:
            EpisodeNotFoundError: there is none of that id.
        """
        return self._connection.make(self._session.resume(episode_id), timeout_s)

    def import_episode(
        self, snapshot: EpisodeSnapshot | bytes, episode_id: str | None = None, *, timeout_s: float | None = None
    ) -> StepResult:
        """Take an exported episode up, on this server or another, and go on with it. The one before it is closed then.

        Args:
            snapshot: what `export` gave, or its bytes.
            episode_id: the id that it gets; None: its own.
            timeout_s: deadline of this call.

        Raises:
            InvalidRequestError: it is no snapshot, or is cut off or altered.
            TokenizerMismatchError: another tokenizer, chat template or token-id limit wrote it.
            EpisodeExistsError: the id is that of another live episode.
        """
        taking_up = self._session.take_up(snapshot, episode_id)
        closing = self._session.close(unless=taking_up.request.episode_id)
        return self._connection.succeed(closing, taking_up, timeout_s)

    def message_to_action(
        self, message: Mapping[str, Any], tokenizer: Any = None, *, timeout_s: float | None = None
    ) -> ChatAction:
        """Make an action that appends a message. Its tokens are a preview; the message is what counts.

        Args:
            message: a chat message.
            tokenizer: tokenizes here, as its chat template writes the message alone. None: the server says
                what the message would add to the episode now.
            timeout_s: deadline of this call.
        """
        if tokenizer is not None:
            return action_from_message(message, tokenizer)
        return self._connection.make(self._session.preview(message), timeout_s)

    def finish(self, *, assistants: bool = False, timeout_s: float | None = None) -> Trajectory:
        """The episode as training wants it, and its end, in one call: the way to leave an episode that was played.

        Afterwards this client has no episode. After an error it has it still, and `finish` may be tried again: where
        only the answer was lost, the server gives the same one for ten minutes. A server without a store does so until
        newer answers take 128 MiB, or it ends. An episode that was resumed is ended, too.

        Args:
            assistants: as for `trajectory`.
            timeout_s: deadline of this call.

        Raises:
            RuntimeError: there is no episode.
            EpisodeNotFoundError: it has ended otherwise.
            MessageTooLargeError: the trajectory is larger than a message may be; the episode lives on.
        """
        return self._connection.make(self._session.finish(assistants=assistants), timeout_s)

    def close(self, *, timeout_s: float | None = None) -> None:
        """End the episode unless it was resumed, and close the channel if it was opened here. Closing twice is fine.

        Raises:
            ChatEnvError: the server could not be told; this client is closed all the same.
        """
        if self._connection.is_over:
            return
        with self._connection.closing():
            if (call := self._session.close()) is not None:
                self._connection.make(call, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with yielding_to(error):
            self.close(timeout_s=None if error is None else FAREWELL_S)
