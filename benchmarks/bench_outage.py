"""Latency that a failing Redis adds to a call, before and after its breaker opens.

    .venv/bin/python benchmarks/bench_outage.py [--json] [--rounds 10] [--only silent]

A real Redis is behind a fault proxy. *Cold* calls request a new component each, *known* calls a cached one; in
*in-flight* calls the fault begins while the pipeline runs, so that it affects the write. Each round begins with closed
breakers. The output is the 99th percentile, in milliseconds, of the latency above the median of the same call with a
healthy Redis. If a fault does not open the breaker, all calls count as *before*.
"""

import argparse
import asyncio
import gc
import itertools
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
from forge_otel.testing.faults.proxy import FaultProxy, Refuse, Silent, Slow

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BOUND_BEFORE_MS, BOUND_AFTER_MS = 60.0, 1.0
RUN_S = 0.02
AT_ONCE = 4
CALLS = 20
GUARDS = ("redis", "redis:flights")

Break = Callable[["Site"], AbstractAsyncContextManager[Any]]


class Site:
    """A forge with its Redis behind a proxy, and a pipeline."""

    def __init__(self, forge: Forge, proxy: FaultProxy, server: Any) -> None:
        self.forge, self.proxy, self.server = forge, proxy, server
        self.numbers = itertools.count()
        self.running = asyncio.Event()

        @forge.generation(name="generate")
        async def generate(request: GenerationRequest) -> GenerationResult:
            self.running.set()
            await asyncio.sleep(RUN_S)
            return GenerationResult(code="x" * 2_000)

        self._generate = generate

    async def call_ms(self, number: int) -> float:
        """Return the latency of one call in milliseconds."""
        request = GenerationRequest(component_type="button", figma_key="f", tokens={"n": number})
        started = time.perf_counter()
        await self._generate(request)
        return (time.perf_counter() - started) * 1000

    @property
    def is_open(self) -> bool:
        """Return whether the breaker of the cache rejects calls."""
        return any(
            guard["name"] == "redis" and guard["rejects_for_s"] > 0 for guard in self.forge.operations.breakers()
        )

    async def heal(self) -> None:
        """Close the breakers and wait until Redis responds."""
        async with Redis.from_url(self.server.url) as client:
            for _ in range(100):
                try:
                    await client.ping()
                    break
                except Exception:
                    await asyncio.sleep(0.05)
        for name in GUARDS:
            self.forge.guard(name).admission.reset()


@asynccontextmanager
async def full(site: Site) -> AsyncIterator[None]:
    """Redis is out of memory and does not evict."""
    async with Redis.from_url(site.server.url) as client:
        await client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            await client.config_set("maxmemory", 0)


@asynccontextmanager
async def restarted(site: Site) -> AsyncIterator[None]:
    """Redis is killed and restarted a little later."""
    await asyncio.to_thread(site.server.kill)

    async def start() -> None:
        await asyncio.sleep(0.2)
        await asyncio.to_thread(site.server.start)

    starting = asyncio.create_task(start())
    try:
        yield
    finally:
        await starting


FAULTS: dict[str, Break] = {
    "refused": lambda site: site.proxy.fault(Refuse()),
    "silent": lambda site: site.proxy.fault(Silent()),
    "slow 30 ms": lambda site: site.proxy.fault(Slow(answer_s=0.03)),
    "slow 200 ms": lambda site: site.proxy.fault(Slow(answer_s=0.2)),
    "out of memory": full,
    "restarted": restarted,
}


async def call_all(site: Site, numbers: list[int]) -> tuple[list[float], list[float]]:
    """Make a few calls at once; return the latencies of those begun with a closed and with an open breaker."""
    before: list[float] = []
    after: list[float] = []

    async def one(number: int) -> None:
        is_open = site.is_open
        took = await site.call_ms(number)
        (after if is_open else before).append(took)

    for first in range(0, len(numbers), AT_ONCE):
        await asyncio.gather(*(one(number) for number in numbers[first : first + AT_ONCE]))
    return before, after


async def in_flight(site: Site, fault: Break) -> list[float]:
    """Return the latencies of calls during which the fault began."""
    calls = []
    for _ in range(AT_ONCE):
        site.running.clear()
        calls.append(asyncio.create_task(site.call_ms(next(site.numbers))))
        await site.running.wait()
    async with fault(site):
        return list(await asyncio.gather(*calls))


async def measure(site: Site, name: str, rounds: int) -> dict[str, Any]:
    """Run all rounds of one fault."""
    fault = FAULTS[name]
    known = [next(site.numbers) for _ in range(CALLS)]
    fresh = lambda: [next(site.numbers) for _ in range(CALLS)]  # noqa: E731
    cold_ms = statistics.median((await call_all(site, known))[0] + (await call_all(site, fresh()))[0])
    known_ms = statistics.median((await call_all(site, known))[0])
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for kind, numbers in (("cold", fresh()), ("known", known)):
            async with fault(site):
                before, after = await call_all(site, numbers)
            # Without a cache a known component is generated as well, so it is compared with a cold call.
            healthy = cold_ms if kind == "cold" else known_ms if name in {"slow 30 ms", "out of memory"} else cold_ms
            found[f"{kind} before"] += [took - healthy for took in before]
            found[f"{kind} after"] += [took - healthy for took in after]
            await site.heal()
        found["in-flight"] += [took - cold_ms for took in await in_flight(site, fault)]
        await site.heal()
    return {kind: {"p99": round(p99(values), 2), "calls": len(values)} for kind, values in found.items() if values}


def p99(values: list[float]) -> float:
    """Return the 99th percentile by nearest rank."""
    return sorted(values)[max(0, -(-len(values) * 99 // 100) - 1)]


async def run(server: Any, names: list[str], rounds: int) -> dict[str, Any]:
    """Measure every fault, each with its own forge."""
    result = {}
    for name in names:
        server.flush()
        async with FaultProxy("127.0.0.1", server.port) as proxy:
            settings = Settings(
                cache_url=proxy.url_for(server.url),
                archive_url=None,
                database_url=None,
                outbox_dir=None,
                trace_spool_dir=None,
            )
            async with Forge(settings) as forge:
                # Like `FORGE_FREEZE_HEAP`: a full collection takes 0.1 s, independent of Redis.
                gc.collect()
                gc.freeze()
                site = Site(forge, proxy, server)
                result[name] = await measure(site, name, rounds)
    return result


def misses(result: dict[str, Any]) -> list[str]:
    """Return the measurements above their limit."""
    return [
        f"{name}, {kind}"
        for name, kinds in result.items()
        for kind, figures in kinds.items()
        if figures["p99"] > (BOUND_AFTER_MS if kind.endswith("after") else BOUND_BEFORE_MS)
    ]


def main() -> None:
    """Measure and print; exit with 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=FAULTS, help="one fault")
    options = parser.parse_args()
    from tests.servers.redis import RedisServer

    with RedisServer() as server:
        result = asyncio.run(run(server, [options.only] if options.only else list(FAULTS), options.rounds))
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, kinds in result.items():
            print(
                f"{name:14}",
                "  ".join(f"{kind} {found['p99']:.2f} ({found['calls']})" for kind, found in kinds.items()),
            )
    if missed := misses(result):
        raise SystemExit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
