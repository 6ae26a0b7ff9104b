"""A Forge with in-memory telemetry, and callers that speak raw ASGI, so that a test sees every message."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_otel import Forge, Settings
from forge_otel.names import Metric
from forge_otel.telemetry.providers import Telemetry
from forge_otel.web.middleware import ForgeMiddleware

TOKEN = "a-token-of-the-tests"


class InMemoryForge(Forge):
    """A Forge that records telemetry in memory and opens nothing else.

    Args:
        sampler: decides which spans are recorded.
        open_error: raised when the forge is opened.
        settings: fields of `Settings`.
    """

    def __init__(self, *, sampler: Sampler = ALWAYS_ON, open_error: Exception | None = None, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meter_provider = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)
        chosen = Settings(archive_url=None, database_url=None, **settings)
        telemetry = Telemetry(chosen, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider)
        super().__init__(chosen, telemetry=telemetry)
        self.open_error = open_error
        self.entered = 0
        self.events: list[str] = []

    async def __aenter__(self) -> Self:
        if self.open_error is not None:
            raise self.open_error
        self.telemetry.start()
        self.is_open = True
        self.entered += 1
        self.events.append("open")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.entered -= 1
        self.is_open = self.entered > 0
        self.events.append("close")

    @property
    def spans(self) -> list[ReadableSpan]:
        """Every ended span."""
        return list(self.exporter.get_finished_spans())

    @property
    def server_span(self) -> ReadableSpan:
        """The one server span; there must be exactly one."""
        servers = [span for span in self.spans if span.kind is SpanKind.SERVER]
        assert len(servers) == 1, [span.name for span in servers]
        return servers[0]

    def points(self, name: str) -> list[Any]:
        """The data points of an instrument, from every scope."""
        return points_of(self.reader, name)

    @property
    def duration(self) -> Any:
        """The one duration sample; there must be exactly one."""
        points = self.points(Metric.HTTP_DURATION.name)
        assert [point.count for point in points] == [1], points
        return points[0]

    @property
    def active(self) -> int:
        """Requests that the gauge counts as in flight."""
        return sum(point.value for point in self.points(Metric.HTTP_ACTIVE.name))


def points_of(reader: InMemoryMetricReader, name: str) -> list[Any]:
    """The data points of an instrument, from every scope."""
    data = reader.get_metrics_data()
    return [
        point
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


@dataclass
class Exchange:
    """The messages that an application sent, and the exception that it raised."""

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
    """An ASGI scope; the path may have a query."""
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
    """Send one HTTP request with a body in chunks, and disconnect once the response is complete."""
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
    """Open one WebSocket connection, send the messages and close it."""
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
    """The server's side of the lifespan protocol."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.sent: list[Message] = []
        self.error: BaseException | None = None

    async def run(self) -> list[str]:
        """Start up and, if that succeeded, shut down; return the types of the messages sent."""
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


async def application_not_called(scope: Scope, receive: Receive, send: Send) -> None:
    """An application for tests of the middleware's own pages; it fails if a request reaches it."""
    raise AssertionError(f"the application was called: {scope['path']}")


def problem(exchange: Exchange) -> dict[str, Any]:
    """Return the body of a problem+json response."""
    assert exchange.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(exchange.body)
    assert found["status"] == exchange.status
    return found


def serving(page: Any, forge: InMemoryForge, *, middleware: Any = (), **options: Any) -> ASGIApp:
    """Return a Starlette application with `page` at `/`, behind the middleware."""
    app = Starlette(routes=[Route("/", page, methods=["GET", "POST"])], middleware=list(middleware))
    app.add_middleware(ForgeMiddleware, forge=forge, **options)
    return app


async def plain(_request: Request) -> Response:
    """A page for `serving`."""
    return PlainTextResponse("hello")
