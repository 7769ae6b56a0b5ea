"""A browser for all tests of pages; where there is none, they skip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_client import Trajectory
from chatenv_client.viewing import View, episode_page, texts_of

Show = Callable[..., Any]


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    """Chromium, headless."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    from tests.viewing.browser import CHROMIUM, DRIVER, browser

    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its driver here: install the packages chromium and chromium-driver")
    with browser() as driver:
        yield driver


@pytest.fixture
def show(chrome: Any, tmp_path: Path) -> Iterator[Show]:
    """Opens a page, or that of an episode, in the browser, which must have complained of nothing at the end."""

    def show(what: str | tuple[Any, Trajectory], view: View | None = None) -> Any:
        if not isinstance(what, str):
            env, trajectory = what
            what = episode_page(trajectory, texts_of(env, trajectory), view)
        path = tmp_path / "page.html"
        path.write_text(what, encoding="utf-8")
        chrome.get(path.as_uri())
        return chrome

    chrome.get("about:blank")
    chrome.get_log("browser")
    yield show
    assert [entry["message"] for entry in chrome.get_log("browser")] == []


def texts(driver: Any, selector: str) -> list[str]:
    """The texts of all elements that a selector finds, in order."""
    found = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector
    )
    return [str(text) for text in found]
