"""FastAPI's own telemetry stays as it was: off where the application set no provider, on where it did.

Global providers can be set once in a process, so each case has a process of its own.
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
from tests.unit.web.support import LifespanRun, SmallRuntime, request
from forge_otel.web.middleware import ForgeMiddleware

runtime = SmallRuntime()

def set_globals():
    trace.set_tracer_provider(runtime.telemetry.tracer_provider)
    metrics.set_meter_provider(runtime.telemetry.meter_provider)

class Opening(SmallRuntime):
    async def __aenter__(self):
        if not self.entered:
            set_globals()
        return await super().__aenter__()

who, lifespan = sys.argv[1:]
if who == "application":
    set_globals()
else:
    runtime.__class__ = Opening
app = FastAPI()
app.add_middleware(ForgeMiddleware, forge=runtime)

@app.get("/items/{item}")
async def page(item: int) -> int:
    return item

async def main():
    if lifespan == "lifespan":
        await LifespanRun(app).run()
        await runtime.__aenter__()
    for item in (1, 2):
        await request(app, f"/items/{item}")

asyncio.run(main())
print(json.dumps({
    "spans": sorted(span.name for span in runtime.spans),
    "samples": sum(point.count for point in runtime.points("http.server.request.duration")),
    "active": runtime.active,
}))
"""


@pytest.mark.parametrize("lifespan", ["lifespan", "without"])
@pytest.mark.parametrize(("who", "is_native"), [("forge", False), ("application", True)])
async def test_global_providers(who: str, is_native: bool, lifespan: str) -> None:
    """Providers that the forge sets do not switch it on; with the application's own it goes on, and is adopted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, who, lifespan, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={"PYTHONPATH": "."}
    )
    output, _ = await process.communicate()
    found = json.loads(output)
    servers = [name for name in found["spans"] if not name.startswith("fastapi.")]
    assert servers == ["GET /items/{item}"] * 2
    assert (len(found["spans"]) > 2) is is_native
    assert (found["samples"], found["active"]) == (2, 0)
