"""What is written to a cache behind the caller's back, a few at once.

A caller waits for the writing of its answer for as long as its patience lasts; the writing goes on after that. In a
herd the writes stand in line here, where nobody's time is over, and not inside a guard that would give them up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Self

from forge_otel.resilience.time_budget import behind, current_patience

__all__ = ["WriteBehindQueue"]

_logger = logging.getLogger(__name__)

_AT_ONCE: Final = 8
_MAX_WAITING: Final = 10_000
_GRACE_S: Final = 1.0


class WriteBehindQueue:
    """Runs writes; for one event loop. Closed, it has waited a moment for those that had not ended.

    Args:
        max_waiting: writes that have not ended; beyond that one is not made.
        grace_s: how long closing waits.
    """

    def __init__(self, *, max_waiting: int = _MAX_WAITING, grace_s: float = _GRACE_S) -> None:
        self._grace_s = grace_s
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._max_waiting = max_waiting
        self._running: set[asyncio.Task[bool]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self._running:
            return
        _, late = await asyncio.wait(list(self._running), timeout=self._grace_s)
        for task in late:
            task.cancel()
        if late:
            _logger.warning("answers that the cache did not take in time are not kept: %d", len(late))

    def begin(self, write: Callable[[], Awaitable[bool]]) -> asyncio.Task[bool] | None:
        """Begin a write that says whether it was made and raises nothing; None where too many have not ended."""
        if len(self._running) >= self._max_waiting:
            _logger.warning("an answer is not kept: %d others wait to be written", len(self._running))
            return None
        task = behind(self._in_turn(write))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def run(self, write: Callable[[], Awaitable[bool]]) -> bool:
        """Make a write and say whether it is made, as far as that is known when the caller's patience is over."""
        if current_patience.get() is None:
            return await write()
        return await self.wait(self.begin(write))

    @staticmethod
    async def wait(task: asyncio.Task[bool] | None) -> bool:
        """Wait for what `begin` returned; False where it has not ended when the caller's patience is over."""
        patience = current_patience.get()
        if task is None or patience is None or not await patience.wait(task):
            return False
        return not task.cancelled() and task.result()

    async def _in_turn(self, write: Callable[[], Awaitable[bool]]) -> bool:
        async with self._turns:
            return await write()
