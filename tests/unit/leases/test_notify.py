"""In-process wake-ups."""

import asyncio
import time

from forge_otel.leases.notify import WakeupHub


async def test_only_the_waiters_of_a_key_wake() -> None:
    """A notification wakes every waiter of its key."""
    hub = WakeupHub()
    with hub.listen("a") as first, hub.listen("a") as second, hub.listen("b") as other:
        waiting = [asyncio.create_task(wait(60)) for wait in (first, second, other)]
        await asyncio.sleep(0)
        hub.notify("a")
        await asyncio.gather(*waiting[:2])
        assert not waiting[2].done()
        hub.notify_all()
        await waiting[2]


async def test_a_notification_before_the_wait_is_not_missed() -> None:
    """It ends the next wait, and no wait after that."""
    hub = WakeupHub()
    with hub.listen("a") as wait:
        hub.notify("a")
        async with asyncio.timeout(1):
            await wait(60)
        started_s = time.monotonic()
        await wait(0.02)
        assert time.monotonic() - started_s >= 0.015


async def test_polling_ends_a_wait_without_a_notification() -> None:
    """A file cannot notify, so its waiters look again at an interval."""
    with WakeupHub(poll_s=0.01).listen("a") as wait:
        async with asyncio.timeout(1):
            await wait(60)
