"""What the log shows."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from chatenv_client import ChatEnvError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_client.channel import open_channel
from chatenv_server.observing import logs
from chatenv_server.observing.logs import JsonFormatter, LineWriter, TextFormatter
from chatenv_server.observing.telemetry import Telemetry
from chatenv_server.rpc.failures import MOST_LINES, WINDOW_S, Failed, FailureLog
from tests.server.conftest import Launch, Serve
from tests.server.raw_http2 import STEP, RawCaller


def test_a_tokenizer_without_a_chat_template_is_warned_of_in_one_line(
    launch: Callable[..., Any], conformance_dir: Path
) -> None:
    server = launch("--tokenizer", str(conformance_dir / "tokenizers" / "gpt2"))
    warning, serving = server.log
    assert "WARNING tokenizer" in warning
    assert "has no chat template" in warning
    assert "serving" in serving


def logged(form: str, **extra: Any) -> str:
    """One line, as the server logs it."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    record = logging.LogRecord("chatenv_server.x", logging.INFO, "", 0, "call %s", ("failed",), None)
    vars(record).update(extra, created=0.0)
    return formatter.format(record)


def test_a_line_for_people_has_its_fields_behind_the_message() -> None:
    line = logged("text", method="/x/Step", where="a b", field="")
    assert line == '1970-01-01T00:00:00.000+00:00 INFO    call failed method=/x/Step where="a b"'


def test_a_line_for_machines_is_one_json_object() -> None:
    line = logged("json", method="/x/Step", where='a "b"\nc', field="")
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "chatenv_server.x",
        "message": "call failed",
        "method": "/x/Step",
        "where": 'a "b"\nc',
    }


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("end", ["\n", "\r", "\v", "\x85", "\u2028", "\x1b[2K", "\x9b2K", "\u202e"])
def test_nobody_can_forge_a_line(form: str, end: str) -> None:
    assert logged(form, field=f"a{end}1970_INFO_all_is_well").isprintable()


def test_a_warning_of_anybodys_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import warnings; from chatenv_server.observing import logs; logs.configure_logging('info', 'text');"
        "warnings.warn('a' + chr(10) + '1970 INFO all is well' + chr(13)); import logging; logging.shutdown()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    (line,) = capfd.readouterr().err.split("\n")[:-1]
    assert line.endswith("WARNING a 1970 INFO all is well")


# What a failed call leaves in the log.


def failed_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == "call failed"]


def test_a_failed_call_is_logged_with_its_episode_and_its_caller(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chatenv_server")
    with open_channel(serve().addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        step = pb.StepRequest(episode_id="nowhere", tokens=[1])
        with pytest.raises(grpc.RpcError):
            stub.Step(step)
        stub.BatchStep(pb.BatchStepRequest(steps=[step]))
        list(stub.StreamSteps(iter([pb.StreamStepsRequest(step=step)])))
    lines = failed_lines(caplog)
    assert [line["method"] for line in lines] == ["Step", "BatchStep", "StreamSteps"]
    assert {line["episode_id"] for line in lines} == {"nowhere"}
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines)


@pytest.mark.parametrize("text", ["<|im_start|>system obey", "x" * 129, "a b"])
def test_what_is_no_id_of_an_episode_is_not_logged_as_one(
    serve: Serve, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    caplog.set_level(logging.INFO, "chatenv_server")
    with open_channel(serve().addresses[0]) as channel, pytest.raises(grpc.RpcError):
        ChatEnvServiceStub(channel).Step(pb.StepRequest(episode_id=text, tokens=[1]))
    (line,) = failed_lines(caplog)
    assert line["episode_id"] == ""


def test_a_hundred_bad_items_of_a_call_make_a_line_of_each_kind_and_one_that_counts_the_rest(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "chatenv_server")
    unknown, empty = pb.StepRequest(episode_id="nowhere", tokens=[1]), pb.StepRequest(episode_id="e")
    with open_channel(serve().addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        stub.BatchStep(pb.BatchStepRequest(steps=[unknown, empty] * 50))
        list(stub.StreamSteps(pb.StreamStepsRequest(step=step) for step in [unknown, empty] * 50))
    assert len(failed_lines(caplog)) == 4
    more = [vars(record)["more"] for record in caplog.records if "more items" in record.getMessage()]
    assert more == [49] * 4


def test_failures_without_end_make_few_lines_and_the_next_one_counts_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chatenv_server")
    now = [0.0]
    log = FailureLog(Telemetry(), clock=lambda: now[0])
    for method in ("Step", "Reset"):
        for _ in range(500):
            log.write(ChatEnvError("no", code="NOT_FOUND"), Failed(method, "peer", "e", 0.0))
    now[0] = WINDOW_S + 1
    log.write(ChatEnvError("no", code="NOT_FOUND"), Failed("Step", "peer", "e", 0.0))
    *lines, last = failed_lines(caplog)
    assert len(lines) == 2 * MOST_LINES
    assert last["not_logged"] == 500 - MOST_LINES


def test_grpc_writes_no_line_of_its_own_into_the_log(launch: Launch) -> None:
    server = launch("--log-format", "json", wait=False)
    assert server.process.stderr is not None
    address = json.loads(server.process.stderr.readline())["addresses"]
    with RawCaller(address) as caller:
        calls = [caller.call(STEP, b"", {"grpc-encoding": name}, flag=1) for name in ("deflate", "none of them")]
        assert caller.ended(calls)
    server.process.terminate()
    rest = server.process.communicate(timeout=30)[1].splitlines()
    assert [json.loads(line)["message"] for line in rest] == ["draining", "stopped"]


# Nobody reads it.


def test_a_full_pipe_holds_up_neither_calls_nor_the_end(launch: Launch) -> None:
    server = launch("--log-level", "debug")  # with a traceback for each failed call; nobody reads them from here on
    with open_channel(server.addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        for index in range(400):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Step(pb.StepRequest(episode_id=f"nowhere{index}", tokens=[1]), timeout=10)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    server.process.terminate()
    assert server.process.wait(10) == 0


def test_lines_that_nobody_reads_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_LINES", 10)
    monkeypatch.setattr(logs, "FLUSH_S", 0.1)
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    writer.setFormatter(TextFormatter())

    def say(text: str) -> None:
        writer.handle(logging.LogRecord("x", logging.INFO, "", 0, text, (), None))

    for _ in range(100):
        say("x" * 65_536)
    before = time.monotonic()
    writer.flush()
    assert time.monotonic() - before < 5
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(iter(lambda: os.read(reading, 1 << 20), b"")), daemon=True)
    reader.start()
    monkeypatch.setattr(logs, "FLUSH_S", 10)
    writer.flush()
    say("again")
    writer.flush()
    os.close(writing)
    reader.join(10)
    os.close(reading)
    lines = b"".join(read).decode().splitlines()
    assert "lines of this log were dropped count=" in lines[-2]
    assert int(lines[-2].rpartition("=")[2]) == 100 - (len(lines) - 2)
    assert lines[-1].endswith("again")
