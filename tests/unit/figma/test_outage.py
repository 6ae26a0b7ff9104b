"""An outage is detected by one timeout and ends with a response."""

import asyncio

from forge_otel.figma.outage import OutageDetector


async def test_a_timeout_wakes_all_waiting_calls() -> None:
    """Later calls do not wait until the next response."""
    detector = OutageDetector()
    pending = asyncio.create_task(asyncio.Event().wait())
    waiting = [asyncio.create_task(detector.wait(pending, timeout_s=60)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    detector.on_timeout()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
        await detector.wait(pending, timeout_s=60)
    pending.cancel()


async def test_after_a_response_calls_wait_again() -> None:
    """Until their own task has ended."""
    detector = OutageDetector()
    detector.on_timeout()
    detector.on_response()
    may_end = asyncio.Event()
    task = asyncio.create_task(may_end.wait())
    waiting = asyncio.create_task(detector.wait(task, timeout_s=60))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    may_end.set()
    async with asyncio.timeout(5):
        await waiting
    assert task.done()


async def test_a_task_that_takes_too_long_starts_an_outage() -> None:
    """The call that waited for it is the last one that waits."""
    detector = OutageDetector()
    pending = asyncio.create_task(asyncio.Event().wait())
    await detector.wait(pending, timeout_s=0.01)
    async with asyncio.timeout(5):
        await detector.wait(pending, timeout_s=60)
    pending.cancel()
