"""Slots of a bulkhead are counted, granted in order, and never lost."""

import asyncio

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.resilience.bulkhead import Bulkhead, BulkheadOptions


async def settle() -> None:
    """Run everything that is ready."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_granted_in_order() -> None:
    """A released slot goes to the first queued call."""
    bulkhead = Bulkhead(BulkheadOptions(max_concurrent=1))
    assert bulkhead.try_acquire()
    assert not bulkhead.try_acquire()
    first, second = (asyncio.create_task(bulkhead.acquire(10.0)) for _ in range(2))
    await settle()
    assert bulkhead.waiting == 2
    bulkhead.release()
    assert await first
    assert not second.done()
    bulkhead.release()
    assert await second
    bulkhead.release()
    assert (bulkhead.in_flight, bulkhead.waiting) == (0, 0)


async def test_the_queue_is_bounded_in_length_and_time() -> None:
    """A full queue rejects at once, a long wait after `max_wait_s`."""
    bulkhead = Bulkhead(BulkheadOptions(max_concurrent=1, max_waiting=1, max_wait_s=0.01))
    bulkhead.try_acquire()
    waiting = asyncio.create_task(bulkhead.acquire(10.0))
    await settle()
    assert not await bulkhead.acquire(10.0)
    assert not await waiting
    bulkhead.release()
    assert (bulkhead.in_flight, bulkhead.waiting) == (0, 0)


async def test_a_cancelled_call_leaves_the_queue() -> None:
    """The next call gets the slot."""
    bulkhead = Bulkhead(BulkheadOptions(max_concurrent=1))
    bulkhead.try_acquire()
    cancelled, queued = (asyncio.create_task(bulkhead.acquire(10.0)) for _ in range(2))
    await settle()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    bulkhead.release()
    assert await queued


async def test_a_slot_granted_to_a_cancelled_call_is_passed_on() -> None:
    """Both happen before the queued call runs again."""
    bulkhead = Bulkhead(BulkheadOptions(max_concurrent=1))
    bulkhead.try_acquire()
    waiting = asyncio.create_task(bulkhead.acquire(10.0))
    await settle()
    bulkhead.release()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert bulkhead.try_acquire()


def test_invalid_options_are_rejected() -> None:
    """With every fault at once."""
    with pytest.raises(ConfigurationError) as caught:
        BulkheadOptions(max_concurrent=0, max_waiting=-1)
    assert len(caught.value.faults) == 2
