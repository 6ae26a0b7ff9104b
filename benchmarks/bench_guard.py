"""Cost of a guard for a successful call, and of a rejected call.

All contenders run in one process, interleaved, in rounds with a shuffled order. Each figure is the median over the
rounds, each ratio the median of the ratios of the rounds. All policies are on except the attempt timeout, which is
measured separately, because it starts a task and is only for calls that leave the process. Every contender proves that
its calls reached the service, or that all of them were rejected.

    python benchmarks/bench_guard.py [--json] [--rounds 15] [--calls 4000] [--rejections 200000]
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from forge_otel.errors import CircuitOpen
from forge_otel.resilience.attempt_timeout import TimeoutOptions
from forge_otel.resilience.breaker import BreakerOptions
from forge_otel.resilience.guard import Guard
from forge_otel.resilience.policies import Policies

Call = Callable[[], Awaitable[Any]]

IN_PLACE = Policies(breaker=BreakerOptions(slow_s=10.0))
IN_A_TASK = Policies(breaker=BreakerOptions(slow_s=10.0), timeout=TimeoutOptions(attempt_s=10.0))
BOUND_ADDED_NS = 1500.0
BOUND_REJECTED_NS = 3000.0
BOUND_GROWTH_KB = 2048

tally = itertools.count()


async def service() -> int:
    """Count a call: the guarded function."""
    return next(tally)


async def refuse() -> int:
    """Raise an error: the smallest cost of a rejection."""
    raise ConnectionError


async def answered(call: Call, count: int) -> float:
    """Return nanoseconds for each of `count` calls, all of which must reach the service."""
    before = next(tally)
    started = time.perf_counter_ns()
    for _ in range(count):
        await call()
    took = time.perf_counter_ns() - started
    made = next(tally) - before - 1
    if made != count:
        raise SystemExit(f"{call} made {made} calls of {count}")
    return took / count


async def rejected(call: Call, count: int, error: type[BaseException]) -> float:
    """Return nanoseconds for each of `count` calls, none of which may reach the service."""
    before, rejections = next(tally), 0
    started = time.perf_counter_ns()
    for _ in range(count):
        try:
            await call()
        except error:
            rejections += 1
    took = time.perf_counter_ns() - started
    made = next(tally) - before - 1
    if rejections != count or made:
        raise SystemExit(f"{call} rejected {rejections} of {count} and made {made} calls")
    return took / count


def closed_contenders() -> dict[str, Call]:
    """Return every way to make a guarded call with a closed breaker."""
    guard = Guard("bench", IN_PLACE)
    entered = Guard("bench", IN_PLACE)
    in_a_task = Guard("bench", IN_A_TASK)
    factory = AsyncCircuitBreakerFactory()

    async def with_guard() -> int:
        async with entered:
            return await service()

    async def with_purgatory() -> int:
        async with await factory.get_breaker("bench"):
            return await service()

    return {
        "bare": service,
        "guard.call": lambda: guard.call(service),
        "guard decorator": guard(service),
        "guard async with": with_guard,
        "guard.call, attempt timeout": lambda: in_a_task.call(service),
        "purgatory decorator": factory("bench")(service),
        "purgatory get_breaker": with_purgatory,
    }


def open_guard() -> Guard:
    """Return a guard that rejects every call."""
    guard = Guard("bench", IN_PLACE)
    guard.admission.set_mode("forced_open")
    return guard


async def tripped_guard() -> Guard:
    """Return a guard whose breaker was opened by failures."""
    guard = Guard("bench", IN_PLACE)
    for _ in range(IN_PLACE.breaker.threshold):
        # A block is not retried.
        with contextlib.suppress(ConnectionError):
            async with guard:
                raise ConnectionError
    return guard


async def tripped_purgatory() -> Call:
    """Return a new open purgatory circuit: an old one becomes slower with each rejection."""
    factory = AsyncCircuitBreakerFactory(default_threshold=1, default_ttl=60)
    with contextlib.suppress(ConnectionError):
        await factory("bench")(refuse)()
    return factory("bench")(service)  # type: ignore[no-any-return]


async def measure_closed(rounds: int, count: int) -> dict[str, list[float]]:
    """Return nanoseconds for each call, by contender and round."""
    contenders = closed_contenders()
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name in random.sample(list(contenders), len(contenders)):
            took = await answered(contenders[name], count)
            if round_number:  # the first one warms up
                found[name].append(took)
    return found


async def measure_open(rounds: int, count: int) -> dict[str, list[float]]:
    """Return nanoseconds for each rejection, by contender and round."""
    tripped, forced = await tripped_guard(), open_guard()
    found: dict[str, list[float]] = {name: [] for name in ("bare raise", "guard", "guard forced open", "purgatory")}
    for round_number in range(rounds + 1):
        # Long tracebacks would make later rounds of purgatory slower; it gets a fresh circuit each time.
        purgatory = await tripped_purgatory()
        took = {
            "bare raise": await rejected(refuse, count, ConnectionError),
            "guard": await rejected(lambda: tripped.call(service), count, CircuitOpen),
            "guard forced open": await rejected(lambda: forced.call(service), count, CircuitOpen),
            "purgatory": await rejected(purgatory, count // 10, OpenedState),
        }
        if round_number:
            for name, value in took.items():
                found[name].append(value)
    return found


async def measure_growth(rejections: int) -> int:
    """Return the growth of the resident memory in kB over that many rejections of requests that hold 10 kB."""
    guard = await tripped_guard()

    async def request() -> None:
        payload = bytearray(10_000)
        try:
            await guard.call(service)
        except CircuitOpen:
            payload.clear()

    for _ in range(10_000):
        await request()
    gc.collect()
    before = resident_kb()
    for _ in range(rejections):
        await request()
    gc.collect()
    return resident_kb() - before


def resident_kb() -> int:
    """Return the resident memory of this process in kB, or 0 on systems without /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def summary(closed: dict[str, list[float]], opened: dict[str, list[float]], growth_kb: int) -> dict[str, Any]:
    """Return the figures, and whether they are within their bounds."""
    bare = closed["bare"]
    added = {
        name: statistics.median(taken - base for taken, base in zip(values, bare, strict=True))
        for name, values in closed.items()
    }
    against = closed["purgatory decorator"]
    ratio = {
        name: statistics.median(
            (ours - base) / (theirs - base) for ours, theirs, base in zip(closed[name], against, bare, strict=True)
        )
        for name in ("guard.call", "guard decorator")
    }
    rejected_ns = statistics.median(opened["guard"])
    return {
        "closed_ns": {name: round(statistics.median(values)) for name, values in closed.items()},
        "added_ns": {name: round(value) for name, value in added.items()},
        "added_share_of_purgatory_decorator": {name: round(value, 3) for name, value in ratio.items()},
        "rejected_ns": {name: round(statistics.median(values)) for name, values in opened.items()},
        "rejections_growth_kb": growth_kb,
        "holds": {
            "added": added["guard.call"] <= BOUND_ADDED_NS and added["guard decorator"] <= BOUND_ADDED_NS,
            "below_purgatory": max(ratio.values()) < 1.0,
            "rejected": rejected_ns <= BOUND_REJECTED_NS,
            "flat_memory": growth_kb < BOUND_GROWTH_KB,
        },
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run all measurements."""
    gc.disable()
    closed = await measure_closed(options.rounds, options.calls)
    opened = await measure_open(options.rounds, options.calls)
    gc.enable()
    return summary(closed, opened, await measure_growth(options.rejections))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rejections", type=int, default=200_000)
    found = asyncio.run(run(parser.parse_args()))
    if parser.parse_args().json:
        print(json.dumps(found, indent=2))
        return
    for title, figures in found.items():
        print(title)
        for name, value in figures.items() if isinstance(figures, dict) else [("", figures)]:
            print(f"  {name:32} {value}")


if __name__ == "__main__":
    main()
