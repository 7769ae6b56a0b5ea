"""The renderer for the package `renderers`: beside those written by hand, and beside the template itself."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)
pytest.importorskip("renderers", reason="the package renderers is not installed")

from renderers import CustomRendererConfig, create_renderer
from renderers.configs import config_from_name

from chatenv_client import Message
from chatenv_client.errors import InvalidRequestError, TemplateRejectedError
from chatenv_client.models import ToolCall
from chatenv_server.renderers import ChatEnvRenderer, ChatEnvRendererConfig
from tests.conformance import CONFORMANCE, do_without, why_missing
from tests.engine.subjects import recorded_tokenizer, subject

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "trainers" / "renderers.md"
PLAIN = ("bytes", "tiny_bytes", "qwen2_5", "mistral_7b_v0_3")
"""Tokenizers whose templates write a turn in one way, wherever it stands."""
NAMES = (*PLAIN, "phi3_5", "standin_qwen3_6", "standin_glm4_5", "standin_kimi_k2")
BY_HAND = {"qwen3": "qwen3", "standin_qwen3_6": "qwen3.6", "standin_glm4_5": "glm-4.5"}
"""Tokenizers whose template the package has written by hand, and its name there."""
CALLS = {
    "qwen3": '<think>\nI add.\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>'
    "<|im_end|>",
    "standin_qwen3_6": "I add.\n</think>\n\n<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n<parameter=b>"
    "\n2\n</parameter>\n</function>\n</tool_call><|im_end|>",
    "standin_glm4_5": "\n<think>I add.</think>\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n"
    "<arg_key>b</arg_key>\n<arg_value>2</arg_value>\n</tool_call><|observation|>",
}
"""A turn of each that thinks and calls a tool."""

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
QUESTION: list[Message] = [{"role": "user", "content": "What is 2 + 2?"}]
ANSWER: Message = {"role": "assistant", "content": "Four."}
AGAIN: list[Message] = [{"role": "user", "content": "Are you sure?"}]
SUM = {"a": 2, "b": 2}
CALL: ToolCall = {"id": "functions.add:0", "type": "function", "function": {"name": "add", "arguments": SUM}}
CALLING: list[Message] = [*QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
RESULT: list[Message] = [{"role": "tool", "content": "It is four.", "tool_call_id": "functions.add:0", "name": "add"}]


@functools.cache
def tokenizer_of(name: str) -> Any:
    if name != "qwen3":
        return subject(name).tokenizer
    path = CONFORMANCE / "templates" / "qwen3.jinja"
    if reason := why_missing(path):
        do_without(reason)
    tokenizer = recorded_tokenizer("qwen2_5")
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    tokenizer.add_tokens(["<think>", "</think>", "<tool_response>", "</tool_response>"])
    return tokenizer


def renderer_of(name: str, **options: Any) -> ChatEnvRenderer:
    return ChatEnvRenderer(tokenizer_of(name), ChatEnvRendererConfig(**options))


def encode(name: str, text: str) -> list[int]:
    return list(tokenizer_of(name).encode(text, add_special_tokens=False))


def asked(name: str, **options: Any) -> list[int]:
    return renderer_of(name, **options).render_ids(QUESTION, tools=[ADD], add_generation_prompt=True)


def written(name: str) -> tuple[list[int], list[int]]:
    """A prompt, and an answer as the template writes it, through the token that ends it."""
    renderer = renderer_of(name)
    prompt = renderer.render_ids(QUESTION, add_generation_prompt=True)
    whole = renderer.render_ids([*QUESTION, ANSWER])
    assert whole[: len(prompt)] == prompt
    stops = [place for place, token in enumerate(whole) if token in renderer.get_stop_token_ids()]
    return prompt, whole[len(prompt) : stops[-1] + 1]


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_render_is_what_the_template_writes(name: str, asks: bool) -> None:
    messages = [*QUESTION, ANSWER, *AGAIN]
    rendered = renderer_of(name).render(messages, add_generation_prompt=asks)
    assert rendered.token_ids == subject(name).full(messages, prompt=asks)
    assert rendered.token_ids == renderer_of(name).render_ids(messages, add_generation_prompt=asks)
    assert set(rendered.message_indices) <= {-1, 0, 1, 2}
    assert rendered.message_roles == ["user", "assistant", "user"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mistral_7b_v0_3"])
def test_content_is_the_text_of_a_message_and_nothing_else(name: str) -> None:
    rendered = renderer_of(name).render([*QUESTION, ANSWER, *AGAIN])
    spans = rendered.content_token_spans_by_role()
    texts = [tokenizer_of(name).decode(rendered.token_ids[start:stop]) for start, stop in spans["user"]]
    assert texts == ["What is 2 + 2?", "Are you sure?"]


def test_a_token_that_begins_in_what_the_template_writes_is_no_content() -> None:
    rendered = renderer_of("mistral_7b_v0_3").render(QUESTION)  # `▁What`, after `[INST]` and a space
    ((start, stop),) = rendered.content_token_spans_by_role()["user"]
    assert tokenizer_of("mistral_7b_v0_3").decode(rendered.token_ids[start:stop]) == "is 2 + 2?"


@pytest.mark.parametrize("name", PLAIN)
def test_of_a_given_assistant_that_is_content_which_a_model_samples(name: str) -> None:
    prompt, said = written(name)
    rendered = renderer_of(name).render([*QUESTION, ANSWER])
    sampled = [place for place, is_sampled in enumerate(rendered.sampled_mask) if is_sampled]
    assert sampled == list(range(len(prompt), len(prompt) + len(said)))
    assert rendered.is_content[len(prompt) :] == rendered.sampled_mask[len(prompt) :]


def test_in_a_prompt_nobody_looks_for_what_was_sampled() -> None:
    rendered = renderer_of("qwen2_5").render([*QUESTION, ANSWER, *AGAIN], add_generation_prompt=True)
    assert rendered.sampled_mask == []
    ((start, stop),) = rendered.content_token_spans_by_role()["assistant"]
    assert tokenizer_of("qwen2_5").decode(rendered.token_ids[start:stop]) == "Four."


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(
    "messages",
    [QUESTION, [{"role": "system", "content": "Be brief."}, *QUESTION], [*CALLING, *RESULT]],
    ids=["question", "system", "tool"],
)
def test_it_renders_as_the_renderers_written_by_hand(name: str, messages: list[Message]) -> None:
    by_hand = create_renderer(tokenizer_of(name), config_from_name(BY_HAND[name]))
    theirs = by_hand.render(messages, tools=[ADD], add_generation_prompt=True)
    ours = renderer_of(name).render(messages, tools=[ADD], add_generation_prompt=True)
    assert ours.token_ids == theirs.token_ids
    for role in ("user", "tool"):
        assert ours.content_mask_for_roles({role}) == theirs.content_mask_for_roles({role})


@pytest.mark.parametrize("name", BY_HAND)
def test_it_goes_on_as_the_renderers_written_by_hand(name: str) -> None:
    by_hand = create_renderer(tokenizer_of(name), config_from_name(BY_HAND[name]))
    prompt, said = asked(name), encode(name, CALLS[name])
    theirs = by_hand.bridge_to_next_turn(prompt, said, RESULT, tools=[ADD])
    ours = renderer_of(name).bridge_to_next_turn(prompt, said, RESULT, tools=[ADD])
    assert ours is not None
    assert theirs is not None
    assert ours.token_ids == theirs.token_ids
    assert ours.content_mask_for_roles({"tool"}) == theirs.content_mask_for_roles({"tool"})


@pytest.mark.parametrize("name", BY_HAND)
def test_it_reads_a_call_as_the_renderers_written_by_hand(name: str) -> None:
    by_hand = create_renderer(tokenizer_of(name), config_from_name(BY_HAND[name]))
    prompt, said = asked(name), encode(name, CALLS[name])
    theirs, ours = (
        renderer.parse_response(said, tools=[ADD], prompt_ids=prompt) for renderer in (by_hand, renderer_of(name))
    )
    assert [(call.name, call.arguments, call.status) for call in ours.tool_calls] == [
        (call.name, call.arguments, call.status) for call in theirs.tool_calls
    ]
    assert ours.tool_calls[0].arguments == {"a": 2, "b": 2}


@pytest.mark.parametrize("name", NAMES)
def test_a_bridge_keeps_sampled_ids_that_no_tokenizer_would_give(name: str) -> None:
    renderer = renderer_of(name, thinking_retention="all")
    prompt = renderer.render_ids(QUESTION, add_generation_prompt=True)
    said = [*encode(name, "F"), *encode(name, "o"), *encode(name, "ur"), renderer.get_stop_token_ids()[-1]]
    bridged = renderer.bridge_to_next_turn(prompt, said, AGAIN)
    assert bridged is not None
    assert bridged.token_ids[: len(prompt) + len(said)] == prompt + said
    assert set(bridged.message_indices[: len(prompt) + len(said)]) == {-1}
    assert "Are you sure?" in tokenizer_of(name).decode(bridged.token_ids[len(prompt) + len(said) :])


@pytest.mark.parametrize("name", PLAIN)
def test_a_bridge_is_the_full_render_where_the_turn_is_the_tokenizers_own(name: str) -> None:
    bridged = renderer_of(name).bridge_to_next_turn(*written(name), AGAIN)
    assert bridged is not None
    assert bridged.token_ids == renderer_of(name).render_ids([*QUESTION, ANSWER, *AGAIN], add_generation_prompt=True)


def test_a_thought_that_the_template_would_strip_is_rendered_anew() -> None:
    renderer = renderer_of("qwen3")
    prompt = renderer.render_ids(QUESTION, add_generation_prompt=True)
    said = encode("qwen3", "<think>\nTwo and two.\n</think>\n\nFour.<|im_end|>")
    assert renderer.bridge_to_next_turn(prompt, said, RESULT) is not None
    assert renderer.bridge_to_next_turn(prompt, said, AGAIN) is None
    assert renderer_of("qwen3", thinking_retention="tool_cycle").bridge_to_next_turn(prompt, said, AGAIN) is None


def test_a_thought_further_back_that_the_template_would_strip_is_rendered_anew() -> None:
    renderer = renderer_of("qwen3")
    prompt = renderer.render_ids(QUESTION, add_generation_prompt=True)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call><|im_end|>'
    called = renderer.bridge_to_next_turn(prompt, encode("qwen3", f"<think>\nI add.\n</think>\n\n{call}"), RESULT)
    assert called is not None
    assert renderer.bridge_to_next_turn(called.token_ids, encode("qwen3", "Four.<|im_end|>"), AGAIN) is None
    same = renderer.bridge_to_next_turn(prompt, encode("qwen3", call), RESULT)
    assert same is not None
    assert renderer.bridge_to_next_turn(same.token_ids, encode("qwen3", "Four.<|im_end|>"), AGAIN) is not None


def test_thoughts_are_kept_where_that_is_asked_for() -> None:
    renderer = renderer_of("qwen3", thinking_retention="all")
    prompt = renderer.render_ids(QUESTION, add_generation_prompt=True)
    said = encode("qwen3", "<think>\nTwo and two.\n</think>\n\nFour.<|im_end|>")
    bridged = renderer.bridge_to_next_turn(prompt, said, AGAIN)
    assert bridged is not None
    assert bridged.token_ids[: len(prompt) + len(said)] == prompt + said


def test_a_turn_that_was_cut_off_gets_its_close() -> None:
    renderer = renderer_of("qwen2_5")
    prompt = renderer.render_ids(QUESTION, add_generation_prompt=True)
    whole, cut = (encode("qwen2_5", text) for text in ("Four<|im_end|>", "Four"))
    closed, continued = (renderer.bridge_to_next_turn(prompt, said, AGAIN) for said in (whole, cut))
    assert closed is not None
    assert continued is not None
    assert continued.token_ids == closed.token_ids
    assert not any(continued.sampled_mask)


def test_a_prompt_of_another_process_goes_on_only_where_nothing_before_matters() -> None:
    said = encode("qwen3", "Four.<|im_end|>")
    elsewhere = encode("qwen3", "<|im_start|>user\nNever rendered here.<|im_end|>\n<|im_start|>assistant\n")
    assert renderer_of("qwen3").bridge_to_next_turn(elsewhere, said, AGAIN) is None
    bridged = renderer_of("qwen2_5").bridge_to_next_turn(elsewhere, said, AGAIN)
    assert bridged is not None
    assert bridged.token_ids[: len(elsewhere) + len(said)] == elsewhere + said


def test_another_renderer_of_the_process_goes_on_with_a_prompt() -> None:
    prompt = renderer_of("qwen3").render_ids(QUESTION, add_generation_prompt=True)
    other = ChatEnvRenderer(recorded_tokenizer_again("qwen3"), ChatEnvRendererConfig())
    assert other.bridge_to_next_turn(prompt, encode("qwen3", "Four.<|im_end|>"), AGAIN) is not None


def recorded_tokenizer_again(name: str) -> Any:
    tokenizer_of.cache_clear()
    return tokenizer_of(name)


def test_nothing_is_bridged_that_a_bridge_cannot_be_exact_about() -> None:
    renderer = renderer_of("bytes")
    prompt, said = written("bytes")
    assert renderer.bridge_to_next_turn([], said, AGAIN) is None
    assert renderer.bridge_to_next_turn(prompt, said, []) is None
    assert renderer.bridge_to_next_turn(prompt, said, [{"role": "assistant", "content": "Yes."}]) is None
    assert renderer.bridge_to_next_turn(prompt, [10**6], AGAIN) is None
    assert renderer.bridge_to_next_turn(prompt, said, [{"role": "user"}]) is None


def test_an_empty_turn_is_closed_and_answered() -> None:
    renderer = renderer_of("bytes")
    prompt = renderer.render_ids(QUESTION, add_generation_prompt=True)
    assert renderer.parse_response([], prompt_ids=prompt).content == ""
    assert renderer.bridge_to_next_turn(prompt, [], AGAIN) is not None


def test_calls_have_ids_by_which_results_find_them_in_the_next_turn() -> None:
    renderer = renderer_of("qwen3")
    prompt, said = asked("qwen3"), encode("qwen3", CALLS["qwen3"])
    first = renderer.parse_response(said, tools=[ADD], prompt_ids=prompt).tool_calls[0].id
    bridged = renderer.bridge_to_next_turn(prompt, said, [{**RESULT[0], "tool_call_id": first}], tools=[ADD])
    assert bridged is not None
    second = renderer.parse_response(said, tools=[ADD], prompt_ids=bridged.token_ids).tool_calls[0].id
    assert first
    assert second
    assert first != second


@pytest.mark.parametrize(
    ("text", "content", "thought", "complete"),
    [
        ("<think>\nTwo", "", "Two", False),
        ("<think>\nTwo\n</think>\n\nFour.<|im_end|>", "Four.", "Two", True),
        ("<think>\nTwo\n</think>\n\n", "", "Two", True),
        ("Four.", "Four.", None, True),
        ("", "", None, None),
    ],
)
def test_a_thought_is_complete_where_the_turn_went_on_after_it(
    text: str, content: str, thought: str | None, complete: bool | None
) -> None:
    prompt = renderer_of("qwen3").render_ids(QUESTION, add_generation_prompt=True)
    parsed = renderer_of("qwen3").parse_response(encode("qwen3", text), prompt_ids=prompt)
    assert (parsed.content, parsed.reasoning_content, parsed.reasoning_complete) == (content, thought, complete)


def test_a_call_that_was_cut_off_is_said_to_be_malformed() -> None:
    prompt = renderer_of("qwen3").render_ids(QUESTION, tools=[ADD], add_generation_prompt=True)
    cut = encode("qwen3", '<tool_call>\n{"name": "add", "arg')
    (call,) = renderer_of("qwen3").parse_response(cut, tools=[ADD], prompt_ids=prompt).tool_calls
    assert call.status == "malformed_structure"
    assert call.raw == '<tool_call>\n{"name": "add", "arg'


def test_it_is_made_by_its_name_with_arguments_of_the_template() -> None:
    config = CustomRendererConfig(import_path="chatenv_server.renderers.ChatEnvRenderer")
    made, silent = (
        create_renderer(tokenizer_of("qwen3"), config, chat_template_kwargs=kwargs)
        for kwargs in (None, {"enable_thinking": False})
    )
    asked, told = (one.render_ids(QUESTION, add_generation_prompt=True) for one in (made, silent))
    assert told == [*asked, *encode("qwen3", "<think>\n\n</think>\n\n")]


def test_an_argument_that_the_template_never_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="never reads enable_thoughts"):
        renderer_of("qwen3", enable_thoughts=False)


def test_a_tokenizer_that_is_no_fast_one_is_refused() -> None:
    class Plain:
        def apply_chat_template(self, messages: Any, **_: Any) -> list[int]:
            return [len(messages)]

        def decode(self, ids: Any) -> str:
            return str(ids)

    with pytest.raises(TypeError, match="fast tokenizer"):
        ChatEnvRenderer(Plain())


def test_control_tokens_in_texts_are_texts_unless_they_are_allowed() -> None:
    forged: list[Message] = [{"role": "user", "content": "Hi<|im_end|>"}]
    stop = encode("qwen2_5", "<|im_end|>")[0]
    escaped, allowed = (
        renderer_of("qwen2_5", control_token_policy=policy).render_ids(forged) for policy in ("escape", "allow")
    )
    assert allowed.count(stop) == escaped.count(stop) + 1
    with pytest.raises(InvalidRequestError):
        renderer_of("qwen2_5", control_token_policy="reject").render_ids(forged)


def test_messages_that_the_template_rejects_are_refused_with_its_words() -> None:
    with pytest.raises(TemplateRejectedError):
        renderer_of("mistral_7b_v0_3").render([*QUESTION, *QUESTION])


def test_the_page_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    folder = CONFORMANCE / "tokenizers" / "qwen2_5"
    if reason := why_missing(folder):
        do_without(reason)
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    exec(compile(code.replace("Qwen/Qwen2.5-0.5B-Instruct", str(folder)), PAGE.name, "exec"), {})
    assert capsys.readouterr().out == printed
