"""How fast records are delivered, so that it can be said when the last of those that wait will be."""

import math
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Throughput"]

_MEMORY_S: Final = 30.0


class Throughput:
    """The records a second of about the last half minute; what is older fades away.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sum = 0.0
        self._at_s = self._began_s = clock()

    def add(self, count: int) -> None:
        """Take note that so many were delivered just now."""
        now_s = self._clock()
        self._sum = self._faded(now_s) + count
        self._at_s = now_s

    def per_s(self) -> float:
        """Records a second."""
        now_s = self._clock()
        # Before there is half a minute to remember, what there is of it counts.
        remembered_s = _MEMORY_S * (1 - math.exp(-(now_s - self._began_s) / _MEMORY_S))
        return self._faded(now_s) / remembered_s if remembered_s > 0 else 0.0

    def time_for(self, count: int) -> float | None:
        """Seconds that `count` records will take at this pace; None where nothing has been delivered lately."""
        if not count:
            return 0.0
        per_s = self.per_s()
        return count / per_s if per_s * _MEMORY_S >= 1 else None

    def _faded(self, now_s: float) -> float:
        return self._sum * math.exp(-(now_s - self._at_s) / _MEMORY_S)
