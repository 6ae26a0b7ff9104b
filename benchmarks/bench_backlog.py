"""Rate of the bulk load of an hour's backlog into PostgreSQL, and its effect on the latency of live requests.

Records are queued in the journal while PostgreSQL is stopped; then it is started again. Live requests are exact cache
hits, 20 per second, in the same process; their latency counts from the time at which they were due. Proof: every
generation is in the database once.

The service keeps one half of the CPUs; PostgreSQL and the bulk load process have the rest. With ``--together``
all of them share all CPUs: on small virtual machines a thread of the service can then wait for up to a scheduler tick
(4 ms) behind one of theirs, at any priority.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import asyncpg

from bench_rows import DurablePostgres, make
from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
from forge_otel.testing.fault_matrix.load import percentile

RATE_PER_S = 20.0
OUTAGE = timedelta(hours=1)
BOUND_RATE = 10_000
BOUND_P95 = 1.10
BOUND_MB = 128
LABEL = b"forge-otel: outbox bulk load"


def resident_mb(pid: int | str = "self", field: str = "VmRSS") -> float:
    """Return the resident memory of a process, or its peak with ``VmHWM``; 0 after its end."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)
    return 0.0


def halves(*, are_apart: bool) -> tuple[set[int], set[int]]:
    """Return the CPUs of the service, and those of PostgreSQL and the bulk load process."""
    cpus = sorted(os.sched_getaffinity(0))
    if not are_apart or len(cpus) < 2:
        return {*cpus}, {*cpus}
    return {*cpus[: len(cpus) // 2]}, {*cpus[len(cpus) // 2 :]}


def start_on(server: DurablePostgres, cpus: set[int]) -> None:
    """Start the server on `cpus`; a process inherits them from the thread that starts it."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        server.start()
    finally:
        os.sched_setaffinity(0, own)


def move(pid: str, cpus: set[int]) -> None:
    """Restrict a process to `cpus`."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


async def placed(cpus: set[int]) -> str | None:
    """Move the bulk load process to `cpus` and return its id; None if the backlog is too short for one."""
    for _ in range(100):
        if pid := loader():
            move(pid, cpus)
            return pid
        await asyncio.sleep(0.02)
    return None


def loader() -> str | None:
    """Return the id of the bulk load process."""
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for pid in children.read_text(encoding="ascii").split():
                if LABEL in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
    return None


async def live(generate: Callable[[GenerationRequest], Any], ends: asyncio.Event) -> list[float]:
    """Return the latencies of cache hits at a steady rate."""
    found: list[float] = []
    started, number = time.monotonic(), 0
    while not ends.is_set():
        due = started + number / RATE_PER_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await generate(GenerationRequest(component_type="button", figma_key=f"key-{number % 6}"))
        found.append(time.monotonic() - due)
        number += 1
    return found


async def measured(generate: Callable[[GenerationRequest], Any], seconds: float) -> list[float]:
    """Return the latencies of `seconds` of requests."""
    ends = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, ends.set)
    return await live(generate, ends)


async def run(server: DurablePostgres, load_cpus: set[int], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one outage."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=server.url, archive_url=None, outbox_dir=f"{folder}/outbox")
        async with Forge(settings) as forge:

            @forge.generation
            async def generate(request: GenerationRequest) -> GenerationResult:
                return GenerationResult(code=f"<{request.component_type}/>")

            await measured(generate, 2.0)
            idle_mb = resident_mb()
            healthy = await measured(generate, options.healthy_s)
            await asyncio.to_thread(server.stop)
            offers = await fill(forge, options.records)
            filled_mb = resident_mb()
            # The other sink would have taken its share during the hour.
            while forge.outbox.stats().sinks["recent"].waiting:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.1)
            await asyncio.to_thread(start_on, server, load_cpus)
            waiting = forge.outbox.stats().sinks["database"].waiting
            ends, peak, beside = asyncio.Event(), [filled_mb], [0.0]
            while not forge.outbox.stats().sinks["database"].is_up:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.005)
            started = time.perf_counter()
            first = forge.outbox.stats().sinks["database"].waiting
            pid = await placed(load_cpus)
            asking = asyncio.create_task(live(generate, ends))
            while (left := forge.outbox.stats().sinks["database"].waiting) > 5:
                peak.append(resident_mb())
                # Pages that it shares with this process are included.
                beside.append(resident_mb(pid, "VmHWM") if pid else 0.0)
                await asyncio.sleep(0.2)
            took_s = time.perf_counter() - started
            ends.set()
            draining = await asking
            await forge.outbox.drain(timeout_s=10)
            # Before and after, because the speed of the machine changes within a minute.
            healthy += await measured(generate, options.healthy_s)
    rate = (first - left) / took_s
    p95 = [percentile(values, 0.95) for values in (healthy, draining)]
    return {
        "CPUs, and of PostgreSQL and bulk load": f"{sorted(os.sched_getaffinity(0))}, {sorted(load_cpus)}",
        "waiting": waiting,
        "dropped": dict(forge.outbox.stats().sinks["database"].dropped),
        "records/s": round(rate),
        "journal, p50 ms": round(statistics.median(offers) * 1e3, 3),
        "live p95 healthy, ms": round(p95[0] * 1e3, 2),
        "live p95 draining, ms": round(p95[1] * 1e3, 2),
        "live p95 ratio": round(p95[1] / p95[0], 2),
        "memory above idle, MiB": round(max(peak) - idle_mb),
        "and of the bulk load process, MiB": round(max(beside)),
        "holds": {
            "rate": rate >= BOUND_RATE,
            "p95": p95[1] <= BOUND_P95 * p95[0],
            "memory": max(peak) - idle_mb + max(beside) <= BOUND_MB,
            "journal": statistics.median(offers) <= 1e-3,
        },
    }


async def fill(forge: Forge, count: int) -> list[float]:
    """Offer `count` records, and return the latencies of those that were offered one at a time."""
    alone: list[float] = []
    for record in make(200, start=datetime.now(UTC) - OUTAGE):
        started = time.perf_counter()
        await forge.outbox.offer(record)
        alone.append(time.perf_counter() - started)
    # Of the last hour: records beyond the retention period would be deleted at once.
    start, step = datetime.now(UTC) - OUTAGE, OUTAGE / count
    for first in range(200, count, 1000):
        records = make(min(count - first, 1000), start=start + first * step, step=step)
        await asyncio.gather(*(forge.outbox.offer(record) for record in records))
    return alone


async def stored(url: str) -> tuple[int, int]:
    """Return the number of generations in the database, and the number of distinct ids."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    row = await connection.fetchrow("SELECT count(*), count(DISTINCT id) FROM generations WHERE pipeline_version = '7'")
    await connection.close()
    return row[0], row[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--healthy-s", type=float, default=20.0)
    parser.add_argument("--together", action="store_true", help="let all processes share all CPUs")
    options = parser.parse_args()
    own_cpus, load_cpus = halves(are_apart=not options.together)
    os.sched_setaffinity(0, load_cpus)
    with DurablePostgres() as server:
        os.sched_setaffinity(0, own_cpus)
        found = asyncio.run(run(server, load_cpus, options))
        if (due := asyncio.run(stored(server.url))) != (options.records, options.records):
            raise SystemExit(f"stored {due}, not {options.records}: {found}")
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:38} {value}")


if __name__ == "__main__":
    main()
