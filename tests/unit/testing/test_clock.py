"""The clock that only a test advances."""

import asyncio

from forge_otel.testing.clock import ManualClock


async def test_sleeping_advances_the_clock_and_lets_other_tasks_run() -> None:
    """The durations of sleeps are recorded."""
    clock = ManualClock(10.0)
    seen: list[float] = []

    async def look() -> None:
        seen.append(clock.now_s())

    other = asyncio.create_task(look())
    await clock.sleep(5.0)
    assert (seen, other.done()) == ([15.0], True)
    clock.advance(1.0)
    assert (clock.now_s(), clock.slept_s) == (16.0, [5.0])
