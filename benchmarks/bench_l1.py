"""Latency of an L1 hit from a real Redis, compared with redis-py's GET and orjson alone.

    .venv/bin/python benchmarks/bench_l1.py [--json] [--url redis://127.0.0.1:6379/0]

The hit includes authentication, the comparison of tag versions, metrics, and the guard that a Forge puts around Redis.
Without ``--url`` a server is started for the run.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redis.asyncio import Redis

from forge_otel.keys import generation_key
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.resilience.guard import Guards
from forge_otel.stores.redis.store import open_url
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BOUND = 1.3
SIZES = {"2 kB": 2_000, "50 kB": 50_000}


async def never() -> GenerationResult:
    """Fail, because a hit must not run the pipeline."""
    raise SystemExit("the pipeline was run")


async def microseconds(work: Callable[[], Awaitable[Any]], count: int) -> float:
    """Return the median time of one call in microseconds."""
    taken = []
    for _ in range(count):
        started = time.perf_counter_ns()
        await work()
        taken.append(time.perf_counter_ns() - started)
    return statistics.median(taken) / 1000


async def measure(url: str, size_bytes: int, *, rounds: int, count: int) -> dict[str, float]:
    """Return the medians of all rounds, measured alternately."""
    code = ("export const Button = () => <button className='x'>" * (size_bytes // 50 + 1))[:size_bytes]
    request = GenerationRequest(component_type="button", figma_key=f"f{size_bytes}", tenant="t")
    key = generation_key(request, pipeline="p", version="1")
    call = Call(request=request, pipeline="p", key=key, component_id="c", run=never)
    instruments = Instruments(MeterProvider([InMemoryMetricReader()]).get_meter("bench"))
    async with open_url(url, max_bytes=0) as store, Redis.from_url(url) as client:
        guards = Guards()
        options = ExactCacheOptions(secret=b"secret", pipeline_version="1", time_budget_s=0.05)
        exact = ExactCacheLayer(
            store, options, instruments=instruments, guard=guards.get("redis").call, loop_lag=guards.loop_lag
        )

        async def answer(_call: Call) -> Reply:
            return Reply(result=GenerationResult(code=code), cost_usd=Decimal("0.42"), origin_id="g")

        async def ask(_call: Call) -> Reply:
            raise SystemExit("L1 did not answer")

        async def bare() -> Any:
            return orjson.loads(await client.get("bench:bare"))

        async def hit() -> Any:
            return await exact(call, ask)

        await exact(call, answer)
        await client.set("bench:bare", orjson.dumps({"code": code, "cost_usd": "0.42", "origin_id": "g"}))
        if (await hit()).result.code != code or (await bare())["code"] != code:
            raise SystemExit("an answer is not what was stored")
        return await in_turn({"bare GET + orjson": bare, "L1 hit": hit}, rounds=rounds, count=count)


async def in_turn(works: dict[str, Callable[[], Awaitable[Any]]], *, rounds: int, count: int) -> dict[str, float]:
    """Return the median of each contender; the first round is a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in works}
    gc.disable()
    for number in range(rounds + 1):
        for name, work in works.items():
            taken = await microseconds(work, count)
            if number:
                found[name].append(taken)
    gc.enable()
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


async def run(url: str, *, rounds: int, count: int) -> dict[str, Any]:
    """Measure all sizes."""
    us = {name: await measure(url, size, rounds=rounds, count=count) for name, size in SIZES.items()}
    ratio = {name: round(taken["L1 hit"] / taken["bare GET + orjson"], 3) for name, taken in us.items()}
    return {"us": us, "ratio": ratio, "holds": {name: value <= BOUND for name, value in ratio.items()}}


def from_command_line(about: str, run: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    """Measure on the given Redis or on one started for the run, and print."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--url", help="an empty Redis")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()

    async def measured(url: str) -> dict[str, Any]:
        return await run(url, rounds=options.rounds, count=options.count)

    if options.url:
        found = asyncio.run(measured(options.url))
    else:
        from tests.servers.redis import RedisServer

        with RedisServer() as server:
            found = asyncio.run(measured(server.url))
    print(json.dumps(found, indent=2) if options.json else found)


if __name__ == "__main__":
    from_command_line(__doc__, run)
