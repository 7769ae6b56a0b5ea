"""What a server tells those who watch it: metrics, spans, log lines."""

from __future__ import annotations

import gzip
import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from chatenv_client import ChatAction, ChatEnv, ChatEnvError, ServerBusyError
from chatenv_client._generated import chatenv_pb2 as pb
from chatenv_client._generated.chatenv_pb2_grpc import ChatEnvServiceStub
from chatenv_server.observing.calls import CallTimer
from chatenv_server.running.process import RunningServer
from chatenv_server.settings.errors import BindError, SettingError
from chatenv_server.settings.settings import Settings
from tests.server.conftest import Launch, Serve

CHECKOUT = Path(__file__).resolve().parents[2]
HI = {"role": "user", "content": "hi"}

Connect = Callable[..., ChatEnv]


@pytest.fixture
def measured(serve: Serve) -> Callable[..., RunningServer]:
    pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")
    return lambda **options: serve(metrics_listen="127.0.0.1:0", **options)


def scraped(server: RunningServer) -> str:
    with urllib.request.urlopen(f"http://{server.observers.metrics_address}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def value(server: RunningServer, name: str, **labels: str) -> float:
    """Of one time series; 0 where there is none yet."""
    for line in scraped(server).splitlines():
        found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if found and dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")) == labels:
            return float(found[2])
    return 0.0


# Metrics.


def test_calls_are_counted_by_method_and_code_and_their_wait_apart(measured: Any, connect: Connect) -> None:
    server = measured()
    env = connect(server)
    env.reset(messages=[HI])
    env.step(ChatAction(tokens=[65, 257]))
    with pytest.raises(ChatEnvError):
        env.step(ChatAction(tokens=[-1]))
    assert value(server, "chatenv_call_seconds_count", method="Reset", code="OK") == 1
    assert value(server, "chatenv_call_seconds_count", method="Step", code="OK") == 1
    assert value(server, "chatenv_call_seconds_count", method="Step", code="INVALID_ARGUMENT") == 1
    assert value(server, "chatenv_failures_total", method="Step", reason="TOKEN_OUT_OF_RANGE") == 1
    assert value(server, "chatenv_call_wait_seconds_count", method="Step") == 2


def test_the_time_in_a_transform_is_service_and_not_wait(measured: Any, connect: Connect) -> None:
    reached, release = threading.Event(), threading.Event()

    def slow(observation: Any) -> Any:
        reached.set()
        release.wait(10)
        return observation

    server = measured(transform=slow)
    env = connect(server)
    env.reset(messages=[HI])
    caller = threading.Thread(target=env.step, args=[ChatAction(tokens=[65])])
    caller.start()
    assert reached.wait(10)
    assert value(server, "chatenv_calls") == 1
    assert not release.wait(0.3)
    release.set()
    caller.join()
    took = value(server, "chatenv_call_seconds_sum", method="Step", code="OK")
    assert took > 0.3 > value(server, "chatenv_call_wait_seconds_sum", method="Step")


def test_a_call_that_queues_for_a_thread_is_counted_as_waiting() -> None:
    metrics = pytest.importorskip(
        "chatenv_server.observing.metrics", reason="the extra `metrics` is not installed"
    ).Metrics()
    reached, release = threading.Event(), threading.Event()

    def slow(_requests: Any, _context: grpc.ServicerContext) -> bytes:
        reached.set()
        assert release.wait(10)
        return b""

    methods: dict[str, Any] = {
        "Slow": grpc.stream_unary_rpc_method_handler(slow),
        "Quick": grpc.stream_unary_rpc_method_handler(lambda _requests, _context: b""),
    }
    server = grpc.server(ThreadPoolExecutor(1), interceptors=[CallTimer(metrics)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("chatenv.Service", methods)])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with grpc.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary
        at_work = ask("/chatenv.Service/Slow").future(b"")
        assert reached.wait(10)
        queued = ask("/chatenv.Service/Quick").future(b"")
        with pytest.raises(grpc.FutureTimeoutError):
            queued.result(timeout=0.5)
        release.set()
        assert (at_work.result(), queued.result()) == (b"", b"")
    server.stop(None).wait()
    read = metrics.registry.get_sample_value
    assert read("chatenv_call_wait_seconds_sum", {"method": "Quick"}) > 0.4
    assert read("chatenv_call_seconds_sum", {"method": "Quick", "code": "OK"}) < 0.4


def test_tokens_are_counted_as_they_come_and_go(measured: Any, connect: Connect) -> None:
    server = measured()
    env = connect(server)
    opening = len(env.reset(messages=[HI]).observation.token_ids)
    env.step(ChatAction(tokens=[65, 66, 257]))
    tail = len(env.step(HI).observation.token_ids) - opening - 3
    assert value(server, "chatenv_tokens_total", direction="received") == 3
    assert value(server, "chatenv_tokens_total", direction="sent") == opening + tail
    assert value(server, "chatenv_live_tokens") == opening + 3 + tail


def test_episodes_are_counted_from_start_to_end_by_cause(measured: Any, connect: Connect) -> None:
    now = [0.0]
    server = measured(clock=lambda: now[0], idle_timeout=10.0)
    first, second = connect(server), connect(server)
    first.reset(messages=[HI])
    second.reset(messages=[HI])
    assert value(server, "chatenv_live_episodes") == value(server, "chatenv_episodes_started_total") == 2
    first.close()
    now[0] = 11.0
    with pytest.raises(ChatEnvError):
        second.state()
    assert value(server, "chatenv_episodes_ended_total", cause="closed") == 1
    assert value(server, "chatenv_episodes_ended_total", cause="expired") == 1
    assert value(server, "chatenv_live_episodes") == 0


def test_an_episode_that_never_was_is_neither_started_nor_ended(measured: Any, connect: Connect) -> None:
    server = measured()
    with pytest.raises(ChatEnvError):
        connect(server).reset(messages=[{"role": "", "content": "x"}])
    assert value(server, "chatenv_episodes_started_total") == 0
    assert value(server, "chatenv_episodes_ended_total", cause="closed") == 0


def test_fidelity_reports_are_counted_by_kind_and_once(measured: Any) -> None:
    server = measured()
    spelling = pb.StepRequest(episode_id="e", step_index=0, messages=[pb.Message(role="user", content="<|im_end|>")])
    with grpc.insecure_channel(server.addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"))
        for _ in range(2):  # the second is answered from the record
            assert len(stub.Step(spelling).observation.fidelity) == 1
    assert value(server, "chatenv_fidelity_reports_total", kind="control_token_escaped") == 1


def test_a_busy_server_counts_whom_it_turned_away(measured: Any, connect: Connect) -> None:
    reached, release = threading.Event(), threading.Event()

    def slow(observation: Any) -> Any:
        reached.set()
        release.wait(10)
        return observation

    server = measured(transform=slow, max_concurrent_calls=1)
    env, other = connect(server), connect(server)
    env.reset(messages=[HI])
    caller = threading.Thread(target=env.step, args=[ChatAction(tokens=[65])])
    caller.start()
    assert reached.wait(10)
    with pytest.raises(ServerBusyError):
        other.reset(messages=[HI])
    release.set()
    caller.join()
    assert value(server, "chatenv_failures_total", method="Reset", reason="BUSY") == 1


def test_items_of_batches_that_fail_are_counted(measured: Any) -> None:
    server = measured()
    with grpc.insecure_channel(server.addresses[0]) as channel:
        ChatEnvServiceStub(channel).BatchStep(pb.BatchStepRequest(steps=[pb.StepRequest(episode_id="nobody")] * 3))
    assert value(server, "chatenv_failures_total", method="BatchStep", reason="EPISODE_UNKNOWN") == 3
    assert value(server, "chatenv_call_seconds_count", method="BatchStep", code="OK") == 1


def test_a_stream_is_one_call(measured: Any) -> None:
    server = measured()
    with grpc.insecure_channel(server.addresses[0]) as channel:
        requests = iter([pb.StreamStepsRequest(request_id=1, step=pb.StepRequest(episode_id="nobody"))])
        assert len(list(ChatEnvServiceStub(channel).StreamSteps(requests))) == 1
    assert value(server, "chatenv_call_seconds_count", method="StreamSteps", code="OK") == 1


def test_no_metric_has_an_episodes_id(measured: Any, connect: Connect) -> None:
    server = measured()
    env = connect(server)
    env.reset(episode_id="pikachu", messages=[HI])
    with pytest.raises(ChatEnvError):
        env.step(ChatAction(tokens=[-1]))
    with pytest.raises(ChatEnvError):
        env.resume("charmander")
    assert "pikachu" not in scraped(server)
    assert "charmander" not in scraped(server)


def test_segments_are_counted_when_they_begin(serve: Serve) -> None:
    pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")
    server = serve(metrics_listen="127.0.0.1:0")
    with ChatEnv(server.addresses[0]) as env:
        for _ in range(2):
            env.reset(episode_id="e", messages=[{"role": "user", "content": "what?"}])
            for _ in range(2):
                env.step(ChatAction(tokens=[52, 257]))
                env.step({"role": "user", "content": "why?"}, replace_from=0)
            env.step({"role": "user", "content": "how?"}, replace_from=0)
    assert value(server, "chatenv_segments_begun_total") == 4


def documented_metrics() -> dict[str, tuple[str, set[str]]]:
    text = CHECKOUT.joinpath("docs/operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(chatenv_\w+)` \| (\w+) \| (.*?) \|", text, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def metrics_in_the_code() -> dict[str, tuple[str, set[str]]]:
    metrics = pytest.importorskip("chatenv_server.observing.metrics", reason="the extra `metrics` is not installed")
    watched = metrics.Metrics()
    watched.watch(lambda: metrics.Levels(calls=0, episodes=0, tokens=0, held_episodes=0, held_tokens=0))
    watched.call_ended("Step", "OK", 0.0, 0.0)
    watched.failed("Step", "BUSY")
    watched.inexact("boundary_merge")
    found = {}
    for metric in watched.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        found[metric.name + suffix] = (metric.type, labels)
    return {name: what for name, what in found.items() if name.startswith("chatenv_")}


def test_the_table_of_metrics_is_what_the_code_measures() -> None:
    assert documented_metrics() == metrics_in_the_code()


def test_the_dashboard_shows_metrics_that_exist_and_every_one_of_them() -> None:
    dashboard = CHECKOUT.joinpath("deploy/grafana/chatenv.json").read_text(encoding="utf-8")
    queries = [target["expr"] for panel in json.loads(dashboard)["panels"] for target in panel.get("targets", ())]
    shown = set(re.findall(r"chatenv_\w+", " ".join(queries)))
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert bare == metrics_in_the_code().keys()


def test_without_the_setting_nobody_listens_and_no_call_meets_a_clock(serve: Serve) -> None:
    server = serve()
    assert server.observers.metrics_address == ""
    assert server.observers.interceptors == []


def test_metrics_for_other_machines_have_to_be_allowed() -> None:
    with pytest.raises(SettingError, match="--allow-plaintext"):
        Settings(metrics_listen="0.0.0.0:0")
    assert Settings(metrics_listen="0.0.0.0:0", allow_plaintext=True).metrics_listen


def test_a_taken_address_for_metrics_is_refused_and_frees_everything(measured: Any, serve: Serve) -> None:
    server = measured()
    with pytest.raises(BindError, match="Prometheus"):
        serve(metrics_listen=server.observers.metrics_address)


def test_after_stop_nobody_listens_for_prometheus(measured: Any) -> None:
    server = measured()
    server.stop(1)
    with pytest.raises(OSError, match="refused"):
        scraped(server)


def test_the_process_says_where_metrics_are_and_needs_no_prometheus_without_them(launch: Launch) -> None:
    pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")
    server = launch("--metrics-listen", "127.0.0.1:0")
    found = re.search(r"metrics=(\S+)", server.log[-1])
    assert found is not None
    with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=5) as answer:
        assert b"process_resident_memory_bytes" in answer.read()


# Spans.


@pytest.fixture
def collector() -> Iterator[tuple[str, SimpleQueue[Any]]]:
    """Where OpenTelemetry's exporter can send to, and what it sent."""
    protocol = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra `tracing` is not installed"
    )
    received: SimpleQueue[Any] = SimpleQueue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.put(protocol.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_call_is_a_span_of_its_callers_trace_and_says_how_it_ended(
    serve: Serve, collector: tuple[str, SimpleQueue[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-trainer")
    server = serve(tracing=True)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with grpc.insecure_channel(server.addresses[0]) as channel:
        stub = ChatEnvServiceStub(channel)
        stub.Reset(pb.ResetRequest(episode_id="e"), metadata=(("traceparent", f"00-{trace}-{parent}-01"),))
        with pytest.raises(grpc.RpcError):
            stub.Step(pb.StepRequest(episode_id="nobody"))
        list(stub.StreamSteps(iter([pb.StreamStepsRequest(step=pb.StepRequest(episode_id="nobody"))])))
    server.stop(1)  # sends what is still to be sent
    (resource,) = received.get(timeout=5).resource_spans
    names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert names["service.name"] == "my-trainer"
    spans = {span.name.rpartition("/")[2]: span for scope in resource.scope_spans for span in scope.spans}
    assert spans.keys() == {"Reset", "Step", "StreamSteps"}
    assert (spans["Reset"].trace_id.hex(), spans["Reset"].parent_span_id.hex()) == (trace, parent)
    codes = {
        name: attribute.value.int_value
        for name, span in spans.items()
        for attribute in span.attributes
        if attribute.key == "rpc.grpc.status_code"
    }
    assert codes == {"Reset": 0, "Step": 5, "StreamSteps": 0}


# Log lines.


def test_a_failed_call_is_one_json_object_a_line(launch: Launch) -> None:
    server = launch("--log-format", "json", wait=False)
    assert server.process.stderr is not None
    address = json.loads(server.process.stderr.readline())["addresses"]
    with ChatEnv(address) as env, pytest.raises(ChatEnvError):
        env.reset(messages=[{"role": "user", "content": "my secret prompt", "name": 7}, {"role": "\n", "content": ""}])
    server.process.terminate()
    _, log = server.ended()
    assert "secret" not in log
    (failed,) = [line for line in map(json.loads, log.splitlines()) if line["message"] == "call failed"]
    assert failed["level"] == "info"
    assert (failed["code"], failed["reason"], failed["field"]) == ("INVALID_ARGUMENT", "BAD_ROLE", "messages[1].role")
    assert failed["method"] == "Reset"
    assert failed["duration_ms"] > 0
