"""Single flight over a faulty Redis: callers get answers, and the coordination recovers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis
from tests.servers import RedisServer

from componentforge.serving import serve
from forge_otel import Forge, ForgeMiddleware, GenerationRequest, GenerationResult, Settings, record_usage
from forge_otel.testing.faults.kinds import Fault, Refuse, Reset, Silent, Slow
from forge_otel.testing.faults.proxy import FaultProxy

LOCAL_ONLY: dict[str, Any] = {"archive_url": None, "database_url": None, "outbox_dir": None, "trace_spool_dir": None}
CALLERS = 200
KEYS = 500


class Pipeline:
    """A pipeline on a forge that counts its runs."""

    def __init__(self, forge: Forge, *, run_s: float = 0.1) -> None:
        self.runs = 0

        @forge.generation(name="generate")
        async def generate(request: GenerationRequest) -> GenerationResult:
            self.runs += 1
            record_usage(1000, 500, model="gpt-4o", cost_usd=Decimal("0.42"))
            await asyncio.sleep(run_s)
            return GenerationResult(code=f"run {self.runs}")

        self.ask = generate


def _request(number: int = 0) -> GenerationRequest:
    return GenerationRequest(component_type="button", figma_key="f", tokens={"n": number})


@asynccontextmanager
async def _through_proxy(server: RedisServer) -> AsyncIterator[tuple[FaultProxy, Forge]]:
    async with (
        FaultProxy("127.0.0.1", server.port) as proxy,
        Forge(Settings(cache_url=f"redis://127.0.0.1:{proxy.port}/0", **LOCAL_ONLY)) as forge,
    ):
        yield proxy, forge


async def _ask_concurrently(pipeline: Pipeline, number: int) -> list[str]:
    results = await asyncio.gather(*(pipeline.ask(_request(number)) for _ in range(CALLERS)))
    return sorted(result.source for result in results)


@pytest.mark.parametrize(
    "fault", [Refuse(), Reset(), Silent(), Slow(answer_s=0.5), Slow(answer_s=0.04)], ids=lambda fault: repr(fault)[:24]
)
async def test_no_fault_of_redis_reaches_a_caller(shared_redis: RedisServer, fault: Fault) -> None:
    """200 concurrent callers, three times: one run each time, no error."""
    shared_redis.flush()
    async with _through_proxy(shared_redis) as (proxy, forge):
        pipeline = Pipeline(forge)
        async with proxy.fault(fault):
            for number in range(3):
                assert await _ask_concurrently(pipeline, number) == ["L4", *["collapsed"] * (CALLERS - 1)]
        assert pipeline.runs == 3


async def test_a_full_redis_does_not_fail_a_call(redis_server: RedisServer) -> None:
    """Lease and entry are refused (OOM); the answer is returned."""
    async with Redis.from_url(redis_server.url) as client:
        await client.config_set("maxmemory", 1)
    async with Forge(Settings(cache_url=redis_server.url, **LOCAL_ONLY)) as forge:
        pipeline = Pipeline(forge)
        assert await _ask_concurrently(pipeline, 0) == ["L4", *["collapsed"] * (CALLERS - 1)]
        assert pipeline.runs == 1


async def test_many_callers_on_cold_connections_do_not_open_the_breaker(fresh_redis: str) -> None:
    """200 callers open few connections."""
    async with Forge(Settings(cache_url=fresh_redis, **LOCAL_ONLY)) as forge, Redis.from_url(fresh_redis) as client:
        pipeline = Pipeline(forge)
        assert await _ask_concurrently(pipeline, 0) == ["L4", *["collapsed"] * (CALLERS - 1)]
        assert {guard["name"]: guard["state"] for guard in forge.operations.breakers()} == {
            "redis": "closed",
            "redis:flights": "closed",
        }
        assert await client.keys("forge:l1:*")
        # Including the connection of this test and the one that listens for wake-ups.
        assert len(await client.client_list()) <= 35
        assert (await pipeline.ask(_request())).source == "L1"


async def test_many_cold_keys_do_not_open_the_breaker(fresh_redis: str) -> None:
    """Queueing among 500 keys does not count as latency of Redis, and every answer is stored."""
    async with Forge(Settings(cache_url=fresh_redis, **LOCAL_ONLY)) as forge, Redis.from_url(fresh_redis) as client:
        pipeline = Pipeline(forge)
        results = await asyncio.gather(*(pipeline.ask(_request(number)) for number in range(KEYS)))
        assert [result.source for result in results] == ["L4"] * KEYS
        # Callers are answered before their entries are written.
        async with asyncio.timeout(60):
            while len(await client.keys("forge:l1:*")) < KEYS:
                await asyncio.sleep(0.05)
        redis, flights = [guard for guard in forge.operations.breakers() if guard["name"].startswith("redis")]
        assert [redis["state"], flights["state"]] == ["closed"] * 2
        assert (redis["failures"], redis["slow"]) == (0, 0)


@pytest.mark.parametrize("fault", [Refuse(), Silent(), Slow(answer_s=0.5)], ids=lambda fault: repr(fault)[:24])
async def test_a_call_waits_for_a_failing_redis_once(shared_redis: RedisServer, fault: Fault) -> None:
    """Not again for the lease, the history and the write; and not at all once the breaker is open."""
    shared_redis.flush()
    async with _through_proxy(shared_redis) as (proxy, forge):
        # Short runs: all calls have to fit into the 2 s for which the breaker of a cache stays open.
        pipeline = Pipeline(forge, run_s=0.01)
        await pipeline.ask(_request())
        # Background writes have ended.
        while any(guard["in_flight"] for guard in forge.operations.breakers()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        before = {guard["name"]: guard for guard in forge.operations.breakers()}
        async with proxy.fault(fault):
            for number in range(1, 20):
                assert (await pipeline.ask(_request(number))).source == "L4"
            after = {guard["name"]: guard for guard in forge.operations.breakers()}
        assert after["redis"]["state"] == "open"
        assert after["redis"]["failures"] - before["redis"]["failures"] == 5
        assert after["redis:flights"]["failures"] == before["redis:flights"]["failures"]


async def test_a_run_continues_when_redis_fails_during_it(shared_redis: RedisServer) -> None:
    """Earlier and later callers get its answer; the failed write does not reach them."""
    shared_redis.flush()
    async with _through_proxy(shared_redis) as (proxy, forge):
        pipeline = Pipeline(forge, run_s=0.3)
        early = [asyncio.create_task(pipeline.ask(_request())) for _ in range(20)]
        while not pipeline.runs:
            await asyncio.sleep(0.01)
        async with proxy.fault(Silent()):
            late = [asyncio.create_task(pipeline.ask(_request())) for _ in range(20)]
            results = await asyncio.gather(*early, *late)
        assert sorted(result.source for result in results) == [*["L4"], *["collapsed"] * 39]
        assert pipeline.runs == 1


async def test_a_failed_release_is_retried_until_redis_is_back(shared_redis: RedisServer) -> None:
    """Otherwise the next caller would wait until the lease expires."""
    shared_redis.flush()
    async with _through_proxy(shared_redis) as (proxy, forge), Redis.from_url(shared_redis.url) as client:
        pipeline = Pipeline(forge)
        call = asyncio.create_task(pipeline.ask(_request()))
        while not pipeline.runs:
            await asyncio.sleep(0.01)
        async with proxy.fault(Refuse()):
            await call
            assert await client.keys("forge:flight:lease:*")
        # Half of the lease's TTL.
        async with asyncio.timeout(7.5):
            while await client.keys("forge:flight:lease:*"):
                await asyncio.sleep(0.05)


async def test_the_first_client_disconnects_and_the_others_are_answered(fresh_redis: str) -> None:
    """Over HTTP: the answer is shared, cached and paid for in one record."""
    async with Forge(Settings(cache_url=fresh_redis, **LOCAL_ONLY)) as forge:
        pipeline = Pipeline(forge, run_s=0.6)
        app = FastAPI()
        app.add_middleware(ForgeMiddleware, forge=forge)

        @app.get("/generate")
        async def generate() -> dict[str, str]:
            # Like a framework that cancels the handler when its client disconnects.
            result = await asyncio.wait_for(pipeline.ask(_request()), timeout=None if pipeline.runs else 0.2)
            return {"code": result.code, "source": result.source, "saved": str(result.saved_usd)}

        async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
            first = asyncio.create_task(http.get("/generate"))
            while not pipeline.runs:
                await asyncio.sleep(0.01)
            others = [asyncio.create_task(http.get("/generate")) for _ in range(5)]
            await asyncio.gather(first, return_exceptions=True)
            answers = await asyncio.gather(*others)
            assert {tuple(answer.json().values()) for answer in answers} == {("run 1", "collapsed", "0.42")}
            assert {answer.headers["cache-status"] for answer in answers} == {"forge; fwd=miss; collapsed"}
            assert (await http.get("/generate")).json()["source"] == "L1"
        records = forge.recent.records(20)
    assert pipeline.runs == 1
    assert sorted(record.outcome for record in records) == ["cancelled", *["ok"] * 7]
    assert sum(record.cost_usd for record in records) == Decimal("0.42")
    (paid,) = [record for record in records if record.cost_usd]
    assert (paid.source, {record.origin_id for record in records if record.source == "collapsed"}) == ("L4", {paid.id})
