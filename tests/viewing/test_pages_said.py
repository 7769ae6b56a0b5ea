"""What pages say, without a browser: findings, notebooks, and where texts of tokens come from."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatenv_client import ChatAction, ChatObservation, FidelityKind, FidelityReport, TokenText, Trajectory
from chatenv_client.models import Origin, StopReason, Turn, segment_of
from chatenv_client.viewing import texts_of
from chatenv_client.viewing.findings import findings_of
from chatenv_client.viewing.last_seen import LastSeen
from chatenv_client.viewing.meanings import MEANINGS
from chatenv_client.viewing.notebook import told_observation
from chatenv_server import ChatEnvironment
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from chatenv_server.tokenizer_files.loading import load_tokenizer
from tools.sample_episodes import thinking_episode, tools_episode


def episode(logprobs: list[float] | None = None, reports: tuple[FidelityReport, ...] = (), **turn: Any) -> Trajectory:
    """A prompt of one token and a sampled turn of three, which was rewarded."""
    sampled = Turn(Origin.SAMPLED, 1, 3, 1, 1, 1, reward=1.0, has_logprobs=logprobs is not None, **turn)
    given = np.array(logprobs or [], dtype=np.float32)
    return Trajectory(
        "e",
        (segment_of(np.arange(4, dtype=np.int32), [Turn(Origin.TEMPLATE, 0, 1, 0, 0, 1), sampled], given, reports),),
    )


def said(trajectory: Trajectory) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in findings_of(trajectory)]


def test_an_exact_episode_is_said_to_be_one() -> None:
    assert said(episode([-1.0, -2.0, -0.5])) == [
        ("good", "Every step was exact: no reports."),
        ("good", "All 3 sampled tokens have a logprob."),
    ]


@pytest.mark.parametrize(
    ("trajectory", "finding"),
    [
        (episode(), ("note", "No logprobs were given.")),
        (episode([-1.0, float("nan"), 0.5]), ("bad", "2 logprobs are no finite number, or above 0.")),
        (
            episode([-1.0] * 3, stop_reason=StopReason.LENGTH),
            ("note", "1 turn was cut off by the sampler's length limit."),
        ),
        (episode([-1.0] * 3, stop_reason=StopReason.ABORT), ("note", "1 turn was aborted.")),
        (
            episode([-1.0] * 3, sampled_runs=(1, 2)),
            ("note", "1 tokens were forced on the model, and are masked out."),
        ),
        (
            episode([-1.0] * 3, model_version_runs=(("a", 1), ("b", 2))),
            ("note", "Sampled by 2 weight versions: a (1), b (2)."),
        ),
        (
            episode([-1.0] * 3, (FidelityReport(FidelityKind.MESSAGE_DROPPED, "x", 1),)),
            ("bad", "1 × MESSAGE_DROPPED"),
        ),
        (
            episode([-1.0] * 3, (FidelityReport(FidelityKind.KWARG_UNUSED, "x"),) * 2),
            ("note", "2 × KWARG_UNUSED"),
        ),
    ],
)
def test_what_a_trainer_should_know_is_found(trajectory: Trajectory, finding: tuple[str, str]) -> None:
    assert finding in said(trajectory)
    levels = [level for level, _ in said(trajectory)]
    assert levels == sorted(levels, key=("bad", "note", "good").index)


def test_every_kind_of_report_has_a_meaning() -> None:
    assert set(MEANINGS) == set(FidelityKind)
    for meaning in MEANINGS.values():
        assert not re.search(r"[\[\]`]|\(\)", meaning.plain)
    assert MEANINGS[FidelityKind.HISTORY_REWRITTEN].plain.endswith('history_policy="segment" or "strict".')


def test_a_notebook_shows_an_episode_in_short() -> None:
    env, trajectory = tools_episode()
    shown = trajectory._repr_html_()
    for part in ("rivers-0042", "reward <b>1.35</b>", "calls -0.05", "4 tokens were forced", "It is 160 km long."):
        assert part in shown
    assert "How long is the river" in env.state._repr_html_()
    assert "terminated" in env.observation._repr_html_()
    assert "3 segments" in thinking_episode()[1]._repr_html_()


def test_a_notebook_shows_the_first_and_the_last_of_many_messages() -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": f"number {place}"} for place in range(100)])
    shown = env.observation._repr_html_()
    assert "… 70 more" in shown
    assert re.findall(r"number (\d+)<", shown) == [str(place) for place in (*range(15), *range(85, 100))]


def test_a_notebook_sums_reports_up() -> None:
    reports = (FidelityReport(FidelityKind.KWARG_UNUSED, "x", None), FidelityReport(FidelityKind.MESSAGE_DROPPED, "y"))
    shown = told_observation(ChatObservation(fidelity=reports[:1] * 5000 + reports[1:]))
    assert re.findall(r">([^<]*(?:KWARG|DROPPED)[^<]*)<", shown) == ["5000 × KWARG_UNUSED: x", "MESSAGE_DROPPED: y"]
    assert len(shown) < 2000


def test_a_notebook_keeps_what_joiners_join_and_spells_out_what_turns() -> None:
    joined = "\U0001f469\u200d\U0001f467 \u0645\u06cc\u200c\u0634\u0648\u062f"
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": f"{joined} \u202e"}])
    assert f"{joined} [U+202E]" in env.observation._repr_html_()


def test_texts_come_from_whoever_knows_them() -> None:
    env = ChatEnvironment(ByteTokenizer())
    env.reset(messages=[{"role": "user", "content": "ü"}])
    env.step(ChatAction(tokens=[65, 257]))
    trajectory = env.trajectory()
    known = texts_of(env, trajectory)
    assert (known[0xC3], known[257]) == (TokenText(b"\xc3"), TokenText(b"<|im_end|>", is_control=True))
    assert set(known) == set(trajectory.tokens.tolist())
    assert texts_of(known, trajectory) == known
    assert texts_of(None, trajectory) == {}
    assert texts_of(ByteTokenizer(), trajectory)[0xC3] == TokenText("\ufffd".encode())
    with pytest.raises(TypeError, match="give a ChatEnv or a tokenizer"):
        texts_of(object(), trajectory)


@pytest.mark.parametrize("name", ["gpt2", "qwen2_5", "mistral_7b_v0_3", "phi3_5"])
def test_a_tokenizer_alone_tells_its_words_with_their_spaces(conformance_dir: Path, name: str) -> None:
    tokenizer = load_tokenizer(str(conformance_dir / "tokenizers" / name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gpt2 has no chat template
        env = ChatEnvironment(tokenizer)
        env.reset(messages=[{"role": "user", "content": "Grüße  to all,\n\tfrom here"}])
    trajectory = env.trajectory()
    alone, known = texts_of(tokenizer, trajectory), texts_of(env, trajectory)
    for token_id, (text, is_control) in known.items():
        assert alone[token_id].is_control == is_control
        if b"\xc3" not in text and b"\xbc" not in text and not is_control:
            assert alone[token_id].text == text


def test_what_was_seen_longest_ago_makes_room() -> None:
    kept = LastSeen(most_tokens=9)
    first, second, third = (replace(episode(), episode_id=name) for name in "abc")
    for one in (first, second, first, third):
        kept.keep(one)
    assert [kept.get(name) for name in "abc"] == [first, None, third]
