"""Bulkhead: a limit of concurrent calls to one service, so that a slow service cannot use up the whole process.

A call without a free slot waits in a bounded queue for a bounded time, or is rejected with `Overloaded`. Rejections are
not counted by the circuit breaker, because they are not caused by the service.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from forge_otel._internal.checks import require

__all__ = ["Bulkhead", "BulkheadOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadOptions:
    """How many calls to a service may run and wait at the same time.

    Args:
        max_concurrent: number of slots.
        max_waiting: length of the queue for a slot.
        max_wait_s: longest wait for a slot in seconds.

    Raises:
        ConfigurationError: with every fault at once.
    """

    max_concurrent: int = 100
    max_waiting: int = 400
    max_wait_s: float = 5.0

    def __post_init__(self) -> None:
        require(
            (self.max_concurrent >= 1, "max_concurrent of a bulkhead must be at least 1"),
            (
                self.max_waiting >= 0 and self.max_wait_s >= 0,
                "max_waiting and max_wait_s of a bulkhead must not be negative",
            ),
        )


class Bulkhead:
    """Slots for concurrent calls with a FIFO queue; for one event loop.

    Args:
        options: number of slots and size of the queue.
    """

    def __init__(self, options: BulkheadOptions) -> None:
        self.options = options
        # 0 while calls are queued: a released slot is handed to the first of them.
        self.free = options.max_concurrent
        """Number of free slots."""
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """Number of calls that hold a slot."""
        return self.options.max_concurrent - self.free

    @property
    def waiting(self) -> int:
        """Number of queued calls."""
        return len(self._queue)

    def try_acquire(self) -> bool:
        """Take a free slot and return whether there was one."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    async def acquire(self, timeout_s: float) -> bool:
        """Queue for a slot and return whether it was acquired.

        Args:
            timeout_s: limit in seconds, capped by `max_wait_s`.
        """
        if len(self._queue) >= self.options.max_waiting:
            return False
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(slot)
        try:
            await asyncio.wait([slot], timeout=max(0.0, min(timeout_s, self.options.max_wait_s)))
        except asyncio.CancelledError:
            if not self._leave_queue(slot):
                # The slot was granted in the moment of the cancellation: pass it on.
                self.release()
            raise
        return not self._leave_queue(slot)

    def release(self) -> None:
        """Return a slot, or hand it to the first queued call."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self.free += 1

    def _leave_queue(self, slot: asyncio.Future[None]) -> bool:
        """Remove a queued call and return False if its slot was already granted."""
        if slot.done():
            return False
        self._queue.remove(slot)
        return True
