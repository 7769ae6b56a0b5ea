"""The page of an episode, in a real browser: what it says, and what keys and pointer do."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from chatenv_client import ChatAction, ForkOrigin
from chatenv_client.viewing import Relative, View, episode_page
from chatenv_server import ChatEnvironment
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.viewing.conftest import Show, texts
from tools.sample_episodes import Play, broken_episode, long_episode, thinking_episode, tools_episode


@pytest.fixture(scope="module")
def played() -> Play:
    return tools_episode()


def press(driver: Any, *keys: str) -> None:
    ActionChains(driver).send_keys(*keys).perform()


def tip_of(driver: Any) -> dict[str, str]:
    """What the box beside a token says."""
    names, values = texts(driver, ".tip dt"), texts(driver, ".tip dd")
    return dict(zip(names, values, strict=True))


def test_every_token_stands_in_its_place_with_its_origin(show: Show, played: Play) -> None:
    driver = show(played)
    _, trajectory = played
    shown = driver.execute_script(
        "return [...document.querySelectorAll('.tokens .k')]"
        ".map((one) => [placeOf(one).at, one.className.split(' ')[1]])"
    )
    assert [place for place, _ in shown] == list(range(len(trajectory.tokens)))
    sampled = [trajectory.turns[turn].origin.value == "sampled" for turn in trajectory.turn]
    expected = [
        "s" if mask else "f" if in_turn else "t" for mask, in_turn in zip(trajectory.loss_mask, sampled, strict=True)
    ]
    assert [origin for _, origin in shown] == expected
    assert {"s", "f", "t"} == set(expected)


def test_the_text_of_a_page_is_the_text_of_its_tokens(show: Show, played: Play) -> None:
    driver = show(played)
    env, trajectory = played
    text = b"".join(one.text for one in env.describe_tokens(trajectory.tokens.tolist())).decode()
    shown = "".join(texts(driver, ".tokens .k")).replace("↵\n", "\n").replace("◂", "")
    assert shown.replace("·", " ") == text.replace("·", " ")


def test_the_page_says_why_the_reward_is_what_it_is(show: Show, played: Play) -> None:
    driver = show(played)
    assert texts(driver, ".worth b") == ["+1.35"]
    rows = driver.execute_script(
        "return [...document.querySelectorAll('.cards table tr')]"
        ".map((row) => [...row.children].map((one) => one.textContent))"
    )
    assert rows == [
        ["turn", "reward", "format", "calls", "right", "short"],
        ["sum", "+1.35", "+0.2", "−0.05", "+1", "+0.2"],
        ["1 step 1", "+0.1", "+0.1", "", "", ""],
        ["3 step 3", "+0.05", "+0.1", "−0.05", "", ""],
        ["5 step 5", "+1.2", "", "", "+1", "+0.2"],
    ]


def test_the_page_says_whether_its_tokens_can_be_trusted(show: Show) -> None:
    driver = show(broken_episode())
    found = " ".join(texts(driver, ".finding"))
    for said in (
        "It failed (tool)",
        "1 × UNDECODABLE_TOKENS",
        "For training: tokens are kept; the message shows U+FFFD",
        "1 turn was cut off by the sampler's length limit",
    ):
        assert said in found
    assert texts(driver, ".worth b") == ["none"]
    assert "The sandbox did not answer for 30 s." in " ".join(texts(driver, ".failure"))
    reports = texts(driver, ".turn.sampled .report b")
    assert reports == ["UNDECODABLE_TOKENS", "TRUNCATED_TURN_CLOSED"]


def test_the_page_leads_to_the_turns_that_cannot_be_trusted(show: Show) -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": "x"}])
    for tokens, logprobs in (([65, 257], [-1.0, -1.0]), ([65, 257], None), ([65, 257], [-1.0, 0.5]), ([65], [-1.0])):
        env.step(ChatAction(tokens=tokens, logprobs=logprobs))
        env.step({"role": "user", "content": "y"})
    driver = show((env, env.trajectory()))
    led = driver.execute_script(
        "return [...document.querySelectorAll('.finding')].map((one) =>"
        " [one.textContent, ...[...one.querySelectorAll('a')].map((link) => link.getAttribute('href'))])"
    )
    for said, place in (("2 of 7 sampled", "#s0t3"), ("1 logprobs are no", "#s0t5"), ("1 turn was cut off", "#s0t7")):
        assert [found[1:] for found in led if said in found[0]] == [[place]]
    assert texts(driver, "#s0t3 .badge.bad") == ["no logprobs"]


def test_what_cannot_be_seen_is_spelt_out(show: Show) -> None:
    driver = show(broken_episode())
    odd = set(texts(driver, ".tokens .odd"))
    assert odd >= {"U+00A0", "U+200B", "U+202E", "U+202C", "U+0007"}
    assert texts(driver, ".tokens .cut") == ["‹f0›", "‹9f›", "‹98›"]
    tokens = "".join(texts(driver, ".turn.sampled .k"))
    assert "Grü◂ß◂e" in tokens
    assert "😀◂◂◂" in tokens
    isolated = driver.execute_script(
        "return [...document.querySelectorAll('.tokens .k')]"
        ".every((one) => getComputedStyle(one).unicodeBidi === 'isolate')"
    )
    assert isolated
    spelt = texts(driver, ".k.ctl").count("<|im_end|>")
    assert spelt == 4  # the turns' own; the one that the user spelt is text


def test_a_pointer_over_a_token_shows_what_it_is(show: Show, played: Play) -> None:
    driver = show(played)
    _, trajectory = played
    place = int(trajectory.loss_mask.argmax())
    node = driver.find_elements(By.CSS_SELECTOR, ".tokens .k")[place]
    ActionChains(driver).move_to_element(node).perform()
    tip = tip_of(driver)
    assert tip["token"].startswith(str(trajectory.tokens[place]))
    assert json.loads(tip["text"].removesuffix(" control")) == "<think>"
    assert tip["origin"].startswith("sampled")
    assert float(tip["logprob"].split()[0].replace("−", "-")) == pytest.approx(trajectory.logprobs[place], abs=1e-6)
    assert tip["turn"].startswith("1")
    assert tip["weights"] == "step-17"
    assert tip["column"].startswith("entropy")


def test_a_token_knows_the_weights_that_sampled_it(show: Show, played: Play) -> None:
    driver = show(played)
    _, trajectory = played
    start = trajectory.turns[3].start
    nodes = driver.find_elements(By.CSS_SELECTOR, ".tokens .k")
    nodes[start + 11].click()
    assert tip_of(driver)["weights"] == "step-17"
    press(driver, Keys.ARROW_RIGHT)
    assert tip_of(driver)["weights"] == "step-18"
    press(driver, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert tip_of(driver)["token"].split()[-1] == str(start + 10)
    press(driver, "c")
    assert len(texts(driver, ".pinned")) == 1
    press(driver, Keys.ESCAPE)
    assert texts(driver, ".pinned") == []


def test_keys_choose_the_colour_and_go_from_turn_to_turn(show: Show, played: Play) -> None:
    driver = show(played)
    chosen = "[data-choice][aria-pressed=true]"
    assert texts(driver, chosen) == ["origin"]
    press(driver, "c")
    assert texts(driver, chosen) == ["logprob"]
    assert driver.execute_script("return document.querySelectorAll('.tokens .l8').length") > 0
    press(driver, "c")
    assert texts(driver, chosen) == ["entropy"]
    assert driver.execute_script("return document.querySelectorAll('.tokens .c0').length") > 0
    press(driver, "j")
    assert driver.current_url.endswith("#s0t0")
    press(driver, "j")
    assert driver.current_url.endswith("#s0t1")


def test_search_finds_a_text_over_tokens_and_an_id(show: Show, played: Play) -> None:
    driver = show(played)
    _, trajectory = played
    press(driver, "/", "RIVER THROUGH lima", Keys.ENTER)
    assert texts(driver, ".found") == ["1 of 1"]
    assert "".join(texts(driver, ".k.hit")).strip('·"') == "river through Lima"
    press(driver, Keys.ESCAPE, "/", f"#{trajectory.tokens[0]}", Keys.ENTER)
    count = int((trajectory.tokens == trajectory.tokens[0]).sum())
    assert texts(driver, ".found") == [f"1 of {count}"]
    press(driver, Keys.ENTER)
    assert texts(driver, ".found") == [f"2 of {count}"]
    press(driver, Keys.ESCAPE, "/", "nowhere", Keys.ENTER)
    assert texts(driver, ".found") == ["not found"]


def test_a_message_marks_its_tokens(show: Show, played: Play) -> None:
    driver = show(played)
    message = driver.find_element(By.CSS_SELECTOR, ".message")
    ActionChains(driver).move_to_element(message).perform()
    marked = "".join(texts(driver, ".of-message"))
    assert marked == "How long is the river that flows through the capital of Peru? Answer in kilometres."


def test_segments_are_shown_as_what_the_model_saw(show: Show) -> None:
    played = thinking_episode()
    driver = show(played)
    assert [text.split()[:2] for text in texts(driver, ".segment-head")] == [["Segment", str(one)] for one in range(3)]
    assert len(texts(driver, ".map-row")) == 3
    lengths = [f"{len(one.tokens):,}" for one in played[1].segments]
    assert texts(driver, ".map-row > :last-child") == lengths
    assert texts(driver, ".of-shared") == ["", ""]


def test_a_turn_says_when_it_came_and_how_long_that_was_after_the_one_before(show: Show) -> None:
    env, trajectory = thinking_episode()
    came = iter([0, 1_234, 12_345, 60_000, 3_600_000, 90_061_001])
    told = [
        dataclasses.replace(
            segment, turns=tuple(dataclasses.replace(turn, at_ms=next(came, None)) for turn in segment.turns)
        )
        for segment in trajectory.segments
    ]
    driver = show((env, dataclasses.replace(trajectory, segments=tuple(told))))
    assert texts(driver, ".time") == [
        "at 0.00 s, +0.00 s",
        "at 1.23 s, +1.23 s",
        "at 12.3 s, +11.1 s",
        "at 01:00, +47.7 s",
        "at 1:00:00, +59:00",
        "at 25:01:01, +24:01:01",
    ]


def test_messages_that_were_replaced_are_not_shown_beside_what_the_model_saw(show: Show) -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": "the first"}])
    env.step(ChatAction(tokens=[*b"Yes.", 257]))
    env.step({"role": "user", "content": "the second"}, replace_from=0)
    driver = show((env, env.trajectory()))
    said = [texts(driver, f"#s{segment}t0 .said-content") for segment in (0, 1)]
    assert said == [[], ["the second"]]
    assert "message 0 was replaced later" in texts(driver, "#s0t0 .said")[0]


def test_a_map_of_many_segments_leaves_room_for_the_tokens(show: Show) -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": "x"}])
    for number in range(40):
        env.step(ChatAction(tokens=[65, 257]))
        env.step({"role": "user", "content": f"y {number}"}, replace_from=0)
    driver = show((env, env.trajectory()))
    assert len(texts(driver, ".map-row")) == 41
    assert driver.execute_script("return document.querySelector('.map').getBoundingClientRect().height") <= 300


def test_the_map_shows_the_rest_of_the_group_and_where_it_was_forked(show: Show, played: Play) -> None:
    relatives = [
        Relative("other", 120, 300, -0.5, failed=False, href="other.html"),
        Relative("third", 10, 90, None, failed=True),
    ]
    driver = show(played, View(relatives=relatives, forked_from=ForkOrigin("root", 2), index_href="../index.html"))
    assert texts(driver, ".map-row > :last-child") == [str(len(played[1].tokens)), "−0.5", "failed"]
    assert driver.execute_script("return document.querySelector('.map-row a').getAttribute('href')") == "other.html"
    assert "root after step 2" in " ".join(texts(driver, ".facts dd"))


def test_without_a_tokenizer_a_page_shows_ids(show: Show, played: Play) -> None:
    driver = show(episode_page(played[1]))
    assert texts(driver, ".tokens .k") == [str(token) for token in played[1].tokens]
    assert "Ids alone" in " ".join(texts(driver, ".facts dd"))


def test_a_page_says_that_its_tokenizer_may_be_another(show: Show, played: Play) -> None:
    assert "another tokenizer" not in " ".join(texts(show(played), ".facts dd"))
    driver = show((ByteTokenizer(), played[1]))
    assert "have no text: is this another tokenizer" in " ".join(texts(driver, ".facts dd"))


def test_a_page_follows_the_colours_that_its_reader_prefers(show: Show, played: Play) -> None:
    from tests.viewing.browser import emulate

    driver = show(played)
    grounds = []
    for dark in (False, True):
        emulate(driver, 1400, 900, dark=dark)
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(map(int, re.findall(r"\d+", ground)[:3])))
    emulate(driver, 1400, 900)
    assert grounds[0] > 700
    assert grounds[1] < 100


def test_thirty_thousand_tokens_are_one_page_below_a_megabyte(show: Show) -> None:
    env, trajectory = long_episode(30_000)
    page = trajectory.to_html(env)
    assert len(page.encode()) < 1_000_000
    driver = show(page)
    assert (
        driver.execute_script("return document.querySelectorAll('.tokens .k').length")
        == len(trajectory.tokens)
        == 30_000
    )


def test_of_many_turns_those_in_sight_alone_are_laid_out(show: Show) -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": "x"}])
    for _ in range(101):
        env.step(ChatAction(tokens=[65, 257]))
        env.step({"role": "user", "content": "y"})
    driver = show((env, env.trajectory()))
    laid_out = "document.querySelectorAll('.turn .tokens')[arguments[0]].checkVisibility({contentVisibilityAuto: true})"
    assert driver.execute_script(f"return {laid_out}", 150) is False
    driver.execute_script("for (let at = 0; at < 151; at++) goBy(1)")
    assert driver.execute_script("return state.turn.number") == 150
    assert 0 < driver.execute_script("return state.turn.node.getBoundingClientRect().top") < 200


def test_an_episode_without_a_token_has_a_page(show: Show) -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset()
    driver = show((env, env.trajectory()))
    press(driver, "j", "k", "r", "c", "/", "a")
    assert "nothing to train on" in " ".join(texts(driver, ".finding"))
    assert texts(driver, ".turn") == []


def test_an_aborted_turn_of_no_tokens_and_odd_numbers_are_shown(show: Show) -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": "x"}])
    env.step(ChatAction(tokens=[], stop_reason="abort"))
    extras = {"huge": np.array([[np.inf]]), "flag": np.array([True])}
    env.step(ChatAction(tokens=[65], logprobs=[-math.inf], extras=extras))
    driver = show((env, env.trajectory()))
    press(driver, "c", "c", "c")
    driver.find_element("css selector", ".turn.sampled .k").click()
    assert tip_of(driver)["logprob"].startswith("-Infinity")
    assert "1 logprobs are no finite number" in " ".join(texts(driver, ".finding"))
