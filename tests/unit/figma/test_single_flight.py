"""Concurrent equal calls share one running call."""

import asyncio
import gc

import pytest

from forge_otel.figma.single_flight import SingleFlightGroup
from forge_otel.resilience.deadline import deadline, remaining_s


async def test_equal_calls_share_one() -> None:
    """A call after its end is made again."""
    group, calls = SingleFlightGroup(), 0

    async def fetch() -> int:
        nonlocal calls
        calls = number = calls + 1
        await asyncio.sleep(0)
        return number

    assert await asyncio.gather(*(group.call("a", fetch) for _ in range(5)), group.call("b", fetch)) == [1] * 5 + [2]
    assert await group.call("a", fetch) == 3


async def test_a_cancelled_caller_does_not_end_the_shared_call() -> None:
    """The deadline of the first caller does not limit it either."""
    group, may_end = SingleFlightGroup(), asyncio.Event()

    async def fetch() -> float:
        await may_end.wait()
        return remaining_s()

    async def first() -> float:
        with deadline(0.001):
            return await group.call("a", fetch)

    leaving, staying = asyncio.create_task(first()), asyncio.create_task(group.call("a", fetch))
    await asyncio.sleep(0)
    leaving.cancel()
    may_end.set()
    assert await staying == float("inf")
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_the_error_of_an_abandoned_call_is_consumed(caplog: pytest.LogCaptureFixture) -> None:
    """All callers may have been cancelled; asyncio would report it as never retrieved."""
    group = SingleFlightGroup()

    async def fetch() -> None:
        raise ConnectionError

    task = group.start("a", fetch)
    await asyncio.wait([task])
    del task
    gc.collect()
    assert "never retrieved" not in caplog.text
