"""A cache is used again within a second of its recovery."""

import asyncio
import time
from decimal import Decimal

import pytest
from tests.servers import RedisServer

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings

AWAY_S = 3.0


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_a_known_component_is_served_again_soon_after_an_outage(redis_server: RedisServer, fault: str) -> None:
    """An outage of 3 s under load; with an open time of a minute it took 55 s."""
    settings = Settings(cache_url=redis_server.url, archive_url=None, database_url=None, outbox_dir=None)
    request = GenerationRequest(component_type="button", figma_key="k", tokens={}, requirements={"text": "a"})
    executions = 0

    async def run() -> GenerationResult:
        nonlocal executions
        executions += 1
        await asyncio.sleep(0.02)
        return GenerationResult(code="<a/>", cost_usd=Decimal("0.42"))

    async with Forge(settings) as forge:

        async def until_cached() -> None:
            while (await forge.generate(request, run, pipeline="p")).source != "L1":
                await asyncio.sleep(0.02)

        await asyncio.wait_for(until_cached(), 10)
        known = executions
        await asyncio.to_thread(redis_server.kill if fault == "killed" else redis_server.pause)
        until_s = time.monotonic() + AWAY_S
        while time.monotonic() < until_s:
            await forge.generate(request, run, pipeline="p")
            await asyncio.sleep(0.02)
        outage = executions - known
        await asyncio.to_thread(redis_server.start if fault == "killed" else redis_server.resume)
        started_s = time.monotonic()
        await asyncio.wait_for(until_cached(), 30)
        took_s = time.monotonic() - started_s
        assert took_s < 3
        assert executions - known - outage < 60
