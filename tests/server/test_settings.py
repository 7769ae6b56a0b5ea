"""Settings: one table makes the flags, the variables, the defaults and the docs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chatenv_client.models import HistoryPolicy
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.settings import variables
from chatenv_server.settings.errors import SettingError
from chatenv_server.settings.settings import (
    Settings,
    default_text,
    flag_of,
    read_settings,
    settings_table,
    variable_of,
)

NAMES = [field.name for field in dataclasses.fields(Settings)]
TEXT_SETTINGS = {
    *("task", "rows", "tokenizer", "system_prompt", "system_role", "transform", "bearer_token", "store", "archive")
}

GOOD: dict[str, tuple[str, Any]] = {
    "listen": ("unix:///run/x.sock,[::1]:0", ("unix:///run/x.sock", "[::1]:0")),
    "tokenizer": ("gpt2", "gpt2"),
    "chat_template": ("FILE", "FILE"),
    "require_template": ("on", True),
    "system_prompt": ("Be kind.", "Be kind."),
    "system_role": ("developer", "developer"),
    "task": ("gsm=my:Gsm,my:Calc", ("gsm=my:Gsm", "my:Calc")),
    "rows": ("train.jsonl,test=test.jsonl", ("train.jsonl", "test=test.jsonl")),
    "transform": ("rewards:exact", "rewards:exact"),
    "add_generation_prompt": ("off", False),
    "history_policy": ("strict", "strict"),
    "control_token_policy": ("reject", "reject"),
    "token_id_limit": ("50304", 50304),
    "max_steps": ("3", 3),
    "max_tokens": ("4096", 4096),
    "max_turns": ("5", 5),
    "max_sampled_tokens": ("2048", 2048),
    "max_episodes": ("7", 7),
    "max_live_tokens": ("5000000000", 5_000_000_000),
    "store": ("sqlite:///run/episodes.db", "sqlite:///run/episodes.db"),
    "max_cached_tokens": ("1000", 1000),
    "archive": ("run/archive", "run/archive"),
    "archive_file_bytes": ("65536", 65_536),
    "processes": ("2", 2),
    "idle_timeout": ("0.5", 0.5),
    "task_timeout": ("0", 0.0),
    "transform_timeout": ("0", 0.0),
    "max_message_bytes": ("1024", 1024),
    "max_text_bytes": ("2048", 2048),
    "max_bytes_in_flight": ("4096", 4096),
    "max_batch_items": ("1", 1),
    "max_concurrent_calls": ("8", 8),
    "drain_grace": ("1e1", 10.0),
    "socket_mode": ("660", 0o660),
    "allow_plaintext": ("yes", True),
    "tls_certificate": ("FILE", "FILE"),
    "tls_key": ("FILE", "FILE"),
    "tls_client_ca": ("FILE", "FILE"),
    "bearer_token": ("s3cret", "s3cret"),
    "bearer_token_file": ("FILE", "FILE"),
    "reflection": ("0", False),
    "metrics_listen": ("[::1]:9464", "[::1]:9464"),
    "tracing": ("on", True),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
}

BAD: dict[str, list[str]] = {
    "listen": ["50051", "host:", ":50051", "host:70000", "::1:50051", "unix://x.sock", "unix:///" + "x" * 107, ","],
    "chat_template": ["/no/such/file", "/"],
    "require_template": ["always"],
    "add_generation_prompt": ["maybe"],
    "history_policy": ["lenient"],
    "control_token_policy": ["ESCAPE"],
    "token_id_limit": ["-1", "many"],
    "max_steps": ["-1", "1.5", "٣"],
    "max_tokens": ["x", "4294967296"],
    "max_turns": ["-1"],
    "max_sampled_tokens": ["-1"],
    "max_episodes": ["0"],
    "max_live_tokens": ["0"],
    "max_cached_tokens": ["0"],
    "archive_file_bytes": ["0", "-1"],
    "processes": ["0", "257", "all"],
    "idle_timeout": ["-1", "inf", "nan", "soon"],
    "task_timeout": ["-0.1"],
    "transform_timeout": ["-0.1"],
    "max_message_bytes": ["1023"],
    "max_text_bytes": ["1023"],
    "max_bytes_in_flight": ["1023"],
    "max_batch_items": ["0"],
    "max_concurrent_calls": ["0"],
    "drain_grace": ["forever"],
    "socket_mode": ["rw", "1777", "-1"],
    "allow_plaintext": ["perhaps"],
    "tls_certificate": ["/no/such/file"],
    "tls_key": ["/no/such/file"],
    "tls_client_ca": ["/no/such/file"],
    "bearer_token_file": ["/no/such/file"],
    "reflection": ["2"],
    "metrics_listen": ["9464", "unix:///run/x.sock"],
    "tracing": ["some"],
    "log_level": ["loud"],
    "log_format": ["xml"],
}

COMPANIONS = {
    "processes": ["store"],
    "tls_certificate": ["tls_key"],
    "tls_key": ["tls_certificate"],
    "tls_client_ca": ["tls_certificate", "tls_key"],
}
"""What else has to be given for a setting to be valid."""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_text("contents")
    return str(path)


def _filled(name: str, file: str) -> tuple[str, Any]:
    text, value = GOOD[name]
    return (file, file) if text == "FILE" else (text, value)


def test_the_tables_of_this_test_cover_every_setting() -> None:
    assert list(GOOD) == NAMES
    assert BAD.keys() | TEXT_SETTINGS == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_a_flag(name: str, file: str) -> None:
    text, value = _filled(name, file)
    others = [part for other in COMPANIONS.get(name, []) for part in (flag_of(other), _filled(other, file)[0])]
    assert getattr(read_settings([flag_of(name), text, *others], {}), name) == value


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_an_environment_variable(name: str, file: str) -> None:
    text, value = _filled(name, file)
    others = {variable_of(other): _filled(other, file)[0] for other in COMPANIONS.get(name, [])}
    assert getattr(read_settings([], {variable_of(name): text, **others}), name) == value


@pytest.mark.parametrize("name", NAMES)
def test_every_default_can_be_given_as_it_is_documented(name: str) -> None:
    if default := default_text(name):
        assert getattr(read_settings([flag_of(name), default], {}), name) == getattr(Settings(), name)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_is_refused_by_the_name_of_its_setting(name: str, text: str) -> None:
    for arguments, environment in (([f"{flag_of(name)}={text}"], {}), ([], {variable_of(name): text})):
        with pytest.raises(SettingError) as refusal:
            read_settings(arguments, environment)
        assert flag_of(name) in str(refusal.value)
        assert variable_of(name) in str(refusal.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_is_called_as_its_flag(name: str) -> None:
    assert variable_of(name) == "CHATENV_" + flag_of(name).removeprefix("--").replace("-", "_").upper()


MISSPELT = {
    "CHATENV_TOKENISER": "CHATENV_TOKENIZER",
    "CHATENV_TOKENIZER_NAME": "CHATENV_TOKENIZER",
    "CHATENV_MAX_STEP": "CHATENV_MAX_STEPS",
    "CHATENV_max_steps": "CHATENV_MAX_STEPS",
    "CHATENV_ADRESS": "CHATENV_ADDRESS",
    "CHATENV_IDLE_TIME_OUT": "CHATENV_IDLE_TIMEOUT",
}


@pytest.mark.parametrize(("given", "meant"), MISSPELT.items())
def test_a_variable_that_nobody_reads_is_refused_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(SettingError, match=f"{given}, .*nearest: {meant}"):
        read_settings([], {given: "1"})


@given(st.sampled_from(NAMES).map(variable_of), st.data())
def test_one_wrong_letter_in_a_variable_is_always_noticed_and_mended(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(len("CHATENV_"), len(name) - 1))
    typed = name[:place] + data.draw(st.sampled_from(["", "X", name[place] * 2, "_"])) + name[place + 1 :]
    assume(typed not in {variable_of(other) for other in NAMES} and len(typed) > len("CHATENV_"))
    with pytest.raises(SettingError) as refusal:
        read_settings([], {typed: "1"})
    assert f"{typed}, " in str(refusal.value)
    assert f"nearest: {name}" in str(refusal.value)


def test_all_variables_that_nobody_reads_are_named_at_once() -> None:
    with pytest.raises(SettingError, match=r"CHATENV_COLOUR, .*CHATENV_QQQQ, which nobody reads;"):
        read_settings([], {"CHATENV_QQQQ": "1", "CHATENV_COLOUR": "1", "CHATENVIRONMENT": "1"})


@pytest.mark.parametrize("name", ["CHATENV_ADDRESS", "CHATENV_CONFORMANCE", "CHATENV_CONFORMANCE_REQUIRED"])
def test_what_callers_and_tests_read_may_stand_in_a_servers_environment(name: str) -> None:
    assert read_settings([], {name: "localhost:1"}) == Settings()


SERVICE_LINKS = (
    *("CHATENV_SERVICE_HOST", "CHATENV_SERVICE_PORT", "CHATENV_SERVICE_PORT_GRPC", "CHATENV_PORT"),
    *("CHATENV_PORT_50051_TCP", "CHATENV_PORT_50051_TCP_PROTO", "CHATENV_PORT_50051_TCP_PORT"),
    *("CHATENV_PORT_50051_TCP_ADDR", "CHATENV_METRICS_SERVICE_HOST", "CHATENV_METRICS_PORT_9464_TCP_ADDR"),
)


@pytest.mark.parametrize("name", SERVICE_LINKS)
def test_what_kubernetes_sets_beside_a_service_called_chatenv_is_let_be(name: str) -> None:
    assert read_settings([], {name: "10.0.0.1"}) == Settings()


def test_no_setting_is_taken_for_what_kubernetes_sets_or_for_what_callers_read() -> None:
    others = [variable_of(name) for name in NAMES if variable_of(name) not in variables.CALLERS]
    assert [name for name in others if variables.is_nearly(name, variables.CALLERS)] == []
    assert [name for name in others if name not in variables._given(dict.fromkeys(others, "1"))] == []


def test_a_flag_wins_over_its_variable() -> None:
    assert read_settings(["--max-steps", "1"], {"CHATENV_MAX_STEPS": "2"}).max_steps == 1


def test_an_empty_variable_is_no_variable() -> None:
    assert read_settings([], {"CHATENV_TOKENISER": "", "CHATENV_MAX_STEPS": ""}) == Settings()


def test_a_switch_needs_no_value() -> None:
    assert read_settings(["--allow-plaintext"], {}).allow_plaintext


def test_listen_can_be_given_several_times() -> None:
    settings = read_settings(["--listen", "localhost:1", "--listen", "unix:///run/x.sock"], {})
    assert settings.listen == ("localhost:1", "unix:///run/x.sock")


def test_the_default_is_reachable_from_this_machine_only() -> None:
    assert Settings().listen == ("127.0.0.1:50051",)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1"])
def test_plain_text_for_other_machines_has_to_be_allowed(address: str, file: str) -> None:
    with pytest.raises(SettingError, match="--allow-plaintext"):
        Settings(listen=(address,))
    Settings(listen=(address,), allow_plaintext=True)
    Settings(listen=(address,), tls_certificate=file, tls_key=file)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:///x"])
def test_plain_text_for_this_machine_is_fine(address: str) -> None:
    Settings(listen=(address,))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tls_certificate": __file__}, "--tls-key"),
        ({"tls_key": __file__}, "--tls-certificate"),
        ({"tls_client_ca": __file__}, "--tls-client-ca"),
        ({"bearer_token": "t", "bearer_token_file": __file__}, "--bearer-token-file"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        Settings(**given)


OF_ANOTHER_TYPE: list[dict[str, Any]] = [
    {"listen": "127.0.0.1:0"},
    {"listen": ["127.0.0.1:0"]},
    {"max_steps": "3"},
    {"max_steps": True},
    {"max_steps": 3.0},
    {"idle_timeout": "1"},
    {"reflection": 1},
    {"transform": print},
    {"bearer_token": b"secret"},
    {"socket_mode": "600"},
]


@pytest.mark.parametrize("given", OF_ANOTHER_TYPE)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_setting(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(SettingError, match=rf"{flag_of(name)} .* must be a \w+, not a \w+") as refusal:
        Settings(**given)
    assert "secret" not in str(refusal.value)


OUT_OF_BOUNDS: list[dict[str, Any]] = [
    {"max_steps": -1},
    {"max_episodes": 0},
    {"idle_timeout": math.nan},
    {"idle_timeout": math.inf},
    {"log_level": "loud"},
    {"history_policy": "lenient"},
    {"socket_mode": 0o7777},
    {"listen": ("50051",)},
    {"chat_template": "/no/such/file"},
]


@pytest.mark.parametrize("given", OUT_OF_BOUNDS)
def test_what_is_refused_as_text_is_refused_as_a_value(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(SettingError, match=flag_of(name)):
        Settings(**given)


def test_episodes_start_from_the_settings_that_are_named_as_their_options() -> None:
    assert EpisodeOptions().overridden_by(Settings().episode_options()) == EpisodeOptions()
    settings = Settings(system_prompt="Be kind.", add_generation_prompt=False, history_policy="strict", max_steps=3)
    expected = EpisodeOptions(
        system_prompt="Be kind.", add_generation_prompt=False, history_policy=HistoryPolicy.STRICT, max_steps=3
    )
    assert EpisodeOptions().overridden_by(settings.episode_options()) == expected


def test_a_secret_does_not_show_in_the_settings() -> None:
    assert "s3cret" not in repr(Settings(bearer_token="s3cret"))


def test_an_unknown_flag_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_settings(["--max-step", "1"], {})
    assert exit_.value.code == 2
    assert "--max-step" in capsys.readouterr().err


def test_the_table_for_the_docs_has_every_setting_once() -> None:
    table = settings_table()
    for name in NAMES:
        assert table.count(f"| `{flag_of(name)}` | `{variable_of(name)}` |") == 1
