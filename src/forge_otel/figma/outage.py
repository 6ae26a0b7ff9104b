"""Detection of an unresponsive Figma, so that only one caller waits until its timeout."""

import asyncio
from typing import Any

__all__ = ["OutageDetector"]


class OutageDetector:
    """An outage starts with a timeout and ends with a response; for one event loop."""

    def __init__(self) -> None:
        self._is_out = False
        self._waiters: set[asyncio.Future[None]] = set()

    def on_timeout(self) -> None:
        """Start the outage and wake all waiters."""
        self._is_out = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def on_response(self) -> None:
        """End the outage."""
        self._is_out = False

    async def wait(self, task: asyncio.Task[Any], *, timeout_s: float) -> None:
        """Wait until `task` has ended or there is an outage, which begins if it takes `timeout_s`."""
        if self._is_out:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            done, _ = await asyncio.wait([task, waiter], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.discard(waiter)
        if not done:
            self.on_timeout()
