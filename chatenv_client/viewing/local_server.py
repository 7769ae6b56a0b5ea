"""Shows episodes to a browser on this machine: a small HTTP server on the loopback interface, which only reads.

Its address holds a secret, so that other users of the machine do not read along. It answers to no other host's name, so
that no page on the web does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from chatenv_client.errors import ChatEnvError, EpisodeNotFoundError
from chatenv_client.viewing.collection import Collection, href_of
from chatenv_client.viewing.episode_data import episode_data
from chatenv_client.viewing.pages import as_json, episode_page, run_page
from chatenv_client.viewing.run_data import run_data

LOOPBACK: Final = "127.0.0.1"
_HTML: Final = "text/html; charset=utf-8"
_JSON: Final = "application/json; charset=utf-8"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LocalServer(ThreadingHTTPServer):
    """Serves the pages of a collection until it is shut down.

    Args:
        episodes: what it shows.
        port: of the loopback interface; 0: any that is free.
    """

    daemon_threads = True

    def __init__(self, episodes: Collection, port: int = 0) -> None:
        self.secret = secrets.token_urlsafe(18)
        self.pages = Pages(episodes)
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def url(self) -> str:
        """Of the page of all episodes."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.secret}/"

    def url_of(self, key: str) -> str:
        """Of the page of an episode."""
        return self.url + href_of(key)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that closes a connection is no error."""


class Pages:
    """The pages of a collection by their names."""

    def __init__(self, episodes: Collection) -> None:
        self._episodes = episodes
        self._made: dict[str, tuple[str, Callable[[str], str]]] = {
            "": (_HTML, self._run),
            "index.json": (_JSON, self._run_data),
            "episode": (_HTML, self._episode),
            "episode.json": (_JSON, self._episode_data),
        }

    def page(self, name: str, key: str) -> tuple[str, str]:
        """(media type, text) of a page.

        Raises:
            KeyError: there is no such page.
            ChatEnvError: the episode is not there, or a server does not answer.
        """
        media_type, make = self._made[name]
        return media_type, make(key)

    @property
    def _data_href(self) -> str:
        return "index.json" if self._episodes.follows else ""

    def _run(self, _: str) -> str:
        return run_page(self._episodes.rows(), self._episodes.title, data_href=self._data_href)

    def _run_data(self, _: str) -> str:
        return as_json(run_data(self._episodes.rows(), self._episodes.title, self._data_href))

    def _episode(self, key: str) -> str:
        return episode_page(*self._episodes.episode(key))

    def _episode_data(self, key: str) -> str:
        return as_json(episode_data(*self._episodes.episode(key)))


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    server_version = "chatenv"
    sys_version = ""
    timeout: ClassVar[float] = 30.0
    """Seconds that it waits for a caller who says nothing."""

    def do_GET(self) -> None:
        """Answer with a page."""
        status, media_type, text = self._answer()
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[HTTPStatus, str, str]:
        plain = "text/plain; charset=utf-8"
        if self.headers.get("Host") not in {f"{name}:{self.server.server_port}" for name in (LOOPBACK, "localhost")}:
            return HTTPStatus.FORBIDDEN, plain, "not of this host\n"
        asked = urlsplit(self.path)
        secret, _, name = asked.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            return HTTPStatus.NOT_FOUND, plain, "no such page; open the address that the command printed\n"
        key = parse_qs(asked.query).get("id", [""])[0]
        try:
            return HTTPStatus.OK, *self.server.pages.page(name, key)
        except (KeyError, EpisodeNotFoundError):
            return HTTPStatus.NOT_FOUND, plain, "no such page: its server does not know the episode\n"
        except ChatEnvError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, plain, f"{error.reason}: {error.message}\n"

    def log_message(self, *_: Any) -> None:
        """Log nothing: the address holds the secret."""
