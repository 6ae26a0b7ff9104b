"""Write-behind queue for cache entries with bounded concurrency.

A caller waits for the write of its answer until its time budget is used up; the write then continues in the background.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Self

from forge_otel._internal.tasks import TaskSet
from forge_otel.resilience.time_budget import current_time_budget, start_detached

__all__ = ["WriteBehindQueue"]

_logger = logging.getLogger(__name__)

_CONCURRENCY: Final = 8
_MAX_PENDING: Final = 10_000
_CLOSE_TIMEOUT_S: Final = 1.0


class WriteBehindQueue:
    """Runs writes in the background; it belongs to one event loop.

    Args:
        max_pending: pending writes beyond which a new one is dropped.
        close_timeout_s: seconds that closing waits for pending writes before it cancels them.
    """

    def __init__(self, *, max_pending: int = _MAX_PENDING, close_timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        self._close_timeout_s = close_timeout_s
        # Writes queue here and not inside the guard, which would count the queueing time as latency of the store.
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._max_pending = max_pending
        self._pending: TaskSet[bool] = TaskSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self._pending:
            return
        _, unfinished = await asyncio.wait(list(self._pending), timeout=self._close_timeout_s)
        for task in unfinished:
            task.cancel()
        if unfinished:
            _logger.warning("cache writes dropped at close, not finished in time: %d", len(unfinished))

    def start(self, write: Callable[[], Awaitable[bool]]) -> asyncio.Task[bool] | None:
        """Start a write and return its task; None if too many are pending.

        Args:
            write: returns whether the entry was written, and raises nothing.
        """
        if len(self._pending) >= self._max_pending:
            _logger.warning("cache write dropped, %d writes are pending", len(self._pending))
            return None
        return self._pending.hold(start_detached(self._run(write)))

    async def write(self, write: Callable[[], Awaitable[bool]]) -> bool:
        """Run a write and return whether it succeeded within the caller's time budget."""
        if current_time_budget.get() is None:
            return await write()
        return await self.wait(self.start(write))

    @staticmethod
    async def wait(task: asyncio.Task[bool] | None) -> bool:
        """Wait for a task that `start` returned; return whether it succeeded within the caller's time budget."""
        budget = current_time_budget.get()
        if task is None or budget is None or not await budget.wait(task):
            return False
        return not task.cancelled() and task.result()

    async def _run(self, write: Callable[[], Awaitable[bool]]) -> bool:
        async with self._slots:
            return await write()
