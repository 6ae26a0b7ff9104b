"""A small runtime on the real SDK, and callers that speak raw ASGI, so that a test sees every message."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import SpanContext, SpanKind, Tracer
from starlette.types import ASGIApp, Message, Scope

from forge_otel.errors import NotFound
from forge_otel.names import Instrument, Metric
from forge_otel.settings import Settings
from forge_otel.types import Progress, Record

TOKEN = "a-token-of-the-tests"


class Page:
    """A metrics page that says what it was asked for."""

    async def render(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        return f"accept={accept}".encode(), {"content-type": "text/plain; version=0.0.4"}


class Points:
    """The two HTTP instruments on a real meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._histogram = meter.create_histogram(Metric.HTTP_DURATION.name, Metric.HTTP_DURATION.unit)

    def record_later(
        self, instrument: Instrument, value: float, attributes: Any, *, exemplar: SpanContext | None = None
    ) -> None:
        assert instrument is Metric.HTTP_DURATION
        self._histogram.record(value, attributes)

    def observe(self, instrument: Instrument, callback: Any) -> Callable[[], None]:
        def collect(_options: CallbackOptions) -> list[Observation]:
            return [Observation(value, attributes) for value, attributes in callback()]

        self._meter.create_observable_gauge(instrument.name, [collect], instrument.unit)
        return lambda: None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One span of a remembered trace."""

    span_id: str
    name: str


class Traces:
    """Remembered traces."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}

    def trace(self, trace_id: str) -> list[Row]:
        return self.rows.get(trace_id, [])


class Records:
    """Remembered records, oldest first."""

    def __init__(self) -> None:
        self.kept: list[Record] = []

    def records(self, limit: int) -> list[Record]:
        return self.kept[: -limit - 1 : -1]

    def get(self, record_id: str) -> Record | None:
        return next((record for record in self.kept if record.id == record_id), None)


class SmallTelemetry:
    """Real providers, nothing global."""

    def __init__(self, sampler: Sampler) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.recent_traces = Traces()
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)
        self.tracer: Tracer = self.tracer_provider.get_tracer("forge_otel")
        self.instruments = Points(self.meter_provider.get_meter("forge_otel"))
        self.prometheus = Page()


class SmallRuntime:
    """What `forge_otel.web.protocols.Runtime` asks for, and what it was seen to do."""

    def __init__(self, *, sampler: Sampler = ALWAYS_ON, fails_with: Exception | None = None, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.telemetry = SmallTelemetry(sampler)
        self.recent = Records()
        self.fails_with = fails_with
        self.is_ready = True
        self.mode = "auto"
        self.entered = 0
        self.events: list[str] = []
        self.figures: dict[str, Any] = {"generations": 0}
        self.report: dict[str, Any] = {"status": "pass", "checks": {}}

    async def __aenter__(self) -> Self:
        if self.fails_with is not None:
            raise self.fails_with
        self.entered += 1
        self.events.append("open")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.entered -= 1
        self.events.append("close")

    @property
    def operations(self) -> Self:
        return self

    def running(self) -> list[str]:
        return ["k"]

    async def follow_key(self, key: str, *, after: str = "", wait_s: float = 5.0) -> AsyncGenerator[Progress, None]:
        if key != "k":
            raise NotFound("no generation of this request is running")
        for number, kind in enumerate(("started", "done"), 1):
            if f"7-{number}" > after:
                yield Progress(id=f"7-{number}", kind=kind, at_s=number / 2, facts={"name": "a\nb"})

    def breakers(self) -> list[dict[str, Any]]:
        return [{"name": "openai", "mode": self.mode}]

    def set_breaker(self, name: str, mode: str) -> None:
        if name != "openai":
            raise NotFound("nothing guards it")
        self.mode = mode

    async def report(self, asked: Mapping[str, str]) -> tuple[str, str]:
        return json.dumps(dict(asked)), "application/json"

    async def purge(self, by: str, value: str, *, who: str, is_dry_run: bool = False) -> Mapping[str, Any]:
        return {"by": by, "value": value, "who": who, "is_dry_run": is_dry_run}

    async def summary(self) -> Mapping[str, Any]:
        return self.figures

    def health_report(self) -> Mapping[str, Any]:
        return self.report

    def ready(self) -> bool:
        return self.is_ready

    @property
    def spans(self) -> list[ReadableSpan]:
        """Every ended span."""
        return list(self.telemetry.exporter.get_finished_spans())

    @property
    def server_span(self) -> ReadableSpan:
        """The one server span; there must be exactly one."""
        servers = [span for span in self.spans if span.kind is SpanKind.SERVER]
        assert len(servers) == 1, [span.name for span in servers]
        return servers[0]

    def points(self, name: str) -> list[Any]:
        """The data points of an instrument, whoever recorded them."""
        data = self.telemetry.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    @property
    def duration(self) -> Any:
        """The one duration sample; there must be exactly one."""
        points = self.points(Metric.HTTP_DURATION.name)
        assert [point.count for point in points] == [1], points
        return points[0]

    @property
    def active(self) -> int:
        """Requests that the gauge still counts as in flight."""
        return sum(point.value for point in self.points(Metric.HTTP_ACTIVE.name))


@dataclass
class Exchange:
    """What came back."""

    sent: list[Message] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def status(self) -> int:
        return next(m["status"] for m in self.sent if m["type"].endswith("response.start"))

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == "http.response.body")

    @property
    def headers(self) -> dict[str, str]:
        start = next(m for m in self.sent if m["type"] == "http.response.start")
        return {name.decode(): value.decode() for name, value in start.get("headers", ())}


def scope_of(
    path: str = "/",
    *,
    kind: str = "http",
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    client: tuple[str, int] | None = ("192.0.2.7", 1234),
    **more: Any,
) -> Scope:
    """A scope as a server makes it; the path may carry a query."""
    plain, _, query = path.partition("?")
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"api.test:8000"), *((n.lower().encode(), v.encode("latin-1")) for n, v in headers)],
        "client": client,
        "server": ("127.0.0.1", 8000),
        **({"method": method} if kind == "http" else {"subprotocols": []}),
        **more,
    }


async def request(app: ASGIApp, path: str = "/", *, body: Iterable[bytes] = (b"",), **scope: Any) -> Exchange:
    """One HTTP request, its body in the given chunks, then silence until the response is complete."""
    chunks = list(body)
    exchange = Exchange()
    done = asyncio.Event()

    async def receive() -> Message:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        exchange.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            done.set()

    try:
        await app(scope_of(path, **scope), receive, send)
    except Exception as exc:
        exchange.error = exc
    return exchange


async def connect(app: ASGIApp, path: str, *incoming: Message, **scope: Any) -> Exchange:
    """One WebSocket connection that receives the given messages and is then closed by the peer."""
    waiting: list[Message] = [{"type": "websocket.connect"}, *incoming, {"type": "websocket.disconnect", "code": 1000}]
    exchange = Exchange()

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        exchange.sent.append(message)

    try:
        await app(scope_of(path, kind="websocket", **scope), receive, send)
    except Exception as exc:
        exchange.error = exc
    return exchange


class LifespanRun:
    """A server's side of the lifespan protocol."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.sent: list[Message] = []
        self.error: BaseException | None = None

    async def run(self) -> list[str]:
        """Start up, and shut down if the start succeeded; the types of what was sent."""
        waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Message:
            return waiting.pop(0)

        async def send(message: Message) -> None:
            self.sent.append(message)

        try:
            await self.app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        except Exception as exc:
            self.error = exc
        return [message["type"].removeprefix("lifespan.") for message in self.sent]
