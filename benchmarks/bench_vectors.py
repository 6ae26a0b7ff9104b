"""What does a semantic look-up cost beside numpy's own brute force with the same filter, and does the loop stall?

All contenders hold the same vectors in one process and are asked in turn; each figure is a median, each ratio the
median of the rounds' ratios. Both must find the same points. *filtered* has a tenth of the vectors in the scope that
is asked; the peer has selected their rows beforehand, as an index would. *stall* is the longest time that a task
which wants to run every millisecond had to wait during look-ups, beside the same in idle; on a machine that does
other things both grow.

    python benchmarks/bench_vectors.py [--json] [--points 20000] [--dimensions 1536] [--rounds 40]
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from forge_otel.vector_stores.in_process import VectorMatrix

BOUND_RATIO = 1.5
BOUND_STALL_S = 0.020
TICK_S = 0.001
LIMIT = 8


async def fill(matrix: VectorMatrix, table: Any, scopes: list[str]) -> None:
    """Put all rows at once."""
    rows = [(f"p{n}", scopes[n], "f", row.tobytes(), time.time() + 3600) for n, row in enumerate(table)]
    insert = "INSERT INTO points (id, scope, facts, vector, expires_at) VALUES (?, ?, ?, ?, ?)"
    await matrix._run(lambda: matrix._opened().executemany(insert, rows))
    await matrix.search(scopes[0], table[0], limit=1)


def brute_force(table: Any, wanted: Any) -> list[int]:
    """Numpy's own: multiply, pick the nearest, sort them."""
    found = table @ wanted
    nearest = np.argpartition(found, len(found) - LIMIT)[-LIMIT:]
    return [int(place) for place in nearest[np.argsort(-found[nearest])]]


async def compare(matrix: VectorMatrix, scope: str, table: Any, places: Any, *, rounds: int) -> dict[str, float]:
    """Ask both in turn."""
    ours, theirs, ratios = [], [], []
    for number in range(rounds):
        wanted = table[number]
        started = time.perf_counter()
        expected = await asyncio.to_thread(brute_force, table, wanted)
        between = time.perf_counter()
        found = await matrix.search(scope, wanted, limit=LIMIT)
        ended = time.perf_counter()
        assert [neighbour.id for neighbour in found] == [f"p{places[place]}" for place in expected]
        theirs.append(between - started)
        ours.append(ended - between)
        ratios.append(ours[-1] / theirs[-1])
    return {
        "ours_ms": statistics.median(ours) * 1000,
        "numpy_ms": statistics.median(theirs) * 1000,
        "ratio": statistics.median(ratios),
    }


async def longest_wait(work: Callable[[], Any]) -> float:
    """Return for how long a task that wants to run every millisecond had to wait at most, in seconds."""
    longest, is_over = 0.0, False

    async def tick() -> None:
        nonlocal longest
        while not is_over:
            started = time.perf_counter()
            await asyncio.sleep(TICK_S)
            longest = max(longest, time.perf_counter() - started - TICK_S)

    ticking = asyncio.create_task(tick())
    await work()
    is_over = True
    await ticking
    return longest


async def measure(points: int, dimensions: int, rounds: int) -> dict[str, Any]:
    """Measure everything once."""
    table = np.random.default_rng(0).normal(size=(points, dimensions)).astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    scopes = ["tenth" if number % 10 == 0 else "rest" for number in range(points)]
    tenth = np.arange(0, points, 10)
    result: dict[str, Any] = {"points": points, "dimensions": dimensions}
    async with VectorMatrix() as one, VectorMatrix() as ten:
        await fill(one, table, ["all"] * points)
        await fill(ten, table, scopes)
        result["all"] = await compare(one, "all", table, np.arange(points), rounds=rounds)
        result["filtered"] = await compare(ten, "tenth", table[tenth], tenth, rounds=rounds)

        async def ask() -> None:
            for number in range(rounds):
                await one.search("all", table[number], limit=LIMIT)

        asked_for = time.perf_counter()
        cpu = time.thread_time()
        result["stall_s"] = await longest_wait(ask)
        result["loop_cpu_share"] = (time.thread_time() - cpu) / (time.perf_counter() - asked_for)
        result["idle_stall_s"] = await longest_wait(lambda: asyncio.sleep(1))
    return result


def main() -> None:
    """Measure, print, and fail where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    result = asyncio.run(measure(options.points, options.dimensions, options.rounds))
    if options.json:
        print(json.dumps(result))
    else:
        for name in ("all", "filtered"):
            figures = result[name]
            print(
                f"{name:9} {figures['ours_ms']:7.2f} ms, numpy {figures['numpy_ms']:7.2f} ms, x {figures['ratio']:.2f}"
            )
        print(f"stall     {result['stall_s'] * 1000:7.2f} ms, idle  {result['idle_stall_s'] * 1000:7.2f} ms")
    missed = [name for name in ("all", "filtered") if result[name]["ratio"] > BOUND_RATIO]
    if result["stall_s"] > max(BOUND_STALL_S, 2 * result["idle_stall_s"]):
        missed.append("stall")
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
