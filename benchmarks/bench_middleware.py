"""What does the middleware add to a request, beside the stack that people install for the same purpose?

The peer is FastAPIInstrumentor with its defaults plus prometheus-fastapi-instrumentator: a server span, RED metrics,
and its own metrics page. Ours is ForgeMiddleware on an open Forge: server span, RED metrics, identity, response
headers, recent traces. Both have the same sampler and a span processor that counts. Requests are ASGI calls in this
process, so that no socket is measured; the application is FastAPI.

Our samples wait for the next collection, so there is a scrape after each round, and ``ratio_with_scrape`` adds what all
scrapes took to both sides.

Rounds are interleaved, so that a slow moment hits all contenders; a ratio is the median of the rounds' ratios of added
CPU time. Each contender must prove that its server spans and its samples arrived.

``pip install prometheus-fastapi-instrumentator`` brings the missing peer; without it, the peer is FastAPIInstrumentor
with metrics alone, which is an easier stack to carry and so a harder one to beat.
"""

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from forge_otel import Forge, ForgeMiddleware, Settings
from forge_otel.telemetry.providers import Telemetry

try:
    from prometheus_fastapi_instrumentator import Instrumentator
except ImportError:
    Instrumentator = None

# name: path, status; "filler" routes stand before the page that is asked for.
CASES = {"json": "/json", "path": "/items/42", "404": "/none/such", "stream": "/stream"}
HEADERS = [
    (b"host", b"api.example.org"),
    (b"user-agent", b"bench/1"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]
BOUNDS = {"json": 0.35, "path": 0.35, "404": 0.35, "stream": 0.25, "sampled out": 0.2, "200 routes": 0.35}


class Counting(SpanProcessor):
    """Stands in for an exporter, at no cost worth measuring."""

    def __init__(self) -> None:
        self.servers = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Count server spans."""
        self.servers += span.kind is SpanKind.SERVER


@dataclass
class Side:
    """One contender: an application, and what it has to show for its work."""

    app: Callable[..., Awaitable[None]]
    spans: Counting = field(default_factory=Counting)
    samples: Callable[[], Awaitable[int]] | None = None
    asked: int = 0


def application(routes: int) -> FastAPI:
    """The work itself; its telemetry is off, as it is without providers."""
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
    for number in range(routes):
        app.get(f"/filler/{number}/{{x}}")(lambda x: x)

    @app.get("/json")
    async def page() -> dict[str, str]:
        return {"hello": "world"}

    @app.get("/items/{item}")
    async def item(item: int) -> dict[str, int]:
        return {"item": item}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 100

        return StreamingResponse(chunks())

    return app


def bare(routes: int, _sampler: Sampler) -> Side:
    """Nothing but the application."""
    return Side(application(routes))


def typical(routes: int, sampler: Sampler) -> Side:
    """The usual two packages with their defaults."""
    app = application(routes)
    side = Side(app)
    tracers, reader = _tracers(side, sampler), InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    if Instrumentator is not None:
        registry = CollectorRegistry()
        Instrumentator(registry=registry).instrument(app)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=tracers, meter_provider=meters)

    async def samples() -> int:
        data = reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return sum(p.count for m in metrics if m.name == "http.server.duration" for p in m.data.data_points)

    side.samples = samples
    return side


async def ours(routes: int, sampler: Sampler, stack: AsyncExitStack) -> Side:
    """One line."""
    app = application(routes)
    side = Side(app)
    settings = Settings(database_url=None, archive_url=None, outbox_dir=None)
    meters = MeterProvider(shutdown_on_exit=False)
    telemetry = Telemetry(settings, tracer_provider=_tracers(side, sampler), meter_provider=meters)
    forge = await stack.enter_async_context(Forge(settings, telemetry=telemetry))
    app.add_middleware(ForgeMiddleware, forge=forge)

    async def samples() -> int:
        page, _ = await forge.telemetry.prometheus.render()
        found = [sample for family in text_string_to_metric_families(page.decode()) for sample in family.samples]
        return sum(int(s.value) for s in found if s.name == "http_server_request_duration_seconds_count")

    side.samples = samples
    return side


def _tracers(side: Side, sampler: Sampler) -> TracerProvider:
    tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    tracers.add_span_processor(side.spans)
    return tracers


async def ask(side: Side, path: str, calls: int) -> float:
    """Return the CPU time of one request in microseconds."""

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    statuses: list[int | None] = []
    waiting: list[dict[str, Any]] = []
    started = time.process_time()
    for _ in range(calls):
        waiting[:] = [{"type": "http.request", "body": b"", "more_body": False}]
        statuses.clear()
        await side.app(_scope(path), receive, send)
        if statuses[0] != (404 if path == CASES["404"] else 200):
            raise SystemExit(f"{path} was answered with {statuses[0]}")
    side.asked += calls
    return (time.process_time() - started) / calls * 1e6


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": HEADERS,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


async def compare(case: str, path: str, *, rounds: int, calls: int, routes: int, sampler: Sampler) -> dict[str, Any]:
    """Run one case and return what each contender adds, and the median ratio."""
    async with AsyncExitStack() as stack:
        sides = {
            "bare": bare(routes, sampler),
            "typical": typical(routes, sampler),
            "ours": await ours(routes, sampler, stack),
        }
        for side in sides.values():
            await ask(side, path, calls // 4)
        taken: dict[str, list[float]] = {name: [] for name in sides}
        scrapes: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                gc.collect()
                taken[name].append(await ask(side, path, calls))
                scrapes[name].append(await scrape(case, name, side, calls, sampler))
    return {"bound": BOUNDS[case], **figures(taken, scrapes)}


async def scrape(case: str, name: str, side: Side, calls: int, sampler: Sampler) -> float:
    """Return the CPU time of reading the metrics in microseconds, for each request before; check that all are there."""
    if side.samples is None:
        return 0.0
    started = time.process_time()
    samples = await side.samples()
    taken_us = (time.process_time() - started) / calls * 1e6
    spans = side.asked if sampler is ALWAYS_ON else 0
    if (side.spans.servers, samples) != (spans, side.asked):
        raise SystemExit(f"{name} did not do its work in {case}: {side.spans.servers} spans, {samples} samples")
    return taken_us


def figures(taken: dict[str, list[float]], scrapes: dict[str, list[float]]) -> dict[str, float]:
    """Return medians of the added cost, and medians of the ratios within a round."""
    added = {
        name: [value - base for value, base in zip(taken[name], taken["bare"], strict=True)]
        for name in ("typical", "ours")
    }
    whole = {name: [one + other for one, other in zip(added[name], scrapes[name], strict=True)] for name in added}

    def ratio(side: dict[str, list[float]]) -> float:
        return round(statistics.median(a / b for a, b in zip(side["ours"], side["typical"], strict=True)), 3)

    return {
        "bare_us": round(statistics.median(taken["bare"]), 1),
        "typical_added_us": round(statistics.median(added["typical"]), 1),
        "ours_added_us": round(statistics.median(added["ours"]), 1),
        "ratio": ratio(added),
        "ratio_with_scrape": ratio(whole),
    }


async def measure(rounds: int, calls: int) -> dict[str, Any]:
    """Run all cases."""
    found: dict[str, Any] = {"peer": "typical" if Instrumentator is not None else "FastAPIInstrumentor alone"}
    runs = [(case, path, 0, ALWAYS_ON) for case, path in CASES.items()]
    runs += [("sampled out", CASES["json"], 0, ALWAYS_OFF), ("200 routes", CASES["path"], 200, ALWAYS_ON)]
    for case, path, routes, sampler in runs:
        found[case] = await compare(case, path, rounds=rounds, calls=calls, routes=routes, sampler=sampler)
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=300, help="requests of each contender in a round")
    options = parser.parse_args()
    found = asyncio.run(measure(options.rounds, options.calls))
    if options.json:
        print(json.dumps(found))
        return
    print(f"peer: {found.pop('peer')}")
    for case, figures in found.items():
        print(
            f"{case:<12} bare {figures['bare_us']:7.1f} µs   peer +{figures['typical_added_us']:7.1f} µs"
            f"   ours +{figures['ours_added_us']:6.1f} µs   ratio {figures['ratio']:.3f}"
            f", with scrape {figures['ratio_with_scrape']:.3f} (bound {figures['bound']})"
        )


if __name__ == "__main__":
    main()
