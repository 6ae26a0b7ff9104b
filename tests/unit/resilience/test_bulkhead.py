"""Places are counted, given in the order of asking, and never lost."""

import asyncio

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.resilience.bulkhead import Bulkhead, BulkheadOptions


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_places_go_to_the_first_in_line() -> None:
    """Two wait, the first one gets what is given back."""
    limit = Bulkhead(BulkheadOptions(max_concurrent=1))
    assert limit.try_acquire()
    assert not limit.try_acquire()
    first, second = (asyncio.create_task(limit.acquire(10.0)) for _ in range(2))
    await settle()
    assert limit.waiting == 2
    limit.release()
    assert await first
    assert not second.done()
    limit.release()
    assert await second
    limit.release()
    assert (limit.in_flight, limit.waiting) == (0, 0)


async def test_the_line_is_bounded_in_length_and_time() -> None:
    """Who finds it full is refused at once, who waits too long a little later."""
    limit = Bulkhead(BulkheadOptions(max_concurrent=1, max_waiting=1, max_wait_s=0.01))
    limit.try_acquire()
    waiting = asyncio.create_task(limit.acquire(10.0))
    await settle()
    assert not await limit.acquire(10.0)
    assert not await waiting
    limit.release()
    assert (limit.in_flight, limit.waiting) == (0, 0)


async def test_cancelled_in_line_leaves_it() -> None:
    """The next in line is not held up."""
    limit = Bulkhead(BulkheadOptions(max_concurrent=1))
    limit.try_acquire()
    cancelled, patient = (asyncio.create_task(limit.acquire(10.0)) for _ in range(2))
    await settle()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    limit.release()
    assert await patient


async def test_a_place_that_comes_with_the_cancellation_is_passed_on() -> None:
    """Both happen before the waiter runs again."""
    limit = Bulkhead(BulkheadOptions(max_concurrent=1))
    limit.try_acquire()
    waiting = asyncio.create_task(limit.acquire(10.0))
    await settle()
    limit.release()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert limit.try_acquire()


def test_bad_options_are_refused() -> None:
    """With every fault at once."""
    with pytest.raises(ConfigurationError) as caught:
        BulkheadOptions(max_concurrent=0, max_waiting=-1)
    assert len(caught.value.faults) == 2
