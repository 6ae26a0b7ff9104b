"""A service whose traces the collector carries: `uvicorn tests.integration.collector_app:app`."""

from decimal import Decimal

from fastapi import FastAPI

from forge_otel import Forge, ForgeMiddleware, Settings, agent, record_usage, span

__all__ = ["NUMBER", "app"]

NUMBER = "work.number"

app = FastAPI()
settings = Settings(database_url=None, archive_url=None, outbox_dir=None, trace_spool_dir="spool")
app.add_middleware(ForgeMiddleware, forge=Forge(settings))


@agent("worker")
async def work(first: int, count: int) -> int:
    """End as many spans as are asked for, each with a number of its own."""
    for number in range(first, first + count):
        with span("stitch", kind="tool", attributes={NUMBER: number}):
            pass
    return count


@agent("writer")
async def write() -> str:
    """Be a model call that no instrumentation sees."""
    with span("chat", kind="llm"):
        record_usage(1_200, 340, model="gpt-4o", provider="openai", cost_usd=Decimal("0.0064"))
    return "written"


@app.post("/work")
async def stitch(first: int, count: int) -> int:
    """Work."""
    return await work(first, count)


@app.post("/write")
async def ask() -> str:
    """Write."""
    return await write()
