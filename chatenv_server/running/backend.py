"""What a server serves, made from its settings: the token engine, the episodes, and their description."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from chatenv_client._version import __version__
from chatenv_client.distribution import MissingExtraError
from chatenv_client.errors import InvalidRequestError, StoreUnavailableError, TransformError
from chatenv_client.models import EpisodeDefaults, Limits, ServerInfo, SpecialToken
from chatenv_server.archive.archive import Archive
from chatenv_server.archive.files import ArchiveFiles
from chatenv_server.engine import TokenEngine
from chatenv_server.environment.environment import ChatEnvironment
from chatenv_server.environment.guard import TransformGuard
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.environment.transforms import Transform, load_transform
from chatenv_server.episodes.budget import Budget
from chatenv_server.episodes.episodes import Episodes
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.rpc.servicer import ChatEnvServicer
from chatenv_server.settings.settings import Settings, wrong_setting
from chatenv_server.stores.opening import open_store
from chatenv_server.stores.store import Store
from chatenv_server.tasks.choice import Tasks
from chatenv_server.tasks.loading import load_rows, load_tasks
from chatenv_server.tokenizer_files.loading import TokenizerError, load_tokenizer, read_chat_template


class Backend:
    """One engine, shared by all episodes of a server.

    Args:
        settings: the operator's.
        engine: takes the place of the tokenizer in the settings.
        open_transform: gives each episode its transform; takes the place of the one in the settings.
        tasks: what answers; take the place of those in the settings.
        clock: seconds, for the expiry of idle episodes; None: the machine's.
        telemetry: told of what happens to episodes.
        process: number of this process among those that serve at one address, from 1 on.

    Raises:
        SettingError: the tokenizer, its template, a task or the transform cannot be loaded, or an option of episodes is
            wrong.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: TokenEngine | None = None,
        open_transform: Callable[[], Transform] | None = None,
        tasks: Tasks | None = None,
        clock: Callable[[], float] | None = None,
        telemetry: Telemetry | None = None,
        process: int = 1,
    ) -> None:
        self._settings = settings
        self._process = process
        self._options = _check_options(settings)
        self._open_transform = open_transform or _find_transform(settings)
        self.tasks = _find_tasks(settings) if tasks is None else tasks
        """That episodes choose from, and their data."""
        self._engine = engine or _load_engine(settings)
        self._began = time.monotonic()
        self.tokenizer_name = _public_name(engine.tokenizer_name if engine else settings.tokenizer)
        """Of a folder its own name, without the path, which is no concern of callers."""
        self.store = _open_store(settings)
        """Where the episodes live; None: in this process alone."""
        self._archive = _open_archive(settings, telemetry or Telemetry())
        self.episodes = Episodes(
            self._open_environment,
            Budget(settings.max_episodes, settings.max_live_tokens, settings.idle_timeout, settings.max_cached_tokens),
            store=self.store,
            clock=clock,
            telemetry=telemetry,
            closes_tasks=self.tasks.closes,
            archive=self._archive,
        )

    def attach_to(self, servicer: ChatEnvServicer) -> None:
        """Give a servicer what to serve; before its gate opens."""
        engine = self._engine
        servicer.attach(self.episodes, self.tasks, self.describe, engine.describe_tokens)

    def describe(self) -> ServerInfo:
        """What this server is and holds now."""
        engine, settings = self._engine, self._settings
        return ServerInfo(
            version=__version__,
            tokenizer_name=self.tokenizer_name,
            tokenizer_fingerprint=engine.tokenizer_fingerprint,
            chat_template_fingerprint=engine.template_fingerprint,
            vocabulary_size=engine.vocabulary_size,
            token_id_limit=engine.token_id_limit,
            special_tokens=tuple(SpecialToken(*token) for token in engine.control_tokens),
            features=engine.features,
            turn_parser=engine.turn_parser,
            limits=Limits(
                max_episodes=settings.max_episodes,
                max_live_tokens=settings.max_live_tokens,
                max_steps=settings.max_steps or None,
                max_tokens=settings.max_tokens or None,
                max_turns=settings.max_turns or None,
                max_sampled_tokens=settings.max_sampled_tokens or None,
                max_message_bytes=settings.max_message_bytes,
                max_batch_items=settings.max_batch_items,
                max_text_bytes=settings.max_text_bytes,
                idle_timeout_seconds=settings.idle_timeout or None,
            ),
            uptime_seconds=time.monotonic() - self._began,
            live_episodes=self.episodes.live_episodes,
            live_tokens=self.episodes.live_tokens,
            processes=settings.processes,
            process=self._process,
            tasks=self.tasks.names,
            row_counts=self.tasks.rows.counts,
        )

    def _open_environment(self) -> ChatEnvironment:
        transform = None
        if self._open_transform is not None:
            transform = TransformGuard(_opened(self._open_transform), self._settings.transform_timeout)
        return ChatEnvironment(
            self._engine,
            transform=transform,
            task=self.tasks,
            task_timeout_s=self._settings.task_timeout,
            keeps_journal=self.store is None,
            **self._options,
        )

    def close(self) -> None:
        """Finish the archive, and give up the store."""
        if self._archive is not None:
            self._archive.close()
        if self.store is not None:
            self.store.close()


def _opened(open_transform: Callable[[], Transform]) -> Transform:
    try:
        return open_transform()
    except Exception as error:
        raise TransformError("the transform of a new episode could not be made; nothing was changed") from error


def _open_store(settings: Settings) -> Store | None:
    try:
        return open_store(settings.store)
    except ValueError as error:
        raise wrong_setting("store", f"is wrong: {error}") from error
    except (StoreUnavailableError, MissingExtraError) as error:
        raise wrong_setting("store", f"does not work: {error}") from error


def _open_archive(settings: Settings, telemetry: Telemetry) -> Archive | None:
    if not settings.archive:
        return None
    try:
        files = ArchiveFiles(Path(settings.archive), settings.archive_file_bytes)
    except OSError as error:
        raise wrong_setting("archive", f"does not work: {error}") from error
    return Archive(files, settings.max_live_tokens, telemetry)


def _check_options(settings: Settings) -> EpisodeDefaults:
    options = settings.episode_options()
    try:
        EpisodeOptions().overridden_by(options)
    except InvalidRequestError as error:
        raise wrong_setting(error.field, f"is wrong: {error.message}") from error
    return options


def _find_transform(settings: Settings) -> Callable[[], Transform] | None:
    if not settings.transform:
        return None
    try:
        return load_transform(settings.transform)
    except ValueError as error:
        raise wrong_setting("transform", f"is wrong: {error}") from error


def _find_tasks(settings: Settings) -> Tasks:
    if settings.rows and not settings.task:
        raise wrong_setting("rows", "are for tasks, and there is none: give task")
    try:
        rows = load_rows(settings.rows)
    except (ValueError, MissingExtraError) as error:
        raise wrong_setting("rows", f"is wrong: {error}") from error
    try:
        return load_tasks(settings.task, rows)
    except ValueError as error:
        raise wrong_setting("task", f"is wrong: {error}") from error


def _load_engine(settings: Settings) -> TokenEngine:
    try:
        template = read_chat_template(settings.chat_template) if settings.chat_template else None
        tokenizer = load_tokenizer(settings.tokenizer, lean=True)
    except TokenizerError as error:
        raise wrong_setting("tokenizer", f"cannot be loaded: {error}") from error
    try:
        engine = TokenEngine.load(tokenizer, chat_template=template, token_id_limit=settings.token_id_limit or None)
    except (TypeError, ValueError) as error:
        name = "chat_template" if settings.chat_template else "tokenizer"
        raise wrong_setting(name, f"does not work: {error}") from error
    if settings.require_template and engine.lacks_template:
        raise wrong_setting(
            "require_template", f"is on, and tokenizer {settings.tokenizer!r} has no chat template: give chat-template"
        )
    return engine


def _public_name(name: str) -> str:
    return Path(name).name if Path(name).is_dir() else name
