"""Delivery rate (30 s exponential average), used to estimate the time to drain."""

import math
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Throughput"]

_TIME_CONSTANT_S: Final = 30.0


class Throughput:
    """Records per second, averaged with exponential decay.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sum = 0.0
        self._at_s = self._began_s = clock()

    def add(self, count: int) -> None:
        """Add `count` records that were delivered now."""
        now_s = self._clock()
        self._sum = self._decayed(now_s) + count
        self._at_s = now_s

    def per_s(self) -> float:
        """Return the rate in records per second."""
        now_s = self._clock()
        # In the first half minute the window is only as long as the observation.
        window_s = _TIME_CONSTANT_S * (1 - math.exp(-(now_s - self._began_s) / _TIME_CONSTANT_S))
        return self._decayed(now_s) / window_s if window_s > 0 else 0.0

    def drain_time_s(self, count: int) -> float | None:
        """Return the seconds that `count` records will take at this rate; None without a recent delivery."""
        if not count:
            return 0.0
        per_s = self.per_s()
        return count / per_s if per_s * _TIME_CONSTANT_S >= 1 else None

    def _decayed(self, now_s: float) -> float:
        return self._sum * math.exp(-(now_s - self._at_s) / _TIME_CONSTANT_S)
