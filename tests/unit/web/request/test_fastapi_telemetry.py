"""FastAPI's own telemetry stays off without providers of the application, and on with them.

Global providers can be set only once per process, so each case runs in its own process.
"""

import asyncio
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

PROGRAM = """
import asyncio, json, sys
from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.unit.web.support import points_of, request
from forge_otel import Forge, ForgeMiddleware, Settings
from forge_otel.telemetry.providers import Telemetry

owner, lifespan = sys.argv[1:]
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
settings = Settings(archive_url=None, database_url=None, outbox_dir=None)
if owner == "application":
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    telemetry = Telemetry(settings)
else:
    telemetry = Telemetry(settings, span_processors=[SimpleSpanProcessor(exporter)], metric_readers=[reader])
forge = Forge(settings, telemetry=telemetry)
app = FastAPI()
app.add_middleware(ForgeMiddleware, forge=forge)

@app.get("/items/{item}")
async def page(item: int) -> int:
    return item

async def serve():
    for item in (1, 2):
        await request(app, f"/items/{item}")
    print(json.dumps({
        "spans": sorted(span.name for span in exporter.get_finished_spans()),
        "samples": sum(point.count for point in points_of(reader, "http.server.request.duration")),
        "active": sum(point.value for point in points_of(reader, "http.server.active_requests")),
    }))

async def main():
    if lifespan == "without":
        await serve()
        await forge.__aexit__(None, None, None)
        return
    received, sent = asyncio.Queue(), asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(app(scope, received.get, sent.put))
    received.put_nowait({"type": "lifespan.startup"})
    await sent.get()
    await serve()
    received.put_nowait({"type": "lifespan.shutdown"})
    await running

asyncio.run(main())
"""


@pytest.mark.parametrize("lifespan", ["lifespan", "without"])
@pytest.mark.parametrize(("owner", "is_native"), [("forge", False), ("application", True)])
async def test_global_providers(owner: str, is_native: bool, lifespan: str) -> None:
    """The forge's providers do not switch it on; with the application's providers it is on, and its span is adopted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        owner,
        lifespan,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": "."},
    )
    output, _ = await process.communicate()
    found = json.loads(output)
    servers = [name for name in found["spans"] if not name.startswith("fastapi.")]
    assert servers == ["GET /items/{item}"] * 2
    assert (len(found["spans"]) > 2) is is_native
    assert (found["samples"], found["active"]) == (2, 0)
