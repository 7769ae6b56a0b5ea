"""What an operator can set. Each setting is a flag, an environment variable and a default, from one table.

A flag wins over its variable, and an empty variable counts as unset. A wrong value is refused by its name, and so is a
variable that is nearly one of these.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from chatenv_client._version import __version__
from chatenv_client.channel import DEFAULT_MAX_MESSAGE_BYTES
from chatenv_client.models import ControlTokenPolicy, EpisodeDefaults, HistoryPolicy
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.settings import values, variables
from chatenv_server.settings.errors import SettingError
from chatenv_server.tokenizer_files.loading import EMBEDDED


@dataclass(frozen=True)
class _Option:
    """How one setting is read from text and shown in the docs."""

    parse: Callable[[str], Any]
    """Raises ValueError with what would be right."""
    help: str
    default_text: str = ""
    """The default in the docs where its value says too little."""


def _setting(
    default: Any,
    parse: Callable[[str], Any],
    help: str,  # noqa: A002 - argparse's word
    *,
    default_text: str = "",
    secret: bool = False,
) -> Any:
    option = _Option(parse, help, default_text)
    return dataclasses.field(default=default, metadata={"option": option}, repr=not secret)


@dataclass(frozen=True)
class Settings:
    """Everything an operator decides. Frozen; checked as a whole when it is made.

    The settings that are named as an option of `EpisodeOptions` are what a server's episodes start from.

    Raises:
        SettingError: a value is wrong, or settings contradict each other.
    """

    listen: tuple[str, ...] = _setting(
        ("127.0.0.1:50051",),
        values.addresses,
        "address to serve on: HOST:PORT (port 0: a free one) or unix:///PATH; may be given several times, "
        "in the environment separated by commas",
    )
    tokenizer: str = _setting(
        EMBEDDED,
        values.text,
        "`bytes` (built in), a folder, or a Hugging Face name",
    )
    chat_template: str = _setting("", values.file, "file with a Jinja chat template that replaces the tokenizer's own")
    require_template: bool = _setting(
        False, values.switch, "refuse to serve a tokenizer that has no chat template, which otherwise gets a plain one"
    )
    system_prompt: str = _setting("", values.text, "system prompt of episodes that give none")
    system_role: str = _setting(EpisodeOptions.system_role, values.text, "role of the system prompt")
    task: tuple[str, ...] = _setting(
        (),
        values.texts,
        "what answers the model: `module:attribute` or the name of an entry point, with `NAME=` before it where "
        "callers choose by another name; may be given several times, in the environment separated by commas",
    )
    rows: tuple[str, ...] = _setting(
        (),
        values.texts,
        "data for tasks: a JSONL or Parquet file, with `SPLIT=` or `TASK/SPLIT=` before it where it is not the split "
        "`train` for all tasks; may be given several times, in the environment separated by commas",
    )
    transform: str = _setting(
        "",
        values.text,
        "shapes reward and end of each step, after the task: `module:attribute` or the name of an entry point",
    )
    add_generation_prompt: bool = _setting(
        EpisodeOptions.add_generation_prompt,
        values.switch,
        "whether the stream ends with the generation prompt when it is the model's turn",
    )
    history_policy: str = _setting(
        EpisodeOptions.history_policy.value,
        values.choice(*(policy.value for policy in HistoryPolicy)),
        "when the template would rewrite history: `append` and report it, `strict`: refuse the step, or `segment`: "
        "begin a new segment",
    )
    control_token_policy: str = _setting(
        EpisodeOptions.control_token_policy.value,
        values.choice(*(policy.value for policy in ControlTokenPolicy)),
        "control-token strings in message text: `escape`, `reject` or `allow`",
    )
    token_id_limit: int = _setting(
        0, values.whole(0), "token ids from here on are refused; 0: the tokenizer's length", default_text="0"
    )
    max_steps: int = _setting(
        0, values.whole(0), "steps after which an episode is truncated, unless Reset says; 0: none"
    )
    max_tokens: int = _setting(
        0, values.whole(0), "stream length from which on an episode is truncated, unless Reset says; 0: none"
    )
    max_turns: int = _setting(
        0, values.whole(0), "turns of the model after which an episode is truncated, unless Reset says; 0: none"
    )
    max_sampled_tokens: int = _setting(
        0, values.whole(0), "sampled tokens from which on an episode is truncated, unless Reset says; 0: none"
    )
    max_episodes: int = _setting(16_384, values.whole(1), "live episodes; beyond: EPISODE_LIMIT")
    max_live_tokens: int = _setting(
        2**26, values.whole(1, 2**63 - 1), "tokens in all live episodes together; beyond: TOKEN_LIMIT"
    )
    store: str = _setting(
        "memory",
        values.text,
        "where episodes live: `memory`, `sqlite:///PATH` or `redis://HOST:PORT/DB`",
    )
    max_cached_tokens: int = _setting(
        2**26,
        values.whole(1, 2**63 - 1),
        "tokens of a store's episodes that this process holds in memory; those used least recently leave it",
    )
    archive: str = _setting(
        "", values.text, "folder where the record of every ended episode is appended to a JSONL file"
    )
    archive_file_bytes: int = _setting(
        2**28, values.whole(1), "size at which a file of the archive is full, and another one begun"
    )
    processes: int = _setting(
        1,
        values.whole(1, 256),
        "serving processes behind the one address, for as many cores; more than 1 needs a SQLite or Redis store",
    )
    idle_timeout: float = _setting(
        3600.0, values.seconds(0), "seconds without a call after which an episode expires; 0: never"
    )
    task_timeout: float = _setting(
        300.0, values.seconds(0), "seconds that a task may take to open or to answer; 0: any; beyond: TASK_TIMEOUT"
    )
    transform_timeout: float = _setting(
        60.0, values.seconds(0), "seconds that a transform may take; 0: any; beyond: TRANSFORM_TIMEOUT"
    )
    max_message_bytes: int = _setting(
        DEFAULT_MAX_MESSAGE_BYTES,
        values.whole(1024),
        "one message on the wire, either way, in bytes; the client's limit is to be the same",
    )
    max_text_bytes: int = _setting(
        2**20,
        values.whole(1024),
        "messages, tools and prompts of one request, in bytes; beyond: TEXT_TOO_LONG. Tokenizing takes about 230 times "
        "as much memory",
    )
    max_bytes_in_flight: int = _setting(
        2**27,
        values.whole(1024),
        "all requests and answers under way together, in bytes; beyond: BUSY. One alone is always let in",
    )
    max_batch_items: int = _setting(1024, values.whole(1), "items of one batch; beyond: BATCH_SIZE")
    max_concurrent_calls: int = _setting(
        2048, values.whole(1, 10_000), "calls worked on at once; beyond: BUSY. Health is always answered"
    )
    drain_grace: float = _setting(25.0, values.seconds(0), "seconds that calls in flight have to finish after SIGTERM")
    socket_mode: int = _setting(0o600, values.mode, "file mode of unix sockets, octal", default_text="600")
    allow_plaintext: bool = _setting(
        False, values.switch, "serve without TLS on addresses that other machines can reach"
    )
    tls_certificate: str = _setting(
        "", values.file, "PEM file with the server's certificate chain; for HOST:PORT addresses"
    )
    tls_key: str = _setting("", values.file, "PEM file with the key of the certificate")
    tls_client_ca: str = _setting(
        "", values.file, "PEM file with the authorities whose client certificates are let in (mTLS)"
    )
    bearer_token: str = _setting(
        "",
        values.text,
        "calls must carry `authorization: Bearer TOKEN`; a flag shows in the process list",
        secret=True,
    )
    bearer_token_file: str = _setting("", values.file, "the same from a file, read again when it changes")
    reflection: bool = _setting(True, values.switch, "answer gRPC reflection, as grpcurl needs it")
    metrics_listen: str = _setting(
        "", values.tcp_address, "HOST:PORT where Prometheus may read metrics, in plain text (extra `metrics`)"
    )
    tracing: bool = _setting(
        False, values.switch, "send a span of every call, as the OTEL_ variables say (extra `tracing`)"
    )
    log_level: str = _setting(
        "info", values.choice("debug", "info", "warning", "error"), "least severe lines that are logged"
    )
    log_format: str = _setting("text", values.choice("text", "json"), "`text` for people, `json` for machines")

    def __post_init__(self) -> None:
        for name in _OPTIONS:
            _check_value(name, getattr(self, name))
        if not self.listen:
            raise wrong_setting("listen", "must name at least one address")
        if bool(self.tls_certificate) != bool(self.tls_key):
            missing = "tls_key" if self.tls_certificate else "tls_certificate"
            raise wrong_setting(missing, "is needed too: TLS takes a certificate and its key")
        if self.tls_client_ca and not self.tls_certificate:
            raise wrong_setting("tls_client_ca", "needs tls-certificate and tls-key")
        if self.bearer_token and self.bearer_token_file:
            raise wrong_setting("bearer_token_file", "cannot stand beside bearer-token")
        if self.processes > 1:
            self._refuse_what_is_not_shared()
        self._refuse_open_plaintext()

    def episode_options(self) -> EpisodeDefaults:
        """What a server's episodes start from. A 0 is no limit and an empty text no prompt, so both are left out."""
        named = EpisodeDefaults.__annotations__.keys() & _OPTIONS.keys()
        given = {name: getattr(self, name) for name in named}
        return cast("EpisodeDefaults", {name: value for name, value in given.items() if value is False or value})

    def _refuse_what_is_not_shared(self) -> None:
        """Refuse what several processes cannot have in common."""
        if sys.platform != "linux":
            raise wrong_setting("processes", "is more than 1, and only Linux spreads connections over processes")
        if self.store == "memory":
            raise wrong_setting(
                "processes",
                "is more than 1, and with the store `memory` each process would know only episodes of its own: give "
                "store, such as sqlite:///PATH",
            )
        for address in self.listen:
            if address.startswith("unix:"):
                raise wrong_setting(
                    "processes",
                    f"is more than 1, and {address} can belong to one process only: listen on HOST:PORT, such as "
                    "127.0.0.1:50051",
                )
        if self.metrics_listen and 0 < _port_of(self.metrics_listen) > 65536 - self.processes:
            raise wrong_setting("metrics_listen", "leaves no port for each process: they take one after the other")

    def of_process(self, number: int, listen: tuple[str, ...]) -> Settings:
        """The settings of one of several processes.

        Args:
            number: of the process, from 1 on. Its metrics are on the port that is so many after the first.
            listen: the addresses with real ports.
        """
        host, _, _ = self.metrics_listen.rpartition(":")
        port = _port_of(self.metrics_listen) if self.metrics_listen else 0
        metrics = f"{host}:{port + number - 1}" if port else self.metrics_listen
        return dataclasses.replace(self, listen=listen, metrics_listen=metrics)

    def _refuse_open_plaintext(self) -> None:
        for address in self.listen:
            if not (self.allow_plaintext or self.tls_certificate or is_local(address)):
                raise wrong_setting(
                    "allow_plaintext",
                    f"is off, and {address} can be reached by other machines: give tls-certificate and "
                    "tls-key, or allow it",
                )
        if self.metrics_listen and not (self.allow_plaintext or is_local(self.metrics_listen)):
            raise wrong_setting(
                "allow_plaintext",
                f"is off, and metrics at {self.metrics_listen} could be read by other machines: allow it",
            )


_OPTIONS: Final[Mapping[str, _Option]] = {
    field.name: field.metadata["option"] for field in dataclasses.fields(Settings)
}
_DEFAULTS: Final[Mapping[str, Any]] = {field.name: field.default for field in dataclasses.fields(Settings)}


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address. Of names, only `localhost` counts as local."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return variables.PREFIX + name.upper()


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from a command line and an environment.

    Raises:
        SettingError: a value is wrong, or a variable is none of ours; the message names it.
        SystemExit: argparse has shown the help, the version or its own error (2).
    """
    given = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    variables.refuse_unknown(environment, map(variable_of, _OPTIONS))
    texts = {name: environment[variable_of(name)] for name in _OPTIONS if environment.get(variable_of(name))}
    return Settings(**{name: _read(name, text) for name, text in {**texts, **given}.items()})


def _read(name: str, text: str | list[str]) -> Any:
    try:
        return _OPTIONS[name].parse(",".join(text) if isinstance(text, list) else text)
    except ValueError as error:
        raise wrong_setting(name, str(error)) from error


def _check_value(name: str, value: Any) -> None:
    """Refuse what could not be given as text either.

    Raises:
        SettingError: the value is of another type than the default, or its text would be refused.
    """
    default = _DEFAULTS[name]
    if value == default and type(value) is type(default):
        return
    fitting = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
    if not fitting:
        raise wrong_setting(name, f"must be a {type(default).__name__}, not a {type(value).__name__}")
    if value or not isinstance(value, str | tuple):  # an empty text is none
        _read(name, _text_of(name, value))


def _text_of(name: str, value: Any) -> str:
    """A value of a setting as it would be given."""
    if _OPTIONS[name].parse is values.mode:
        return f"{value:o}"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def wrong_setting(name: str, what: str) -> SettingError:
    """The error for a setting, to be raised."""
    return SettingError(f"{flag_of(name)} ({variable_of(name)}) {what}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatenv-server",
        description="Serves chat environments for reinforcement learning of language models over gRPC.",
        epilog="Every flag can be given as the environment variable named beside it; a flag wins.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    for name in _OPTIONS:
        parser.add_argument(flag_of(name), dest=name, help=_help(name), **_argument(name))
    return parser


def _argument(name: str) -> dict[str, Any]:
    if isinstance(_DEFAULTS[name], tuple):
        return {"action": "append", "metavar": "ADDRESS" if name == "listen" else "VALUE"}
    if isinstance(_DEFAULTS[name], bool):
        return {"nargs": "?", "const": "true", "metavar": "true|false"}
    return {"metavar": "VALUE"}


def _help(name: str) -> str:
    text = f"{_OPTIONS[name].help} [{variable_of(name)}; default: {default_text(name) or 'none'}]"
    return text.replace("%", "%%")


def default_text(name: str) -> str:
    """The default of a setting as it would be given; empty where there is none."""
    default = _DEFAULTS[name]
    if _OPTIONS[name].default_text:
        return _OPTIONS[name].default_text
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def settings_table() -> str:
    """All settings as a Markdown table."""
    rows = [
        f"| `{flag_of(name)}` | `{variable_of(name)}` | {_code(default_text(name))} | {option.help} |"
        for name, option in _OPTIONS.items()
    ]
    return "\n".join(["| flag | environment | default | meaning |", "|---|---|---|---|", *rows, ""])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
