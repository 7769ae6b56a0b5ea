"""Sampled turns become messages, in every notation: whole turns, damaged ones and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatenv_server.engine.parsing import ParsedTurn, TurnParser, learn_reader

Message = Mapping[str, Any]


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def functions(message: Message) -> list[tuple[str, dict[str, Any]]]:
    return [(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())]


def said(message: Message) -> str:
    return str(message["content"])


def think(message: Message) -> str:
    return f"<think>\n{message['reasoning_content']}\n</think>\n\n" if "reasoning_content" in message else ""


def joined(message: Message, calls: list[str], separator: str = "\n") -> str:
    parts = ([said(message)] if said(message) else []) + calls
    return think(message) + separator.join(parts)


def hermes(message: Message) -> str:
    calls = [as_json({"name": name, "arguments": arguments}) for name, arguments in functions(message)]
    return joined(message, [f"<tool_call>\n{call}\n</tool_call>" for call in calls])


def xml(message: Message, constant: Callable[[Any], str]) -> str:
    def text(value: Any) -> str:
        return (
            value if isinstance(value, str) else as_json(value) if isinstance(value, (dict, list)) else constant(value)
        )

    def parameters(arguments: dict[str, Any]) -> str:
        return "".join(f"<parameter={key}>\n{text(value)}\n</parameter>\n" for key, value in arguments.items())

    return joined(
        message,
        [f"<tool_call>\n<function={f}>\n{parameters(a)}</function>\n</tool_call>" for f, a in functions(message)],
        "\n\n",
    )


def qwen3_xml(message: Message) -> str:
    return xml(message, as_json)


def qwen3_xml_python(message: Message) -> str:
    return xml(message, str)


def glm(message: Message) -> str:
    def pairs(arguments: dict[str, Any]) -> str:
        texts = {key: value if isinstance(value, str) else as_json(value) for key, value in arguments.items()}
        return "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n" for key, text in texts.items())

    return joined(message, [f"<tool_call>{f}\n{pairs(arguments)}</tool_call>" for f, arguments in functions(message)])


def kimi(message: Message) -> str:
    calls = "".join(
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{as_json(arguments)}<|tool_call_end|>"
        for index, (name, arguments) in enumerate(functions(message))
    )
    section = f"<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>" if calls else ""
    return think(message) + said(message) + section


def deepseek(message: Message) -> str:
    calls = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{as_json(arguments)}\n```<｜tool▁call▁end｜>"
        for name, arguments in functions(message)
    )
    section = f"<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>" if calls else ""
    return think(message) + said(message) + section


def deepseek_v31(message: Message) -> str:
    calls = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{as_json(arguments)}<｜tool▁call▁end｜>"
        for name, arguments in functions(message)
    )
    section = f"<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>" if calls else ""
    return think(message) + said(message) + section


def mistral(message: Message) -> str:
    calls = [{**one["function"], "id": one["id"]} for one in message.get("tool_calls", ())]
    return bracket_think(message) + said(message) + (f"[TOOL_CALLS] {as_json(calls)}" if calls else "")


def mistral_args(message: Message) -> str:
    return (
        bracket_think(message)
        + said(message)
        + "".join(
            f"[TOOL_CALLS]{one['function']['name']}[CALL_ID]{one['id']}[ARGS]{as_json(one['function']['arguments'])}"
            for one in message.get("tool_calls", ())
        )
    )


def bracket_think(message: Message) -> str:
    return f"[THINK]{message['reasoning_content']}[/THINK]" if "reasoning_content" in message else ""


def gemma(message: Message, *, opener: str = "<|tool_call>", closer: str = "<tool_call|>", quote: str = '<|"|>') -> str:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{key}:{text(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(text(item) for item in value) + "]"
        return quote + value + quote if isinstance(value, str) else as_json(value)

    thought = f"<|channel>thought\n{message['reasoning_content']}\n<channel|>" if "reasoning_content" in message else ""
    return thought + "".join(f"{opener}call:{f}{text(a)}{closer}" for f, a in functions(message)) + said(message)


def function_gemma(message: Message) -> str:
    return gemma(message, opener="<start_function_call>", closer="<end_function_call>", quote="<escape>")


def lfm2(message: Message) -> str:
    def text(value: Any) -> str:
        return f"'{value}'" if isinstance(value, str) else as_json(value) if isinstance(value, dict) else str(value)

    calls = ", ".join(
        f"{name}({', '.join(f'{key}={text(value)}' for key, value in arguments.items())})"
        for name, arguments in functions(message)
    )
    return think(message) + said(message) + (f"<|tool_call_start|>[{calls}]<|tool_call_end|>" if calls else "")


def phi4(message: Message) -> str:
    return (
        think(message)
        + said(message)
        + "".join(
            f"<|tool_call|>{as_json({'name': name, 'arguments': arguments})}<|/tool_call|>"
            for name, arguments in functions(message)
        )
    )


def nemotron_nano2(message: Message) -> str:
    calls = [{"name": name, "arguments": arguments} for name, arguments in functions(message)]
    return joined(message, [f"<TOOLCALL>{as_json(calls)}</TOOLCALL>"] if calls else [], "\n\n")


def command(message: Message) -> str:
    """The thought's closer is all that its turns with and without calls have in common behind a thought."""
    calls = [
        {"tool_call_id": str(index), "tool_name": name, "parameters": arguments}
        for index, (name, arguments) in enumerate(functions(message))
    ]
    thought = (
        f"<|START_THINKING|>{message['reasoning_content']}<|END_THINKING|>" if "reasoning_content" in message else ""
    )
    response = f"<|START_RESPONSE|>{said(message)}<|END_RESPONSE|>" if said(message) else ""
    return thought + response + (f"<|START_ACTION|>{as_json(calls)}<|END_ACTION|>" if calls else "")


def llama3_json(message: Message) -> str:
    for name, arguments in functions(message):
        return f'{{"name": "{name}", "parameters": {as_json(arguments)}}}'
    return said(message)


def gpt_oss(message: Message) -> str:
    parts = []
    if "reasoning_content" in message:
        parts.append(f"<|channel|>analysis<|message|>{message['reasoning_content']}<|end|>")
    if said(message):
        channel = "commentary" if functions(message) else "final"
        parts.append(f"<|channel|>{channel}<|message|>{said(message)}" + "<|end|>" * bool(functions(message)))
    parts += [
        f" to=functions.{name}<|channel|>commentary json<|message|>{as_json(arguments)}"
        for name, arguments in functions(message)
    ]
    return "<|start|>assistant".join(parts)


def unheard_of(message: Message) -> str:
    calls = "".join(f"\n!!{as_json(one)}!!" for one in functions(message))
    return think(message) + (said(message) + calls if calls else f"<answer>{said(message)}</answer>")


def mute(message: Message) -> str:
    return think(message) + said(message)


WRITERS: dict[Callable[[Message], str], str] = {
    hermes: "json",
    qwen3_xml: "pairs",
    qwen3_xml_python: "pairs",
    glm: "pairs",
    kimi: "tagged_json",
    deepseek: "tagged_json",
    deepseek_v31: "tagged_json",
    mistral: "json",
    mistral_args: "tagged_json",
    gemma: "tagged_literals",
    function_gemma: "tagged_literals",
    lfm2: "pairs",
    phi4: "json",
    nemotron_nano2: "json",
    command: "json",
    llama3_json: "json",
    gpt_oss: "channels",
    unheard_of: "tagged_json",
    mute: "verbatim",
}
"""How each family writes a turn, with the form that has to be found."""

PARSERS = {write: learn_reader(write) for write in WRITERS}
WRITES_EVERYTHING = sorted(set(WRITERS) - {llama3_json, mute}, key=lambda write: write.__name__)

every_family = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
every_full_family = pytest.mark.parametrize("write", WRITES_EVERYTHING, ids=lambda write: write.__name__)


def call(name: str, arguments: dict[str, Any], call_id: str = "call00001") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


LOOKUP = call("lookup", {"query": 'São Paulo "now"', "days": 3, "deep": {"list": [1, 2.5, "x"]}, "exact": True})
EMPTY = call("now", {}, "call00002")
LINES = call("write-file", {"text": "def f(x):\n    return x\n\n# 東京 🙂", "title": " padded "}, "call00003")

MESSAGES: list[Message] = [
    {"content": "Hello there."},
    {"content": "  Hello\n\n\tthere. \n"},
    {"content": "Hello.", "reasoning_content": "First.\n\nThen this."},
    {"content": "\nHello.\n", "reasoning_content": "\n Well. \n"},
    {"content": "", "tool_calls": [LOOKUP]},
    {"content": "", "tool_calls": [EMPTY]},
    {"content": "", "tool_calls": [LOOKUP, EMPTY, LINES]},
    {"content": "Let me see.", "tool_calls": [LOOKUP]},
    {"content": "Let me see.\n\n", "tool_calls": [LINES, EMPTY]},
    {"content": "", "reasoning_content": "Look it up.", "tool_calls": [EMPTY]},
    {"content": "So:", "reasoning_content": "Hm.", "tool_calls": [LOOKUP, EMPTY]},
]


@every_family
def test_the_form_is_found_by_differing_renders(write: Callable[[Message], str]) -> None:
    assert PARSERS[write].name == WRITERS[write]


@every_full_family
@pytest.mark.parametrize("message", MESSAGES)
def test_a_written_turn_comes_back_as_it_was(write: Callable[[Message], str], message: Message) -> None:
    parsed = PARSERS[write].parse(write(message))
    assert not parsed.problems
    assert parsed.content == message["content"]
    assert parsed.reasoning_content == message.get("reasoning_content")
    assert functions(parsed.as_message()) == functions(message)


@every_full_family
def test_a_turn_cut_off_within_its_calls_is_told_and_kept(write: Callable[[Message], str]) -> None:
    whole = write({"content": "", "tool_calls": [LOOKUP]})
    for end in range(len(whole) // 2, len(whole) - 1):
        parsed = PARSERS[write].parse(whole[:end])
        assert parsed.tool_calls == ()
        assert parsed.content == whole[:end]
        assert len(parsed.problems) == 1


@every_family
@given(st.text(max_size=60))
def test_no_text_makes_a_parser_fail(write: Callable[[Message], str], text: str) -> None:
    PARSERS[write].parse(text)


@every_family
@given(st.data())
def test_no_damaged_turn_makes_a_parser_fail(write: Callable[[Message], str], data: st.DataObject) -> None:
    turns = [write(message) for message in MESSAGES]
    first, second = data.draw(st.sampled_from(turns)), data.draw(st.sampled_from(turns))
    start, end = data.draw(st.integers(0, len(first))), data.draw(st.integers(0, len(second)))
    parsed = PARSERS[write].parse(first[:start] + data.draw(st.text(max_size=3)) + second[end:])
    json.dumps(parsed.as_message(), allow_nan=False).encode()


@every_family
@pytest.mark.parametrize("piece", ["[", '{"a":', "<tool_call>", "[{", "'", "<think>", "<|channel|>analysis<|message|>"])
def test_a_long_run_of_openers_is_survived(write: Callable[[Message], str], piece: str) -> None:
    opener = write({"content": "", "tool_calls": [LOOKUP]})[:30]
    for text in (piece * 20_000, opener + piece * 20_000, (opener + piece) * 2_000):
        PARSERS[write].parse(text)


@every_family
def test_text_without_markup_is_the_content_verbatim(write: Callable[[Message], str]) -> None:
    for text in ("", " ", "Hello", "\n\n a < b > c {d} [e] \n", "東京 🙂"):
        assert PARSERS[write].parse(text) == ParsedTurn(content=text)


HERMES = PARSERS[hermes]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"name": "f", "arguments": {"a": 1}', "a tool call holds JSON that cannot be read"),
        ('{"name": "f"}', "a tool call has arguments that are not a JSON object"),
        ('{"name": "f", "arguments": [1]}', "a tool call has arguments that are not a JSON object"),
        ('{"name": "f", "arguments": "x"}', "a tool call holds JSON that cannot be read"),
        ('{"name": "", "arguments": {}}', "a tool call has no function name"),
        ('{"name": 3, "arguments": {}}', "a tool call has no function name"),
        ('{"arguments": {}}', "a tool call has no function name"),
        ('{"name": "f", "arguments": {}, "why": "x"}', "a tool call has an unknown key 'why'"),
        ('{"name": "f", "arguments": {}, "id": 3}', "a tool call has an id that is not a string"),
        ('{"name": "f", "arguments": {}} so', "a tool call has no '</tool_call>' where one is due"),
        (
            '{"name": "f", "arguments": {"a": NaN}}',
            "a tool call holds JSON that cannot be read (NaN is not JSON)",
        ),
        ('{"name": "f", "arguments": {"a": 1e999}}', "a tool call holds a number that is not finite"),
        ('{"name": "f", "arguments": {"a": "\\ud800"}}', "a tool call holds half a surrogate pair"),
        (
            '{"name": "f", "arguments": {"a": ' + "1" * 5000 + "}}",
            "a tool call holds JSON that cannot be read (too large",
        ),
        (
            '{"name": "f", "arguments": {"a": ' + "[" * 99 + "]" * 99 + "}}",
            "a tool call is nested more than 64 levels",
        ),
        (
            '{"name": "f", "arguments": {"a": ' + "[" * 10**6,
            "a tool call holds JSON that cannot be read (too large",
        ),
        ("[]", "a tool call names no function"),
        ("[1]", "a tool call is not a JSON object"),
        ("", "a tool call holds JSON that cannot be read"),
    ],
    ids=lambda text: text[:60],
)
def test_a_malformed_call_stays_in_the_content_and_is_told(body: str, problem: str) -> None:
    text = f"Let me see.\n<tool_call>\n{body}\n</tool_call>"
    parsed = HERMES.parse(text)
    assert parsed.content == text
    assert parsed.tool_calls == ()
    assert len(parsed.problems) == 1
    assert parsed.problems[0].startswith(problem)


def test_a_good_call_is_read_beside_a_malformed_one() -> None:
    good = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    parsed = HERMES.parse(f"So:\n{good}\n<tool_call>\nf()\n</tool_call>")
    assert functions(parsed.as_message()) == [("f", {})]
    assert parsed.content == "So:\n<tool_call>\nf()\n</tool_call>"
    assert len(parsed.problems) == 1


def test_text_behind_and_between_calls_is_content() -> None:
    one, two = (hermes({"content": "", "tool_calls": [call(name, {})]}) for name in "fg")
    parsed = HERMES.parse(f"A\n{one}\nB\n{two}\nC")
    assert functions(parsed.as_message()) == [("f", {}), ("g", {})]
    assert parsed.content == "A\nB\n\nC"


def test_json_is_read_however_it_is_spaced_and_the_last_of_two_equal_keys_wins() -> None:
    parsed = HERMES.parse('<tool_call>{"arguments":{"a":1,"a":[2]},"name":"f"}</tool_call>')
    assert functions(parsed.as_message()) == [("f", {"a": [2]})]


def test_arguments_may_be_the_json_text_of_an_object() -> None:
    parsed = HERMES.parse('<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>')
    assert functions(parsed.as_message()) == [("f", {"a": 1})]


def test_a_closing_tag_within_a_json_string_does_not_end_the_call() -> None:
    parsed = HERMES.parse('<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>')
    assert functions(parsed.as_message()) == [("f", {"a": "</tool_call>"})]


def test_the_other_spelling_of_the_arguments_key_is_read() -> None:
    parsed = HERMES.parse('<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>')
    assert functions(parsed.as_message()) == [("f", {"a": 1})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-2.5", -2.5),
        ("null", None),
        ("true", True),
        ("[1,2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ("03", "03"),
        ("1e5", "1e5"),
        ("1.10", "1.10"),
        ("NaN", "NaN"),
        ("True", "True"),
        ('"quoted"', '"quoted"'),
        (" 3", " 3"),
        ("\nlines\n", "\nlines\n"),
        ("[1,", "[1,"),
        ("", ""),
    ],
)
def test_a_bare_value_is_typed_only_if_it_would_be_written_so_again(text: str, value: Any) -> None:
    turn = f"<tool_call>\n<function=f>\n<parameter=a>\n{text}\n</parameter>\n</function>\n</tool_call>"
    parsed = PARSERS[qwen3_xml].parse(turn)
    assert parsed.tool_calls[0]["function"]["arguments"] == {"a": value}
    assert type(parsed.tool_calls[0]["function"]["arguments"]["a"]) is type(value)


def test_constants_are_read_as_the_template_writes_them() -> None:
    turn = "<tool_call>\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>"
    values = [PARSERS[qwen3_xml_python].parse(turn.format(text)) for text in ("True", "true", "None", "null")]
    assert [one.tool_calls[0]["function"]["arguments"]["a"] for one in values] == [True, "true", None, "null"]


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (qwen3_xml, "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>"),
        (qwen3_xml, "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</tool_call>"),
        (qwen3_xml, "<tool_call>\n<function=f>\nplainly\n</function>\n</tool_call>"),
        (qwen3_xml, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        (glm, "<tool_call>f\n<arg_key>a</arg_key>\n</tool_call>"),
        (glm, "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\nso</tool_call>"),
        (glm, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
        (kimi, "<|tool_calls_section_begin|><|tool_calls_section_end|>"),
        (
            kimi,
            kimi({"content": "", "tool_calls": [EMPTY]}).replace("functions.now:0", "f"),
        ),
        (
            deepseek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>[]<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        (mistral, "[TOOL_CALLS] f()"),
        (mistral, '[TOOL_CALLS][{"name": "f"}]'),
        (mistral, "[TOOL_CALLS]f[ARGS]1"),
        (gemma, "<|tool_call>call:f{a}<tool_call|>"),
        (gemma, "<|tool_call>call:f{a:x}<tool_call|>"),
        (gemma, "<|tool_call>call:f{a:" + "[" * 99 + "]" * 99 + "}<tool_call|>"),
        (lfm2, "<|tool_call_start|>[f(1)]<|tool_call_end|>"),
        (lfm2, "<|tool_call_start|>[f(a=[{1: 2}])]<|tool_call_end|>"),
        (lfm2, "<|tool_call_start|>[f(a=" + "[" * 99 + "]" * 99 + ")]<|tool_call_end|>"),
        (lfm2, "<|tool_call_start|>[]<|tool_call_end|>"),
        (llama3_json, '{"name": "f", "parameters": [1]}'),
        (llama3_json, '{"name": "f", "parameters": {}} so'),
        (llama3_json, '{"name": "f", "parameters": {"a": 1'),
        (llama3_json, '<|python_tag|>{"name": "f", "parameters"'),
        (gpt_oss, " to=functions.f<|channel|>commentary json<|message|>{"),
        (gpt_oss, ' to=browser.search<|channel|>commentary<|message|>{"q": "x"}'),
        (gpt_oss, " to=python<|channel|>commentary<|message|>print(1)"),
        (gpt_oss, " to=functions.lookup<|channel|>comm"),
    ],
)
def test_what_is_no_call_in_a_notation_stays_in_the_content_and_is_told(
    write: Callable[[Message], str], text: str
) -> None:
    parsed = PARSERS[write].parse(text)
    assert (parsed.content, parsed.tool_calls, parsed.reasoning_content) == (text, (), None)
    assert len(parsed.problems) == 1


def test_ids_are_kept_where_the_turn_writes_them() -> None:
    message = {"content": "", "tool_calls": [LOOKUP]}
    ids = {
        write: PARSERS[write].parse(write(message)).tool_calls[0].get("id")
        for write in (mistral, mistral_args, kimi, hermes)
    }
    assert ids == {mistral: "call00001", mistral_args: "call00001", kimi: "functions.lookup:0", hermes: None}


def test_an_answer_in_json_is_no_call_of_llama() -> None:
    for text in ('{"name": "Ada", "age": 36}', '["f", {}]', 'Call {"name": "f", "parameters": {}}'):
        assert PARSERS[llama3_json].parse(text) == ParsedTurn(content=text)


def test_a_call_of_llama_may_stand_behind_its_tag() -> None:
    parsed = PARSERS[llama3_json].parse('<|python_tag|>{"name": "f", "parameters": {"a": 1}}')
    assert functions(parsed.as_message()) == [("f", {"a": 1})]


def test_a_python_string_in_a_list_is_unescaped() -> None:
    parsed = PARSERS[lfm2].parse("""<|tool_call_start|>[f(a=["it's", 'a\\nb', None], b='it's')]<|tool_call_end|>""")
    assert functions(parsed.as_message()) == [("f", {"a": ["it's", "a\nb", None], "b": "it's"})]


def test_a_call_within_a_thought_is_not_made() -> None:
    text = hermes({"content": "Hello", "reasoning_content": hermes({"content": "Or", "tool_calls": [LOOKUP]})})
    parsed = HERMES.parse(text)
    assert parsed.tool_calls == ()
    assert parsed.content == "Hello"
    assert "lookup" in str(parsed.reasoning_content)


def test_a_thought_that_is_never_closed_reaches_to_the_end() -> None:
    parsed = HERMES.parse("<think>\nHm, <tool_call>")
    assert parsed == ParsedTurn("", "Hm, <tool_call>", (), ())


@pytest.mark.parametrize(
    "text",
    ["<think>Hm.</think>Hello", "<think>\nHm.</think>\nHello", "<think>Hm.\n</think>\n\nHello"],
)
def test_a_thought_with_less_whitespace_around_it_is_taken_off(text: str) -> None:
    assert HERMES.parse(text) == ParsedTurn("Hello", "Hm.")


def test_a_thought_with_other_whitespace_around_it_leaves_that_to_the_content() -> None:
    assert HERMES.parse("<think>\nHm.\n</think>\n\n\n Hello") == ParsedTurn("\n Hello", "Hm.")


def test_a_separator_between_content_and_calls_may_be_shorter_or_all_the_content() -> None:
    calls = qwen3_xml({"content": "", "tool_calls": [EMPTY]})
    contents = {
        text: PARSERS[qwen3_xml].parse(text + calls).content for text in ("", "So:", "So:\n", "So:\n\n\n", "\n")
    }
    assert contents == {"": "", "So:": "So:", "So:\n": "So:", "So:\n\n\n": "So:\n", "\n": "\n"}


def test_an_empty_thought_is_none_only_where_the_template_writes_it_by_itself() -> None:
    def empty_thought(message: Message) -> str:
        return ("" if "reasoning_content" in message else "<think>\n\n</think>\n\n") + hermes(message)

    parser = learn_reader(empty_thought)
    assert parser.parse("<think>\n\n</think>\n\nHello") == ParsedTurn("Hello", None)
    assert HERMES.parse("<think>\n\n</think>\n\nHello") == ParsedTurn("Hello", "")


def after(
    prompt: str, write: Callable[[Message], str] = hermes, header: str = "<s>user: Hi<|assistant|>\n"
) -> TurnParser:
    return learn_reader(lambda message: header + write(message), header + prompt)


def test_a_thought_opened_by_the_prompt_is_closed_by_the_model() -> None:
    parsed = after("<think>\n").parse("Hm.\n</think>\n\nHello")
    assert parsed == ParsedTurn("Hello", "Hm.")


def test_a_thought_opened_by_the_prompt_and_cut_off_is_all_thought() -> None:
    assert after("<think>\n").parse("Hm") == ParsedTurn("", "Hm", (), ())


def test_an_empty_thought_in_the_prompt_leaves_the_answer_to_the_model() -> None:
    def thoughtful(message: Message) -> str:
        return hermes({"reasoning_content": "", **message})

    assert after("<think>\n\n</think>\n\n", thoughtful).parse("Hello") == ParsedTurn("Hello")


@pytest.mark.parametrize("prompt", ["<think>\n\n</think>\n\n", "Here are my steps:\n"])
def test_what_only_the_prompt_writes_is_no_part_of_the_answer(prompt: str) -> None:
    assert after(prompt).parse("Hello") == ParsedTurn("Hello")
    assert after(prompt).parse("<think>\nHm.\n</think>\n\nHello") == ParsedTurn("Hello", "Hm.")


def test_a_thought_without_an_end_of_its_own_is_content() -> None:
    def blended(message: Message) -> str:
        return (
            f"<think>{message['reasoning_content']}\n\n{said(message)}"
            if "reasoning_content" in message
            else said(message)
        )

    assert after("", blended).parse("<think>Hm.\n\nHello") == ParsedTurn("<think>Hm.\n\nHello")


@pytest.mark.parametrize(("prompt", "closer"), [("<think>\n", "</think>"), ("[THINK]", "[/THINK]")])
def test_a_thought_that_the_history_never_shows_is_read_if_the_prompt_opens_it(prompt: str, closer: str) -> None:
    def forgetful(message: Message) -> str:
        return hermes({key: value for key, value in message.items() if key != "reasoning_content"})

    assert after(prompt, forgetful).parse(f"Hm.{closer}Hello") == ParsedTurn("Hello", "Hm.")


def test_thought_tags_are_content_where_the_template_knows_no_thoughts() -> None:
    text = "<think>\nHm.\n</think>\n\nHello"
    assert after("", said).parse(text) == ParsedTurn(content=text)


def test_what_a_template_writes_around_a_plain_answer_is_not_its_content() -> None:
    def framed(message: Message) -> str:
        return f" <answer>{message['content']}</answer>"

    parser = after("", framed)
    assert parser.parse(" <answer>Hello</answer>") == ParsedTurn("Hello")
    assert parser.parse(" <answer>Hello") == ParsedTurn("Hello")


def test_a_layout_is_learnt_from_the_probes_that_a_template_takes() -> None:
    def takes_no_thoughtful_calls(message: Message) -> str | None:
        return None if "reasoning_content" in message and "tool_calls" in message else hermes(message)

    for message in MESSAGES:
        parsed = learn_reader(takes_no_thoughtful_calls).parse(hermes(message))
        assert (parsed.content, parsed.reasoning_content) == (
            message["content"],
            message.get("reasoning_content"),
        )
        assert functions(parsed.as_message()) == functions(message)


def test_a_frame_around_all_calls_is_no_content() -> None:
    def framed(message: Message) -> str:
        text = hermes({**message, "tool_calls": []})
        calls = "\n".join(hermes({"content": "", "tool_calls": [one]}) for one in message.get("tool_calls", ()))
        return text + (f"<calls>\n{calls}\n</calls>" if calls else "")

    for message in MESSAGES:
        parsed = after("", framed).parse(framed(message))
        assert parsed.content == message["content"]
        assert functions(parsed.as_message()) == functions(message)


def test_tags_that_begin_alike_are_not_taken_for_one() -> None:
    def either_text_or_calls(message: Message) -> str:
        calls = message.get("tool_calls", ())
        return command({"content": "" if calls else said(message), "tool_calls": calls})

    assert after("<|START_THINKING|>", either_text_or_calls).name == "json"


def test_without_any_probe_a_turn_is_its_content() -> None:
    assert learn_reader(lambda _: None).parse("<tool_call>{}") == ParsedTurn(content="<tool_call>{}")


def test_gpt_oss_as_the_model_itself_writes_a_call() -> None:
    parsed = PARSERS[gpt_oss].parse(
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Yes.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>'
    )
    assert parsed.reasoning_content == "Hm.\nYes."
    assert parsed.content == "One moment."
    assert functions(parsed.as_message()) == [("f", {"a": 1})]
    assert not parsed.problems


def test_gpt_oss_cut_off_in_its_analysis_has_only_thought() -> None:
    parsed = PARSERS[gpt_oss].parse("<|channel|>analysis<|message|>Hm")
    assert parsed == ParsedTurn("", "Hm", (), ())


def test_a_message_has_only_the_keys_that_it_needs() -> None:
    assert ParsedTurn("a").as_message() == {"role": "assistant", "content": "a"}
    assert ParsedTurn("", "b", (EMPTY,)).as_message() == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "b",
        "tool_calls": [EMPTY],
    }
