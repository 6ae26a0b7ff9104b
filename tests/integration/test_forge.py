"""The runtime on real Redis and PostgreSQL, shared by several forges as by several workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import text
from tests.servers import RedisServer

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
from forge_otel.telemetry.providers import Telemetry


@asynccontextmanager
async def _forges(folder: Path, count: int, **changes: Any) -> AsyncIterator[list[Forge]]:
    """Yield open forges that share servers and folders."""
    settings = Settings(
        **{"archive_url": f"file://{folder}/artifacts", "outbox_dir": f"{folder}/outbox", "database_url": None}
        | changes
    )
    async with AsyncExitStack() as stack:
        forges = []
        for _ in range(count):
            tracers, meters = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
            telemetry = Telemetry(settings, tracer_provider=tracers, meter_provider=meters)
            forges.append(await stack.enter_async_context(Forge(settings, telemetry=telemetry)))
        yield forges


async def _generate(forge: Forge, **changes: Any) -> GenerationResult:
    async def run() -> GenerationResult:
        forge.record_usage(1000, 100, model="m", provider="p", cost_usd=Decimal("0.42"))
        return GenerationResult(code="code", artifacts={"component.tsx": "code", "shot.png": b"\x00\xff"})

    request = GenerationRequest(**{"component_type": "button", "figma_key": "f"} | changes)
    return await forge.generate(request, run, pipeline="p")


async def test_workers_share_answers_and_rows(tmp_path: Path, fresh_redis: str, postgres_database: str) -> None:
    """A second worker answers from Redis, and PostgreSQL has each generation once."""
    async with _forges(tmp_path, 2, cache_url=fresh_redis, database_url=postgres_database) as (one, other):
        first, second = await _generate(one), await _generate(other)
        assert (first.source, second.source, second.saved_usd) == ("L4", "L1", Decimal("0.42"))
        assert second.artifacts == first.artifacts
        assert await one.outbox.drain(timeout_s=20)
        assert await other.outbox.drain(timeout_s=20)
        async with one.components.database.engine.connect() as database:
            rows = (await database.execute(text("SELECT id, source FROM generations ORDER BY id"))).all()
        figures = await other.operations.summary()
    assert [tuple(row) for row in rows] == [(first.generation_id, "L4"), (second.generation_id, "L1")]
    assert (figures["cost_usd"], figures["saved_usd"]) == ("0.42", "0.42")


async def test_another_secret_shares_nothing(tmp_path: Path, fresh_redis: str) -> None:
    """An entry with another secret is a miss with the reason `corrupt`."""
    async with _forges(tmp_path, 1, cache_url=fresh_redis, cache_secret="a" * 16) as (one,):
        await _generate(one)
    async with _forges(tmp_path, 1, cache_url=fresh_redis, cache_secret="b" * 16) as (other,):
        assert (await _generate(other)).source == "L4"
        assert await other.outbox.drain(timeout_s=10)
        assert other.recent.records()[0].misses["L1"] == "corrupt"


@pytest.mark.parametrize("fault", ["stop", "pause"], ids=["refused", "silent"])
async def test_an_outage_of_redis_costs_only_the_cache(tmp_path: Path, redis_server: RedisServer, fault: str) -> None:
    """Every caller is answered, records name the fallback, and Redis is used again after it recovers."""
    async with _forges(tmp_path, 1, cache_url=redis_server.url) as (forge,):
        await _generate(forge)
        assert (await _generate(forge)).source == "L1"
        redis_server.pause() if fault == "pause" else redis_server.kill()
        answers = [await _generate(forge) for _ in range(20)]
        assert {answer.source for answer in answers} == {"L4"}
        assert await forge.outbox.drain(timeout_s=10)
        record = forge.recent.records()[0]
        assert (record.degraded, record.misses["L1"]) == (("redis:uncached",), "backend_down")
        assert {guard.name: guard.state for guard in forge.guards.states()}["redis"] == "open"
        assert [incident["service"] for incident in (await forge.operations.summary())["incidents"]] == ["redis"]
        assert forge.operations.health_report()["status"] == "warn"
        redis_server.resume() if fault == "pause" else redis_server.start()
        forge.guards.get("redis").admission.reset()
        await _generate(forge)
        async with asyncio.timeout(10):
            while (await _generate(forge)).source != "L1":
                await asyncio.sleep(0.05)
