"""Whether Figma lets its callers wait in vain: known from one of them, so that the others need not find out."""

import asyncio
from typing import Any

__all__ = ["OutageDetector"]


class OutageDetector:
    """Begins with a call that took too long and ends with an answer; for one event loop."""

    def __init__(self) -> None:
        self._is_silent = False
        self._waiting: set[asyncio.Future[None]] = set()

    def begin(self) -> None:
        """Say that a call took too long; whoever waits beside another one goes on."""
        self._is_silent = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def end(self) -> None:
        """Say that there was an answer."""
        self._is_silent = False

    async def wait_beside(self, task: asyncio.Task[Any]) -> None:
        """Return when the task has ended or there is silence, which may be so already."""
        if self._is_silent:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([task, future], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.discard(future)
