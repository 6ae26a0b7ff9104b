"""Time in which the event loop stood still is known, and only that."""

import asyncio
import time

from forge_otel.resilience.event_loop_lag import LoopLagMonitor


def _block(seconds: float) -> None:
    """Hold the loop up, as a long calculation does."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        pass


async def test_a_loop_that_is_held_up_is_noticed() -> None:
    """Before its timer rings late, and after."""
    lag = LoopLagMonitor()
    lag.enter()
    started_s = time.monotonic()
    _block(0.05)
    assert lag.stalled_s(started_s, time.monotonic()) >= 0.04
    await asyncio.sleep(0.001)
    assert 0.04 <= lag.stalled_s(started_s, time.monotonic()) <= time.monotonic() - started_s
    lag.leave()


async def test_only_what_lies_between_two_times_counts() -> None:
    """What was lost before somebody began to wait is not theirs, nor what is lost after it."""
    lag = LoopLagMonitor()
    lag.enter()
    _block(0.03)
    await asyncio.sleep(0.001)
    between_s = time.monotonic()
    assert lag.stalled_s(between_s, between_s + 0.001) == 0.0
    _block(0.03)
    await asyncio.sleep(0.001)
    # Nothing was noted before it began to watch, either.
    assert lag.stalled_s(between_s - 1000, between_s - 999) == 0.0
    lag.leave()


async def test_the_watch_ends_with_the_last_who_waits() -> None:
    """No timer is left that wakes an idle process."""
    lag = LoopLagMonitor()
    lag.enter()
    lag.enter()
    lag.leave()
    await asyncio.sleep(0.005)
    assert lag.is_ticking
    lag.leave()
    async with asyncio.timeout(5):
        while lag.is_ticking:
            await asyncio.sleep(0.001)
