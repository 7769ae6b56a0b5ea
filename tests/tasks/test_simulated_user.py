"""Users that a model plays, on a real HTTP server that speaks the OpenAI protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("openai", reason="the extra `endpoint` is not installed")

from chatenv_client.models.messages import MessageSnapshot
from chatenv_server.tasks.endpoint import Endpoint, EndpointError
from chatenv_server.tasks.simulated_user import SimulatedUser, from_the_other_side
from chatenv_server.tasks.task import Answer, ModelTurn, Opening, TaskEpisode
from tests.tasks.conftest import call, contents, turn
from tests.tasks.openai_server import OpenAIServer, failed, saying


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer().running() as running:
        yield running


def lookup(day: str) -> str:
    """Look up trains.

    Args:
        day: On which day.
    """
    return f"One on {day}."


class Traveller(SimulatedUser):
    persona = "You want a train to Bern."
    tools = (lookup,)
    max_turns = 3

    def score(self, turn: ModelTurn) -> dict[str, float]:
        """Be booked."""
        return {"booked": float("booked" in turn.text)}


@pytest.fixture
def task(server: OpenAIServer) -> Traveller:
    class Here(Traveller):
        endpoint = Endpoint("m", server.url, retries=0)

    return Here()


def run(task: SimulatedUser, game: Callable[[], Awaitable[Any]]) -> Any:
    async def play() -> Any:
        try:
            return await game()
        finally:
            await task.endpoint.close()

    return asyncio.run(play())


def opened(task: SimulatedUser, **fields: Any) -> Opening:
    async def game() -> Any:
        return await task.open(TaskEpisode(**fields))

    opening = run(task, game)
    assert isinstance(opening, Opening)
    return opening


def answered(task: SimulatedUser, said: str, *before: Any, turn_count: int = 1) -> Answer:
    messages: Any = [*before, {"role": "assistant", "content": said}]
    one = turn(said, conversation=MessageSnapshot(messages, len(messages)), turn_count=turn_count)

    async def game() -> Any:
        return await task.answer(one)

    answer = run(task, game)
    assert isinstance(answer, Answer)
    return answer


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "You sell tickets."}
PERSONA = {"role": "system", "content": "You want a train to Bern."}
GREETING = user("Hello! How can I help you?")


# -- the opening ---------------------------------------------------------------------------------------------


def test_the_user_begins(task: Traveller, server: OpenAIServer) -> None:
    server.answers = [saying(" A train, please. ")]
    opening = opened(task)
    assert opening.messages == [user("A train, please.")]
    assert [tool["function"]["name"] for tool in opening.tools or ()] == ["lookup"]
    assert server.asked[0]["messages"] == [PERSONA, GREETING]


def test_a_user_who_has_spoken_does_not_speak_again(task: Traveller, server: OpenAIServer) -> None:
    assert opened(task, messages=[SYSTEM, user("A train!")]).messages is None
    assert opened(task, row={"prompt": "A train!"}).messages == [user("A train!")]
    assert server.asked == []


def test_a_user_answers_an_assistant_who_spoke_first(task: Traveller, server: OpenAIServer) -> None:
    server.answers = [saying("A train.")]
    opening = opened(task, messages=[SYSTEM, assistant("Where to?")])
    assert opening.messages == [SYSTEM, assistant("Where to?"), user("A train.")]
    assert server.asked[0]["messages"] == [PERSONA, user("Where to?")]


def test_a_persona_may_depend_on_the_episode(server: OpenAIServer) -> None:
    class ByRow(SimulatedUser):
        endpoint = Endpoint("m", server.url)

        def begin(self, episode: TaskEpisode) -> None:
            """Be who the row says."""
            assert episode.row is not None
            self.persona = f"You want to go to {episode.row['city']}."

    task = ByRow()
    opened(task, row={"city": "Bern"})
    assert server.asked[0]["messages"][0]["content"] == "You want to go to Bern."
    assert vars(task) == {"persona": "You want to go to Bern."}


# -- the conversation ----------------------------------------------------------------------------------------


def test_the_user_answers_the_model(task: Traveller, server: OpenAIServer) -> None:
    server.answers = [saying("Tomorrow.")]
    answer = answered(task, "When?", SYSTEM, user("A train, please."))
    assert list(answer.messages) == [user("Tomorrow.")]
    assert (answer.reward, answer.rewards, answer.terminated, answer.truncated) == (None, None, False, False)
    assert server.asked[0]["messages"] == [PERSONA, GREETING, assistant("A train, please."), user("When?")]
    assert answer.metadata == {"simulated_user": {"persona": "You want a train to Bern.", "reply": "Tomorrow."}}


def test_the_stop_word_ends_the_episode_with_a_score(task: Traveller, server: OpenAIServer) -> None:
    server.answers = [saying("Thanks! ###STOP### Bye.")]
    answer = answered(task, "It is booked.", user("A train, please."))
    assert (answer.rewards, answer.terminated, list(answer.messages)) == ({"booked": 1.0}, True, [])
    assert answer.metadata is not None
    assert answer.metadata["simulated_user"]["reply"] == "Thanks! ###STOP### Bye."


def test_after_the_last_turn_the_episode_is_truncated_with_a_score(task: Traveller, server: OpenAIServer) -> None:
    answer = answered(task, "It is booked.", user("A train, please."), turn_count=3)
    assert (answer.rewards, answer.truncated, answer.terminated) == ({"booked": 1.0}, True, False)
    assert server.asked == []


def test_tools_run_and_the_user_hears_nothing_of_them(task: Traveller, server: OpenAIServer) -> None:
    async def game() -> Any:
        return await task.answer(turn("", call("lookup", {"day": "Monday"})))

    assert contents(run(task, game)) == ["One on Monday."]
    assert server.asked == []


@pytest.mark.parametrize("reply", [saying(""), saying("  \n"), saying(None), lambda: failed("500 Oh")])
def test_a_user_who_says_nothing_fails_the_step(task: Traveller, server: OpenAIServer, reply: Any) -> None:
    server.answers = [reply]
    with pytest.raises(EndpointError):
        answered(task, "When?", user("A train, please."))


# -- the other side ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "heard"),
    [
        ([], [GREETING]),
        ([SYSTEM], [GREETING]),
        ([assistant("Hi!")], [user("Hi!")]),
        (
            [user("A"), assistant("B"), user("C"), assistant("D")],
            [GREETING, *map(assistant, "A"), user("B"), assistant("C"), user("D")],
        ),
        (
            [
                user("A"),
                {"role": "assistant", "content": "Let me see.", "tool_calls": [call("lookup")]},
                {"role": "tool", "content": "One."},
                {"role": "assistant", "content": None, "tool_calls": [call("lookup")]},
                {"role": "tool", "content": "Two."},
                assistant("There are two."),
            ],
            [GREETING, assistant("A"), user("Let me see.\n\nThere are two.")],
        ),
        ([user("A"), assistant("")], [GREETING, assistant("A"), user("(The assistant says nothing.)")]),
        (
            [user("A"), {"role": "assistant", "content": [{"type": "text", "text": "B"}, {"type": "image"}]}],
            [GREETING, assistant("A"), user("B")],
        ),
        (
            [user("A"), {"role": "assistant", "content": "B", "reasoning_content": "hm"}],
            [GREETING, assistant("A"), user("B")],
        ),
    ],
)
def test_the_user_hears_what_both_say_with_the_roles_swapped(messages: Any, heard: Any) -> None:
    assert from_the_other_side(messages, GREETING["content"]) == heard
