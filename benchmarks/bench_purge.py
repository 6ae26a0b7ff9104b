"""Latency of purging a tag among 200,000 entries in a real Redis, and the memory overhead of an entry.

.venv/bin/python benchmarks/bench_purge.py
"""

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers.redis import RedisServer

from forge_otel.layers.exact.entry import seal
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.stores.redis.store import open_url
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import GenerationResult, Reply

ENTRIES = 200_000
BOUND_MS = 1.0


async def run(url: str) -> dict[str, object]:
    """Fill Redis, measure its memory, and purge."""
    async with open_url(url, max_bytes=0) as store, Redis.from_url(url) as client:
        before = (await client.info("memory"))["used_memory"]
        blob = seal(
            Reply(result=GenerationResult(code="x")), key="k", tag_versions={"all": "e"}, created_ms=1, secret=b"s"
        )
        for start in range(0, ENTRIES, 5000):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, start + 5000):
                pipeline.set(f"forge:l1:{number:064x}", blob)
            await pipeline.execute()
        after = (await client.info("memory"))["used_memory"]
        exact = ExactCacheLayer(store, ExactCacheOptions(secret=b"s"), instruments=Instruments())
        calls_before = (await client.info("stats"))["total_commands_processed"]
        taken = []
        for number in range(200):
            started = time.perf_counter()
            await exact.invalidate(f"figma:{number}")
            taken.append((time.perf_counter() - started) * 1000)
        commands = (await client.info("stats"))["total_commands_processed"] - calls_before - 1
    p50 = statistics.median(taken)
    return {
        "entries": ENTRIES,
        "purge_ms_p50": round(p50, 3),
        "commands_per_purge": commands / 200,
        "bytes_per_idle_entry": round((after - before) / ENTRIES - len(blob)),
        "holds": p50 <= BOUND_MS and commands == 200,
    }


if __name__ == "__main__":
    with RedisServer() as server:
        print(json.dumps(asyncio.run(run(server.url)), indent=2))
