"""`chatenv-rl view`: episodes in the browser, from a server or from files. Changes nothing."""

from __future__ import annotations

import argparse
import sys
import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chatenv_client import EpisodeNotFoundError
from chatenv_client.distribution import DISTRIBUTION, needing
from chatenv_server.commands.connection import EXIT_CODES, add_connection_arguments, client_of, reporting, tell
from chatenv_server.commands.episode_files import KINDS, episodes_in
from chatenv_server.commands.output import print_json, print_line, printable, progress_line

if TYPE_CHECKING:
    from chatenv_client import ChatEnv, Trajectory
    from chatenv_client.viewing.collection import Collection

NAME: Final = "view"
HELP: Final = "look at episodes in the browser: of a server, or of files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Look at an episode token by token, or at many at a glance. One episode is one page; of many, a small server "
        f"on this machine alone shows the pages until Ctrl-C. {EXIT_CODES}"
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="EPISODE|FILE|FOLDER",
        help="a live episode; or a file of `trajectories` or `export`, or a folder of some; default: all live ones",
    )
    parser.add_argument(
        "--html", type=Path, metavar="OUT", help="write pages, and show none: a file, or of many a folder"
    )
    parser.add_argument("--live", action="store_true", help="follow the server: what changes there changes on the page")
    parser.add_argument("--prefix", default="", metavar="TEXT", help="only live episodes whose id begins with it")
    parser.add_argument(
        "--tokenizer",
        metavar="TOKENIZER",
        help="of files: a folder, a Hugging Face name, or 'bytes'; else ids are shown",
    )
    parser.add_argument("--port", type=int, default=0, help="of the pages, on this machine; default: any that is free")
    parser.add_argument("--no-open", action="store_true", help="print where the page is, and open no browser")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read, and write or show; the exit code."""
    with needing("view", f"{DISTRIBUTION} {NAME}"):
        import jinja2  # noqa: F401 - found out before anything is read

    def work() -> int:
        _check(arguments)
        if _names_files(arguments):
            return _view_files(Path(arguments.what), arguments)
        with client_of(arguments) as env:
            return _view_live(env, arguments)

    return reporting(NAME, work)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.live and arguments.html is not None:
        raise ValueError("--live shows pages that change; --html writes them once: give one of them")
    if arguments.what == "":
        raise ValueError("the name of what is to be shown is empty: leave it out for all live episodes")
    if arguments.what is not None and arguments.prefix:
        raise ValueError("--prefix chooses among all live episodes: leave it out where one, or a file, is named")
    if not _names_files(arguments):
        if arguments.tokenizer is not None:
            raise ValueError("--tokenizer is for files: a server knows its own")
    elif arguments.live:
        raise ValueError("--live follows a server, and files do not change: leave it out")


def _names_files(arguments: argparse.Namespace) -> bool:
    """Whether files are to be looked at. An id has no slash, but may end as a file's name does: --live says so."""
    what: str | None = arguments.what
    if what is None or arguments.live:
        return what is not None and "/" in what
    path = Path(what)
    return path.exists() or path.suffix in KINDS or "/" in what


# -- files --------------------------------------------------------------------------------------------


def _view_files(path: Path, arguments: argparse.Namespace) -> int:
    from chatenv_client.viewing.filed import FiledEpisodes

    if not path.exists():
        raise ValueError(f"{path}: No such file; where it is the id of a live episode, --live shows it")
    if not path.is_dir() and path.suffix not in KINDS:
        raise ValueError(f"{path} is no file of episodes: their names end in {', '.join(KINDS)}")
    engine = _engine(arguments.tokenizer)
    if engine is None:
        tell(NAME, "without --tokenizer the pages show token ids alone")
    with progress_line() as show:
        show(f"reading {path}")
        trajectories = list(episodes_in(path, engine))
    if not trajectories:
        raise ValueError(f"{path} holds no episode yet")
    if arguments.html is not None:
        return _write(trajectories, path.name, engine, arguments)
    if len(trajectories) == 1:
        return _place(trajectories[0].to_html(engine), arguments)
    return _show(FiledEpisodes(path.name, trajectories, engine), None, arguments)


def _engine(name: str | None) -> Any:
    """Whoever knows the tokens of a tokenizer; None where none was named."""
    if name is None:
        return None
    with needing("server", f"{DISTRIBUTION} {NAME} --tokenizer"):
        from chatenv_server.engine import TokenEngine
        from chatenv_server.tokenizer_files.loading import TokenizerError, load_tokenizer, torch_hidden
    try:
        with torch_hidden():
            return TokenEngine.load(load_tokenizer(name, lean=True))
    except TokenizerError as error:
        raise ValueError(str(error)) from error


# -- a server -----------------------------------------------------------------------------------------


def _view_live(env: ChatEnv, arguments: argparse.Namespace) -> int:
    from chatenv_client.viewing.live import LiveEpisodes

    episodes = LiveEpisodes(env, arguments.prefix)
    if arguments.live or (arguments.what is None and arguments.html is None):
        return _show(episodes, arguments.what, arguments)
    if arguments.what is None:
        return _write(_read(env, arguments.prefix), episodes.title, env, arguments)
    trajectory, texts, view = episodes.episode(arguments.what)
    from chatenv_client.viewing.pages import episode_page

    view = type(view)(forked_from=view.forked_from, task=view.task, tokenizer_name=view.tokenizer_name)
    return _place(episode_page(trajectory, texts, view), arguments)


def _read(env: ChatEnv, prefix: str) -> list[Trajectory]:
    """All live episodes, oldest first, but those that end meanwhile."""
    listed = sorted(env.episodes(prefix), key=lambda each: each.created_unix_seconds)
    read: list[Trajectory] = []
    with progress_line() as show:
        for number, each in enumerate(listed, 1):
            show(f"{number}/{len(listed)} episodes read")
            with suppress(EpisodeNotFoundError):
                env.resume(each.episode_id)
                read.append(env.trajectory())
    return read


# -- pages --------------------------------------------------------------------------------------------


def _write(trajectories: list[Trajectory], title: str, tokens: Any, arguments: argparse.Namespace) -> int:
    from chatenv_client.viewing.folder import write_run

    if len(trajectories) == 1 and arguments.html.suffix == ".html":
        return _place(trajectories[0].to_html(tokens), arguments)
    if arguments.html.suffix == ".html" or arguments.html.is_file():
        raise ValueError(
            f"--html {arguments.html} names a file, and there are {len(trajectories)} episodes: name a folder"
        )
    with progress_line() as show:
        page = write_run(
            arguments.html, trajectories, title, tokens, lambda done, count: show(f"{done}/{count} pages written")
        )
    _tell_written(page, len(trajectories), arguments)
    return 0


def _place(page: str, arguments: argparse.Namespace) -> int:
    """Write the page of one episode where it was asked for, or into a new folder from which a browser shows it."""
    path: Path = arguments.html or Path(tempfile.mkdtemp(prefix="chatenv-")) / "episode.html"
    path.write_text(page, encoding="utf-8")
    _tell_written(path, 1, arguments)
    if arguments.html is None:
        _open(path.as_uri(), arguments)
    return 0


def _tell_written(path: Path, count: int, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json({"page": str(path), "episodes": count})
    else:
        print_line(printable(str(path)))


def _show(episodes: Collection, key: str | None, arguments: argparse.Namespace) -> int:
    """Serve the pages until somebody interrupts."""
    from chatenv_client.viewing.local_server import LocalServer

    if key is not None:
        episodes.episode(key)  # told at once where there is none
    try:
        server = LocalServer(episodes, arguments.port)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"the pages cannot have port {arguments.port} ({error}): give another --port, or none"
        ) from error
    with server:
        url = server.url if key is None else server.url_of(key)
        if arguments.json:
            print_json({"url": url}, indent=None)
        else:
            print_line(f"{url}  (Ctrl-C ends)")
        _open(url, arguments)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def _open(url: str, arguments: argparse.Namespace) -> None:
    if not arguments.no_open and sys.stdout.isatty():
        webbrowser.open(url)
