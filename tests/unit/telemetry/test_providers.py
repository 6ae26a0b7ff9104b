"""Tests of the lifecycle: providers used or created, everything removed at shutdown, within the deadline."""

import gzip
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider
from tests.unit.telemetry.recorder import Recorder

from forge_otel.names import Attr, Metric
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.spans.decorators import Spans

PREAMBLE = """
import asyncio, json, logging
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from forge_otel.settings import Settings
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.spans.decorators import Spans

def page(telemetry):
    return asyncio.run(telemetry.prometheus.render())[0].decode()

def agents(telemetry):
    name = "gen_ai_invoke_agent_duration_seconds_count"
    return [float(line.rpartition(" ")[2]) for line in page(telemetry).splitlines() if line.startswith(name)]
"""


def in_process(code: str, **environ: str) -> Any:
    """Run `code` in a process without global providers, and return its JSON output."""
    script = PREAMBLE + textwrap.dedent(code)
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_providers_are_created_if_none_are_set() -> None:
    """A second telemetry finds and uses them, and nothing is counted twice."""
    found = in_process("""
        seen = []
        for _ in range(3):
            telemetry = Telemetry(Settings())
            telemetry.start()
            Spans(lambda: telemetry.span_recorder).agent("a")(lambda: None)()
            seen.append([id(trace.get_tracer_provider()), id(metrics.get_meter_provider()), agents(telemetry)])
            seen[-1].append(len(telemetry.recent_traces.latest()))
            telemetry.shutdown()
        print(json.dumps(seen))
    """)
    assert [item[2:] for item in found] == [[[1.0], 1]] * 3
    assert len({tuple(item[:2]) for item in found}) == 1


def test_providers_of_the_application_are_used() -> None:
    """Their processors receive our spans, the page shows their metrics, and they stay as they were."""
    found = in_process("""
        tracers, meters = TracerProvider(), MeterProvider()
        trace.set_tracer_provider(tracers), metrics.set_meter_provider(meters)
        meters.get_meter("host").create_counter("host.before").add(1)
        telemetry = Telemetry(Settings())
        telemetry.start()
        meters.get_meter("host").create_counter("host.after").add(1)
        tracers.get_tracer("host").start_span("GET").end()
        shown = page(telemetry)
        print(json.dumps([
            trace.get_tracer_provider() is tracers, metrics.get_meter_provider() is meters,
            "host_after_total 1.0" in shown, [row.name for row in telemetry.recent_traces.latest()],
        ]))
        telemetry.shutdown()
    """)
    assert found == [True, True, True, ["GET"]]


def test_a_disabled_sdk_disables_everything() -> None:
    """OTEL_SDK_DISABLED keeps its meaning; decorated functions run."""
    found = in_process(
        """
        telemetry = Telemetry(Settings())
        telemetry.start()
        result = Spans(lambda: telemetry.span_recorder).agent("a")(lambda: 7)()
        print(json.dumps([result, agents(telemetry), telemetry.shutdown()]))
        """,
        OTEL_SDK_DISABLED="true",
    )
    assert found == [7, [], True]


def test_the_variables_of_opentelemetry_keep_their_meaning() -> None:
    """Created providers read service name and sampler."""
    found = in_process(
        """
        telemetry = Telemetry(Settings())
        telemetry.start()
        span = telemetry.tracer.start_span("x")
        sampled = bool(span.get_span_context().trace_flags.sampled)
        print(json.dumps([trace.get_tracer_provider().resource.attributes["service.name"], sampled]))
        telemetry.shutdown()
        """,
        OTEL_SERVICE_NAME="shop",
        OTEL_TRACES_SAMPLER="always_off",
    )
    assert found == ["shop", False]


class Collector:
    """An OTLP server over HTTP that keeps the request bodies."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(delay_s)
                collector.bodies.append(gzip.decompress(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    made = Collector()
    yield made
    made.close()


def test_traces_go_to_the_otlp_endpoint(collector: Collector) -> None:
    """With the variable set and a created provider, at the latest at shutdown."""
    code = """
        telemetry = Telemetry(Settings())
        telemetry.start()
        Spans(lambda: telemetry.span_recorder).agent("painter")(lambda: None)()
        print(json.dumps(telemetry.shutdown()))
    """
    assert in_process(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) is True
    assert b"invoke_agent painter" in b"".join(collector.bodies)
    collector.bodies.clear()
    in_process(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_TRACES_EXPORTER="none")
    assert collector.bodies == []


def test_an_unavailable_endpoint_does_not_delay_the_exit() -> None:
    """The deadline of the shutdown holds."""
    slow = Collector(delay_s=3.0)
    code = """
        import time
        telemetry = Telemetry(Settings())
        telemetry.start()
        Spans(lambda: telemetry.span_recorder).agent("painter")(lambda: None)()
        started = time.monotonic()
        print(json.dumps([telemetry.shutdown(0.3), time.monotonic() - started < 1]))
        logging.disable()
    """
    assert in_process(code, OTEL_EXPORTER_OTLP_ENDPOINT=slow.url) == [False, True]
    slow.close()


def test_given_providers_leave_the_globals_unset(recorder: Recorder) -> None:
    """Neither provider becomes global."""
    before = trace.get_tracer_provider(), metrics.get_meter_provider()
    own = recorder.another()
    own.start()
    own.shutdown()
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before


def test_the_provider_that_is_not_given_is_private() -> None:
    """It has the given resource, and is closed at shutdown."""
    reader = InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    resource = Resource({"service.name": "shop"})
    telemetry = Telemetry(Settings(), resource=resource, tracer_provider=tracers, metric_readers=[reader])
    telemetry.start()
    Spans(lambda: telemetry.span_recorder).agent("a")(lambda: None)()
    data: Any = reader.get_metrics_data()
    assert data.resource_metrics[0].resource.attributes["service.name"] == "shop"
    assert telemetry.shutdown()
    telemetry.meter.create_counter("late").add(1)


def test_nothing_is_recorded_after_the_shutdown(recorder: Recorder) -> None:
    """Neither spans nor metrics of the provider."""
    telemetry = recorder.telemetry
    seen = InMemorySpanExporter()
    extra = Telemetry(
        Settings(),
        tracer_provider=recorder.tracers,
        meter_provider=recorder.meters,
        span_processors=[SimpleSpanProcessor(seen)],
    )
    extra.start()
    recorder.tracers.get_tracer("host").start_span("while open").end()
    assert extra.shutdown()
    assert telemetry.shutdown()
    recorder.tracers.get_tracer("host").start_span("after").end()
    assert [span.name for span in seen.get_finished_spans()] == ["while open"]
    assert [row.name for row in telemetry.recent_traces.latest()] == ["while open"]


def test_two_telemetries_on_one_provider_count_a_call_once(recorder: Recorder) -> None:
    """Singleton processors run once; after the first shutdown, those of the second take over."""
    second = recorder.another()
    second.start()
    chat = {Attr.GEN_AI_REQUEST_MODEL: "gpt-4o", Attr.GEN_AI_INPUT_TOKENS: 10}
    tracer = recorder.tracers.get_tracer("host")
    tracer.start_span("chat", attributes=chat).end()
    assert recorder.values(Metric.TOKENS) == {("gpt-4o", "input_uncached"): 10}
    recorder.telemetry.shutdown()
    tracer.start_span("chat", attributes=chat).end()
    assert recorder.values(Metric.TOKENS) == {("gpt-4o", "input_uncached"): 20}
    second.shutdown()


async def test_a_telemetry_can_be_opened_again(recorder: Recorder) -> None:
    """Start and shutdown can alternate; a repeated call has no effect."""
    telemetry = recorder.telemetry
    telemetry.start()
    assert telemetry.shutdown()
    assert telemetry.shutdown()
    assert not telemetry.is_open
    telemetry.start()
    recorder.spans.agent("a")(lambda: None)()
    body, _ = await telemetry.prometheus.render()
    assert b'gen_ai_agent_name="a",le="+Inf"} 1.0' in body


def test_a_provider_without_processors_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    """One warning is logged, and functions run."""
    telemetry = Telemetry(Settings(), tracer_provider=NoOpTracerProvider())
    telemetry.start()
    assert Spans(lambda: telemetry.span_recorder).agent("a")(lambda: 7)() == 7
    assert caplog.text.count("accepts no span processors") == 1
    telemetry.shutdown()


def test_an_error_at_shutdown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The rest is closed, and a later start works."""

    class Refusing(SpanProcessor):
        def shutdown(self) -> None:
            raise RuntimeError("not mine")

    telemetry = Telemetry(
        Settings(), tracer_provider=TracerProvider(shutdown_on_exit=False), span_processors=[Refusing()]
    )
    for _ in range(2):
        telemetry.start()
        assert telemetry.shutdown()
    assert caplog.text.count("shutdown of span processor Refusing failed") == 2


def test_the_parts_exist_before_the_start() -> None:
    """Layers are built first; tracer, instruments and meter are without effect until then."""
    telemetry = Telemetry(Settings(), tracer_provider=TracerProvider(shutdown_on_exit=False))
    tracer, instruments = telemetry.tracer, telemetry.instruments
    with tracer.start_as_current_span("early") as span:
        instruments.add(Metric.COST, 1)
    telemetry.meter.create_counter("c").add(1)
    telemetry.start()
    with tracer.start_as_current_span("late") as later:
        assert later.is_recording()
    assert not span.is_recording()
    telemetry.shutdown()
