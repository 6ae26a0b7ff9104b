"""Stalls of the event loop are measured, and extend timeouts."""

import asyncio
import time

from forge_otel.resilience.event_loop_lag import LagAwareTimeout, LoopLagMonitor


def _block(seconds: float) -> None:
    """Block the event loop, as a long calculation does."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        pass


async def test_a_stall_is_measured() -> None:
    """During it and after it."""
    lag = LoopLagMonitor()
    lag.enter()
    started_s = time.monotonic()
    _block(0.05)
    assert lag.stalled_s(started_s, time.monotonic()) >= 0.04
    await asyncio.sleep(0.001)
    assert 0.04 <= lag.stalled_s(started_s, time.monotonic()) <= time.monotonic() - started_s
    lag.leave()


async def test_only_stalls_between_the_two_times_count() -> None:
    """Stalls before and after them do not."""
    lag = LoopLagMonitor()
    lag.enter()
    _block(0.03)
    await asyncio.sleep(0.001)
    between_s = time.monotonic()
    assert lag.stalled_s(between_s, between_s + 0.001) == 0.0
    _block(0.03)
    await asyncio.sleep(0.001)
    # Before the first watcher nothing was measured.
    assert lag.stalled_s(between_s - 1000, between_s - 999) == 0.0
    lag.leave()


async def test_the_timer_stops_after_the_last_watcher() -> None:
    """It does not wake an idle process."""
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


def test_a_monitor_measures_in_a_later_event_loop_too() -> None:
    """The timer of the first loop never fires again."""
    lag = LoopLagMonitor()

    async def stall() -> float:
        lag.enter()
        started_s = time.monotonic()
        _block(0.03)
        await asyncio.sleep(0.001)
        lag.leave()
        return lag.stalled_s(started_s, time.monotonic())

    assert asyncio.run(stall()) >= 0.02
    assert asyncio.run(stall()) >= 0.02


async def test_a_timeout_is_extended_by_a_stall() -> None:
    """The stall is longer than the limit, and the rest of the work needs less than the limit."""
    timeout = LagAwareTimeout(0.1, LoopLagMonitor())
    try:
        _block(0.2)
        await asyncio.sleep(0.01)
    finally:
        timeout.close()
