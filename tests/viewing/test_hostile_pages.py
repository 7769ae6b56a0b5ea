"""Nothing that an episode holds runs in its page: hostile texts in a real browser."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from chatenv_client import Failure, FailureKind, FidelityKind, FidelityReport, TokenText, Trajectory
from chatenv_client.models import Origin, Turn, segment_of
from chatenv_client.tokens import as_logprobs, as_token_ids
from chatenv_client.viewing import EpisodeRow, Relative, View, episode_page, row_of, run_page
from chatenv_client.viewing.notebook import told_trajectory
from tests.viewing.conftest import Show, texts

ATTACKS: Final = (
    "</script><script>window.ran='script'</script>",
    "<img src=x onerror=\"window.ran='img'\">",
    "<!--<script>",
    "]]><svg onload=\"window.ran='svg'\">",
    "\"' onmouseover=\"window.ran='attribute'\" x='",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;<b>&amp;",
    "</style><style>*{display:none}</style>",
    "\u2028\u2029\u202e\ud800\x00",
    "javascript:window.ran='link'",
    "__proto__",
)


def hostile(attack: str) -> Trajectory:
    """An episode that says an attack wherever a text may be."""
    turns = [
        Turn(Origin.TEMPLATE, 0, 1, 0, 0, 1),
        Turn(
            *(Origin.SAMPLED, 1, 2, 1, 1, 2),
            model_version=attack,
            reward=1.0,
            rewards={attack: 1.0},
            has_logprobs=True,
            model_version_runs=((attack, 1), (attack, 1)),
        ),
    ]
    reports = [FidelityReport(FidelityKind.MESSAGE_DROPPED, attack, 1, 1)]
    call: Any = {"id": attack, "type": "function", "function": {"name": attack, "arguments": {attack: attack}}}
    messages: Any = (
        {"role": "user", "content": [{"type": "text", "text": attack}, {attack: attack}]},
        {"role": "assistant", "content": attack, "reasoning_content": attack, "tool_calls": [call]},
        {"role": attack, "content": attack, "name": attack, "tool_call_id": attack},
    )
    segment = segment_of(as_token_ids([1, 2, 3]), turns, as_logprobs([-1.0, -2.0]), reports)
    failure = Failure(FailureKind.TOOL, attack)
    return Trajectory(attack, (segment,), failure=failure, messages=messages, metadata={attack: attack}, group=attack)


def page_of(attack: str) -> str:
    text = attack.encode(errors="replace")
    known = {1: TokenText(text), 2: TokenText(text, is_control=True), 3: TokenText(text + b"\xff")}
    relative = Relative(attack, 1, 3, 0.5, failed=False)
    return episode_page(hostile(attack), known, View(relatives=[relative], task=attack, tokenizer_name=attack))


def assert_nothing_ran(driver: Any) -> None:
    # A moment for what loads or fires late, and a touch of everything that listens.
    driver.execute_async_script(
        "const done = arguments[0]; for (const one of document.querySelectorAll('*')) "
        "one.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})); setTimeout(done, 50)"
    )
    assert driver.execute_script("return window.ran ?? null") is None
    assert driver.execute_script("return document.querySelectorAll('img, iframe, object, b b').length") == 0
    assert driver.execute_script("return document.scripts.length") == 2
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_of_an_episode_runs_in_its_page(show: Show, attack: str) -> None:
    driver = show(page_of(attack))
    assert_nothing_ran(driver)
    said = attack.replace("\x00", "U+0000").replace("\u202e", "U+202E").replace("\ud800", "U+D800")
    said = said.replace("\u2028", "U+2028").replace("\u2029", "U+2029")
    for place in (".said-content", ".said-thought", ".role bdi", ".call b"):
        assert said in texts(driver, place)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_of_a_run_runs_in_its_page(show: Show, attack: str) -> None:
    row = EpisodeRow(
        *(attack, "a.html", attack, 1.0, {attack: 1.0}, attack, attack, "failed", 3, 2, 1, 1, -1.0),
        stops={attack: 1},
        reports={attack: 1},
        version=attack,
    )
    driver = show(run_page([row], attack))
    assert_nothing_ran(driver)
    assert len(texts(driver, ".rows tbody tr")) == 1


def test_the_policy_of_a_page_stops_a_script_that_got_in(chrome: Any, tmp_path: Any) -> None:
    attack = "<script>window.ran='script'</script><img src=x onerror=\"window.ran='img'\">"
    broken_in = page_of("x").replace('<main id="page">', f'{attack}<main id="page">')
    path = tmp_path / "page.html"
    path.write_text(broken_in, encoding="utf-8")
    chrome.get(path.as_uri())
    assert chrome.execute_script("return window.ran ?? null") is None
    assert texts(chrome, ".turn") != []
    said = " ".join(entry["message"] for entry in chrome.get_log("browser"))
    assert "Content Security Policy" in said


def test_the_browser_of_these_tests_would_run_it(chrome: Any, tmp_path: Any) -> None:
    path = tmp_path / "page.html"
    path.write_text("<script>window.ran='script'</script>", encoding="utf-8")
    chrome.get(path.as_uri())
    assert chrome.execute_script("return window.ran") == "script"


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_runs_in_a_notebook(show: Show, attack: str) -> None:
    driver = show(f"<!doctype html><meta charset=utf-8><title>notebook</title>{told_trajectory(hostile(attack))}")
    assert driver.execute_script("return window.ran ?? null") is None
    assert driver.execute_script("return document.querySelectorAll('img, script, svg, style').length") == 0


def rewarded(rewards: dict[str, float]) -> Trajectory:
    """Two rewarded turns, the second without parts."""
    turns = [
        Turn(Origin.SAMPLED, 0, 1, 0, 0, 1, reward=sum(rewards.values()), rewards=rewards),
        Turn(Origin.SAMPLED, 1, 1, 1, 1, 1, reward=1.0),
    ]
    return Trajectory("e", (segment_of(as_token_ids([1, 2]), turns, as_logprobs([]), []),))


def test_a_reward_may_be_named_like_what_every_object_has(show: Show) -> None:
    names = ("toString", "constructor", "hasOwnProperty")
    trajectory = rewarded(dict.fromkeys(names, 1.0))
    driver = show(episode_page(trajectory))
    rows = driver.execute_script(
        "return [...document.querySelectorAll('.cards table tr')]"
        ".map((row) => [...row.children].slice(1).map((one) => one.textContent))"
    )
    assert rows == [["reward", *names], ["+4", "+1", "+1", "+1"], ["+3", "+1", "+1", "+1"], ["+1", "", "", ""]]
    other = EpisodeRow("other", reward=1.0)
    driver = show(run_page([row_of(trajectory), other], "run"))
    assert texts(driver, ".rows tbody tr:last-child td")[4:7] == ["", "", ""]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_no_number_leaves_no_page_blank(show: Show, number: float) -> None:
    trajectory = rewarded({"part": number})
    driver = show(episode_page(trajectory))
    assert "Its reward is no finite number." in " ".join(texts(driver, ".finding"))
    assert len(texts(driver, ".turn")) == 2
    driver = show(run_page([row_of(trajectory)], "run"))
    assert "1 to look at before training" in texts(driver, ".summary")[0]


def test_a_page_whose_script_fails_says_so(chrome: Any, tmp_path: Any) -> None:
    path = tmp_path / "page.html"
    path.write_text(page_of("x").replace('id="data">{', 'id="data">{,'), encoding="utf-8")
    chrome.get(path.as_uri())
    assert "could not be laid out" in texts(chrome, ".broken")[0]
    assert "JSON" in " ".join(entry["message"] for entry in chrome.get_log("browser"))


def test_the_data_of_a_page_are_json_without_a_tag() -> None:
    for attack in ATTACKS:
        data = page_of(attack).split('<script type="application/json" id="data">')[1].split("</script>")[0]
        assert not {"<", ">", "&"} & set(data)
        assert json.loads(data)["episode_id"] == attack
