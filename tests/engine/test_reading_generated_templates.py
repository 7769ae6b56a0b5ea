"""Law 12 over generated chat templates: a turn that a template writes whole comes back whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings

from chatenv_client.errors import TemplateRejectedError
from chatenv_server.engine.chat_format import ChatFormat
from chatenv_server.engine.learn_parser import without_close
from chatenv_server.engine.parsing import types_of_tools
from chatenv_server.engine.template import variables_of
from tests.engine.generated_templates import Traits, loaded, source_of, traits
from tests.engine.learning import format_of
from tests.engine.test_reading_any_form import TOOLS, functions, messages

QUESTION = {"role": "user", "content": "Zq7xQ5sT"}


def written(chat_format: ChatFormat, said: Sequence[Mapping[str, Any]], *, prompt: bool) -> str | None:
    """What the template writes after the question; None where it rejects the messages."""
    variables = variables_of(chat_format.special_tokens, tools=TOOLS)
    prepared = [chat_format.profile.forms.apply(message) for message in (QUESTION, *said)]
    try:
        text = chat_format.template.render(prepared, variables, add_generation_prompt=prompt)
    except TemplateRejectedError:
        return None
    return text.rpartition(QUESTION["content"])[2]


def telling(message: dict[str, Any]) -> dict[str, Any]:
    """The message with texts that a turn shows nowhere by chance."""
    said = {"content": f"Said {message['content']}" if message["content"] else ""}
    thought = {"reasoning_content": f"Thought {message['reasoning_content']}"} if "reasoning_content" in message else {}
    return {**message, **said, **thought}


@given(traits, messages.map(telling))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_a_generated_template_writes_whole_is_read_whole(template: Traits, message: dict[str, Any]) -> None:
    chat_format = format_of(loaded(source_of(template))[0])
    prompt, turn = written(chat_format, [], prompt=True), written(chat_format, [message], prompt=False)
    if not prompt or turn is None or not turn.startswith(prompt):
        return  # what the model samples after this prompt is not what the template writes
    stops = [chat_format.codec.added.texts[i] for i in chat_format.profile.stop_ids if i in chat_format.codec.added]
    sampled = without_close(turn[len(prompt) :], message, stops)
    keys = [key for one in message.get("tool_calls", ()) for key in one["function"]["arguments"]]
    names = [one["function"]["name"] for one in message.get("tool_calls", ())]
    texts = [message["content"], message.get("reasoning_content", ""), *names, *keys]
    if not all(text in sampled for text in texts):
        return  # the template leaves something out
    read = chat_format.parser_for({}, with_tools=True).typed(types_of_tools(TOOLS)).parse(sampled)
    assert read.problems == (), sampled
    assert functions(read.as_message()) == functions(message), sampled
    assert (read.content, read.reasoning_content) == (message["content"], message.get("reasoning_content")), sampled
