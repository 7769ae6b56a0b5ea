"""Photographs pages of sample episodes for the README and docs/viewing.md.

Usage: ``python -m tools.make_pictures``. Needs Chromium and its driver.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from selenium.webdriver import ActionChains

from chatenv_client.viewing import View, episode_page, row_of, run_page, texts_of
from tests.viewing.browser import browser, emulate
from tools.sample_episodes import Play, run_of, thinking_episode, tools_episode

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
WIDTH = 1240
QUALITY = 82
"""Of 100: text is sharp, and a picture below 100 kB."""


class Picture(NamedTuple):
    """One file of the documents."""

    name: str
    page: str
    height: int
    dark: bool = False
    prepare: Callable[[Any], None] = lambda _: None


def main() -> None:
    """Take every picture."""
    PICTURES.mkdir(exist_ok=True)
    with browser() as driver, tempfile.TemporaryDirectory() as folder:
        for picture in pictures():
            emulate(driver, WIDTH, picture.height, dark=picture.dark)
            page = Path(folder, "page.html")
            page.write_text(picture.page, encoding="utf-8")
            driver.get(page.as_uri())
            picture.prepare(driver)
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
            (PICTURES / f"{picture.name}.webp").write_bytes(base64.b64decode(shot["data"]))


def pictures() -> list[Picture]:
    """All of them."""
    agent = page_of(tools_episode())
    run = [row_of(one, "#") for one in run_of()]
    return [
        Picture("episode", agent, 830, prepare=point_at_a_token),
        Picture("logprobs", agent, 700, dark=True, prepare=colour_by_logprob),
        Picture("segments", page_of(thinking_episode()), 800),
        Picture("run", run_page(run, "run3.parquet"), 760),
    ]


def page_of(play: Play) -> str:
    """The page of an episode."""
    env, trajectory = play
    return episode_page(trajectory, texts_of(env, trajectory), View(tokenizer_name="a small one"))


def point_at_a_token(driver: Any) -> None:
    """Show what is known of a token."""
    tokens = driver.find_elements("css selector", ".turn.sampled .k")
    ActionChains(driver).move_to_element(tokens[8]).perform()


def colour_by_logprob(driver: Any) -> None:
    """Press the key for it, and go to where a model spoke."""
    ActionChains(driver).send_keys("c", "j", "j").perform()


if __name__ == "__main__":
    main()
