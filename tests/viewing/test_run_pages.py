"""The page of many episodes, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.wait import WebDriverWait

from chatenv_client.viewing import EpisodeRow, row_of, run_page
from tests.viewing.conftest import Show, texts
from tools.sample_episodes import broken_episode, thinking_episode, tools_episode


def rows(count: int = 1000) -> list[EpisodeRow]:
    return [
        EpisodeRow(
            *(
                f"e{number}",
                f"episodes/{number}.html",
                f"g{number // 8}",
                None if number % 50 == 49 else number % 3 / 2,
            ),
            failure="judge" if number % 50 == 49 else "",
            end="failed" if number % 50 == 49 else "terminated",
            tokens=100 + number,
            trained=number,
            turns=1 + number % 4,
            stops={"length": 1} if number % 10 == 0 else {"stop": 1},
            reports={"message_dropped": 2} if number % 100 == 7 else {},
            trust="bad" if number % 100 == 7 or number % 50 == 49 else "good",
        )
        for number in range(count)
    ]


def column(driver: Any, place: int) -> list[str]:
    return texts(driver, f".rows tbody td:nth-child({place})")


def test_a_thousand_episodes_are_summed_up(show: Show) -> None:
    driver = show(run_page(rows(), "run"))
    said = texts(driver, ".summary")[0]
    for part in ("1,000 episodes", "20 failed", "10 to look at before training"):
        assert part in said
    assert len(texts(driver, ".plot .dot")) == 1000
    assert len(texts(driver, ".plot .group")) == 125
    assert len(column(driver, 1)) == 200
    driver.find_element("css selector", ".more").click()
    assert len(column(driver, 1)) == 1000


def test_the_table_sorts_both_ways_and_leads_to_the_episodes(show: Show) -> None:
    driver = show(run_page(rows(), "run"))
    sort = driver.find_elements("css selector", ".sort")
    next(one for one in sort if one.text == "tokens").click()
    assert column(driver, 2)[:2] == ["e999", "e998"]
    next(one for one in driver.find_elements("css selector", ".sort") if one.text.startswith("tokens")).click()
    assert column(driver, 2)[:2] == ["e0", "e1"]
    assert driver.execute_script("return document.querySelector('.rows a').getAttribute('href')") == "episodes/0.html"


def test_a_bar_and_a_text_filter(show: Show) -> None:
    driver = show(run_page(rows(), "run"))
    bars = driver.find_elements("css selector", ".bar-row")
    next(bar for bar in bars if bar.text.startswith("length")).click()
    assert "100 episodes of 1,000" in texts(driver, ".summary")[0]
    ActionChains(driver).send_keys("/", "g1").perform()
    WebDriverWait(driver, 30).until(lambda _: "100 episodes of" not in texts(driver, ".summary")[0])
    assert set(column(driver, 3)) <= {f"g{one}" for one in range(1000) if "g1" in f"g{one}"}
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    assert texts(driver, ".summary")[0].startswith("1,000 episodes")


def test_groups_without_a_spread_are_said_to_teach_nothing(show: Show) -> None:
    some = [EpisodeRow(f"e{n}", group=f"g{n // 2}", reward=float(n % 2 and n > 3)) for n in range(8)]
    driver = show(run_page(some, "run"))
    assert "2 of 4 have no spread: group-relative advantages are 0 there" in " ".join(texts(driver, ".card h2"))


def test_no_number_of_episodes_is_too_much_for_its_plots(show: Show) -> None:
    driver = show(run_page(rows(2), "run"))
    assert driver.execute_script("return extent(Array.from({ length: 300000 }, (_, at) => at))") == [0, 299_999]


def test_no_episodes_and_one_are_no_trouble(show: Show) -> None:
    assert texts(show(run_page([], "none")), ".summary")[0].startswith("0 episodes")
    assert len(texts(show(run_page(rows(1), "one")), ".rows tbody tr")) == 1


@pytest.mark.parametrize("play", [tools_episode, thinking_episode, broken_episode])
def test_a_row_says_of_an_episode_what_its_page_says(show: Show, play: Any) -> None:
    env, trajectory = play()
    row = row_of(trajectory)
    driver = show((env, trajectory))
    said = texts(driver, ".head")[0]
    assert f"{row.tokens:,} tokens" in said
    assert f"{row.trained:,} trained on" in said
    assert f"{row.turns} sampled turn" in said
    assert row.end in said
