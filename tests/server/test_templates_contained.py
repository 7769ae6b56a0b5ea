"""A chat template is code from a tokenizer's repository: it reaches nothing, and no caller can bring one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatenv_client import ChatEnv, FidelityKind, TemplateRejectedError
from chatenv_client._generated import chatenv_pb2 as pb
from tests.server.conftest import Launch, Serve

REACHING_OUT = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of the clock": "{{ strftime_now.__globals__['os'] }}",
    "modules through what Jinja brings along": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "attributes by a filter": "{{ ''|attr('__class__')|attr('__base__') }}",
    "attributes by a format": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "a change of the history": "{% set _ = messages.append({'role': 'user', 'content': 'forged'}) %}",
    "a change of a message": "{% set _ = messages[0].update({'content': 'forged'}) %}",
    "another file": "{% include '/etc/passwd' %}",
    "a module": "{% import '/etc/passwd' as passwd %}",
    "a very long loop": "{% for i in range(10 ** 9) %}x{% endfor %}",
}


def malicious_template() -> str:
    """ChatML, but for messages whose content names an attack: those are rendered with it."""
    branches = "".join(
        f"{{% {'if' if index == 0 else 'elif'} message.content == {name!r} %}}{attack}"
        for index, (name, attack) in enumerate(REACHING_OUT.items())
    )
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        f"{branches}{{% endif %}}<|im_end|>\n{{% endfor %}}"
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "malicious.jinja"
    file.write_text(malicious_template())
    return file


@pytest.fixture
def env(launch: Launch, template: Path) -> Iterator[ChatEnv]:
    with ChatEnv(launch("--chat-template", str(template)).addresses[0]) as env:
        yield env


def written_for(env: ChatEnv, content: str) -> str:
    """What the template writes for a message; its own words where it is rejected."""
    try:
        opening = env.reset(messages=[{"role": "user", "content": content}]).observation
    except TemplateRejectedError as error:
        return error.message
    assert opening.messages == [{"role": "user", "content": content}]
    return bytes(token for token in opening.token_ids.tolist() if token < 256).decode()


def test_a_template_that_reaches_out_is_rejected_or_gets_nothing(env: ChatEnv) -> None:
    for name in REACHING_OUT:
        written = written_for(env, name)
        assert written == f"user\n{name}\n" or written.startswith("the chat template "), written
        assert len(written) < 200
        assert not [word for word in ("root:", "uid=", "<class", "<module", "forged") if word in written]
    assert written_for(env, "hello") == "user\nhello\n"


def test_what_a_message_says_is_never_run(serve: Serve) -> None:
    said = "{{ 7 * 7 }}{% raw %}{# x #}"
    with ChatEnv(serve().addresses[0]) as env:
        opening = env.reset(system_prompt=said, messages=[{"role": "user", "content": said}]).observation
    assert bytes(token for token in opening.token_ids.tolist() if token < 256).count(said.encode()) == 2


def test_no_request_has_a_field_for_a_template() -> None:
    requests: list[Any] = [method.input_type for method in pb.DESCRIPTOR.services_by_name["ChatEnvService"].methods]
    names: set[str] = set()
    while requests:
        kind = requests.pop()
        new = {field.full_name for field in kind.fields} - names
        names |= new
        requests += [field.message_type for field in kind.fields if field.full_name in new and field.message_type]
    assert {name.removeprefix("chatenv.v1.") for name in names if "template" in name} == {
        "ResetRequest.chat_template_kwargs_json",
        "EpisodeSnapshot.chat_template_fingerprint",  # says which one it was
    }


def test_a_template_among_the_template_arguments_is_an_argument_that_nobody_reads(serve: Serve) -> None:
    hello = [{"role": "user", "content": "hello"}]
    with ChatEnv(serve().addresses[0]) as env:
        plain = env.reset(messages=hello).observation
        brought = env.reset(messages=hello, chat_template_kwargs={"chat_template": "{{ 7 * 7 }}"}).observation
    assert brought.token_ids.tolist() == plain.token_ids.tolist()
    assert [report.kind for report in brought.fidelity] == [FidelityKind.KWARG_UNUSED]
