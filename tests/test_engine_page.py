"""docs/engine.md tells the truth: its conversation is played, and every file of the engine has its owner's line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chatenv_server
from chatenv_client import ChatAction, ChatObservation, FidelityKind
from chatenv_server import ChatEnvironment
from chatenv_server.engine import TokenEngine
from chatenv_server.engine.conversation import TailPlace
from chatenv_server.engine.cut import Cut
from chatenv_server.engine.reading_back import conversation_at
from chatenv_server.engine.template import FilledTemplate
from chatenv_server.engine.template_renderer import TemplateRenderer
from tests.engine.learning import format_of
from tests.engine.subjects import recorded_tokenizer

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = (CHECKOUT / "docs" / "engine.md").read_text(encoding="utf-8")
CALL = (
    "I add.\n</think>\n\n<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n<parameter=b>\n2\n</parameter>\n"
    "</function>\n</tool_call>"
)
TURNS: list[tuple[str, dict[str, Any]]] = [
    (CALL, {"role": "tool", "content": "4"}),
    ("It is 4.\n</think>\n\nFour.", {"role": "user", "content": "And 3 + 3?"}),
    ("Six.\n</think>\n\nSix.", {"role": "user", "content": "Thanks!"}),
]


class Played:
    """The page's conversation, step by step."""

    def __init__(self) -> None:
        self.engine = TokenEngine.load(recorded_tokenizer("standin_qwen3_6"))
        self.codec = format_of(self.engine).codec
        self.environment = ChatEnvironment(self.engine)
        self.observations = [self.environment.reset(messages=[{"role": "user", "content": "What is 2 + 2?"}])]
        self.cuts: list[Cut] = []
        for said, reply in TURNS:
            sampled = [*self.codec.encode(said), self.codec.id_of("<|im_end|>")]
            self.observations.append(self.environment.step(ChatAction(tokens=sampled)))
            self.observations.append(self.environment.step(reply))
            self.cuts.append(self._cut(reply))

    def _cut(self, reply: dict[str, Any]) -> Cut:
        """Where the last tail was cut off its render."""
        log = self.environment._episode.log  # type: ignore[union-attr]
        renderer, head = log.renderer, log.head
        assert isinstance(renderer, TemplateRenderer)
        assert head.last is not None
        history = conversation_at(head, head.last.message_index, renderer)
        place = TailPlace(history, head.last, head.committed)
        cut = renderer._writer.write(place, [reply]).cut  # type: ignore[list-item]
        assert cut is not None
        return cut

    def appended(self, number: int) -> Sequence[int]:
        """The ids that a step added to the stream."""
        before = len(self.observations[number - 1].token_ids) if number else 0
        ids: list[int] = self.observations[number].token_ids[before:].tolist()
        return ids

    def text(self, number: int) -> str:
        return self.codec.decode(np.array(self.appended(number), dtype=np.int32))


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


def play(engine: TokenEngine) -> None:
    """Another episode of the page's conversation."""
    environment, codec = ChatEnvironment(engine), format_of(engine).codec
    environment.reset(messages=[{"role": "user", "content": "What is 2 + 2?"}])
    for said, reply in TURNS:
        environment.step(ChatAction(tokens=[*codec.encode(said), codec.id_of("<|im_end|>")]))
        environment.step(reply)


def shown(text: str) -> str:
    return text.replace("\n", "⏎")


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_the_page_shows_what_each_step_adds(played: Played, number: int) -> None:
    assert shown(played.text(number)) in PAGE
    if number != 1:  # the call is shown as text alone
        assert " ".join(map(str, played.appended(number))) in PAGE


def test_the_page_shows_the_message_that_is_read_off_the_first_turn(played: Played) -> None:
    assert json.dumps(played.observations[1].messages[1]) in PAGE


def test_the_page_shows_the_renders_and_where_they_are_cut(played: Played) -> None:
    exact, rewritten, again = played.cuts
    assert (exact.exact, rewritten.exact, again.exact) == (True, False, False)
    assert shown(exact.whole) in PAGE
    assert shown(rewritten.whole) in PAGE
    assert shown(rewritten.rendered) in PAGE


def test_the_page_names_the_reports(played: Played) -> None:
    def reported(observation: ChatObservation) -> list[tuple[FidelityKind, int | None, int | None]]:
        return [(one.kind, one.token_index, one.message_index) for one in observation.fidelity]

    kind = FidelityKind.HISTORY_REWRITTEN
    expected = [[]] * 4 + [[(kind, 82, 3), (kind, None, 1)], [], [(kind, 110, 5)]]
    assert [reported(one) for one in played.observations] == expected


def test_the_page_counts_the_turns(played: Played) -> None:
    rows = re.findall(r"^\| ([TS])\d \| (\d+) to (\d+) \|", PAGE, flags=re.MULTILINE)
    turns = played.environment.state.turns
    assert [(int(start), int(stop)) for _, start, stop in rows] == [(turn.start, turn.stop) for turn in turns]
    assert [kind for kind, *_ in rows] == ["S" if turn.stop_reason else "T" for turn in turns]


def test_the_third_episode_like_the_pages_renders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[object] = []
    really = FilledTemplate.render

    def render(self: FilledTemplate, messages: Sequence[Any], prompt: bool) -> str:
        rendered.append(messages)
        return really(self, messages, prompt)

    monkeypatch.setattr(FilledTemplate, "render", render)
    engine = TokenEngine.load(recorded_tokenizer("standin_qwen3_6"))
    renders = []
    for _ in range(3):
        rendered.clear()
        play(engine)
        renders.append(len(rendered))
    assert renders[0] > renders[1] > renders[2] == 0


def test_every_file_of_the_engine_has_a_line_that_says_what_it_owns() -> None:
    folder = Path(chatenv_server.__file__).parent / "engine"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if path.name != "__init__.py"}
    named = set(re.findall(r"`([a-z_/]+\.py)`", PAGE[PAGE.index("## Who owns what") :]))
    assert files == named


def test_the_picture_names_files_that_exist() -> None:
    picture = (CHECKOUT / "docs" / "engine.svg").read_text(encoding="utf-8")
    folder = Path(chatenv_server.__file__).parent / "engine"
    named = re.findall(r"[a-z_/]+\.py", picture)
    assert named
    assert [name for name in named if not (folder / name).is_file()] == []
