"""The concurrency limit of a service: a slow one may fill its own places, not the whole process.

A call that finds no place waits in a short line, for a bounded time, or is refused with `Overloaded`. A refusal says
nothing about the service's health, so the breaker does not count it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from forge_otel.errors import ConfigurationError

__all__ = ["Bulkhead", "BulkheadOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadOptions:
    """How many calls of a service may run at once.

    Args:
        max_concurrent: calls in flight.
        max_waiting: calls that may wait for a place.
        max_wait_s: seconds that one waits at most.

    Raises:
        ConfigurationError: with every fault at once.
    """

    max_concurrent: int = 100
    max_waiting: int = 400
    max_wait_s: float = 5.0

    def __post_init__(self) -> None:
        faults = []
        if self.max_concurrent < 1:
            faults.append("max_concurrent of a limit must be at least 1")
        if self.max_waiting < 0 or self.max_wait_s < 0:
            faults.append("max_waiting and max_wait_s of a limit may not be negative")
        if faults:
            raise ConfigurationError(faults)


class Bulkhead:
    """Counted places, given in the order of asking; for one event loop.

    Args:
        options: how many there are, and how long one waits.
    """

    def __init__(self, options: BulkheadOptions) -> None:
        self.options = options
        # While somebody waits there is none free: a place that is given back goes to the first in line.
        self._free = options.max_concurrent
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """Calls that have a place."""
        return self.options.max_concurrent - self._free

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._line)

    def take(self) -> bool:
        """Take a place if one is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a place; return whether one was got.

        Args:
            timeout_s: seconds, if that is less than the options allow.
        """
        if len(self._line) >= self.options.max_waiting:
            return False
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await asyncio.wait([place], timeout=max(0.0, min(timeout_s, self.options.max_wait_s)))
        except asyncio.CancelledError:
            if not self._leave(place):
                # The place came in the moment of the cancellation: the next in line gets it.
                self.release()
            raise
        return not self._leave(place)

    def release(self) -> None:
        """Give a place back, or on to the first in line."""
        if self._line:
            self._line.popleft().set_result(None)
        else:
            self._free += 1

    def _leave(self, place: asyncio.Future[None]) -> bool:
        """Step out of the line; return False where a place was given already."""
        if place.done():
            return False
        self._line.remove(place)
        return True
