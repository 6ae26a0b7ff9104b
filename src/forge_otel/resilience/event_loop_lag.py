"""When the event loop stood still: time that is no service's fault.

While something waits for a service, a timer rings every millisecond; where it rings late, the loop, or the whole
process, was busy with something else since the last time, and could neither send nor read. Only the latest such spans
are kept.
"""

import asyncio
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

__all__ = ["LoopLagMonitor", "running_loop_lag", "stalled_s"]

_TICK_S: Final = 0.001
# Timers are late by up to a millisecond, because the selector counts in these.
LATE_S: Final = 0.0015
_REMEMBERED: Final = 512


class LoopLagMonitor:
    """Notes when the loop stood still, between `enter` and `leave` of whoever waits; for one event loop."""

    __slots__ = ("_loop", "_rung_s", "_spans", "_watched", "is_ticking")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched = 0
        self.is_ticking = False
        """Whether a timer is set, which is so a moment longer than somebody waits."""
        self._rung_s = 0.0
        self._spans: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    def enter(self) -> None:
        """Say that somebody waits."""
        self._watched += 1
        if not self.is_ticking:
            self.is_ticking = True
            self._ring_next(self._loop.time())

    def leave(self) -> None:
        """Say that one who waited does so no more."""
        self._watched -= 1

    def stalled_s(self, since_s: float, until_s: float) -> float:
        """Return for how long the loop stood still between two monotonic times, in seconds."""
        lost = 0.0
        if self.is_ticking and until_s - self._rung_s > _TICK_S + LATE_S:
            # It has not rung yet, and should have.
            lost = until_s - max(self._rung_s, since_s)
        for begun_s, ended_s in reversed(self._spans):
            if ended_s <= since_s:
                break
            lost += max(0.0, min(ended_s, until_s) - max(begun_s, since_s))
        return lost

    def _ring_next(self, now_s: float) -> None:
        self._rung_s = now_s
        self._loop.call_at(now_s + _TICK_S, self._ring)

    def _ring(self) -> None:
        now_s = self._loop.time()
        if now_s - self._rung_s > _TICK_S + LATE_S:
            self._spans.append((self._rung_s, now_s))
        if self._watched:
            self._ring_next(now_s)
        else:
            self.is_ticking = False


_lags: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLagMonitor] = WeakKeyDictionary()


def running_loop_lag() -> LoopLagMonitor:
    """Return that of the running loop."""
    loop = asyncio.get_running_loop()
    found = _lags.get(loop)
    if found is None:
        found = _lags[loop] = LoopLagMonitor(loop)
    return found


def stalled_s(since_s: float, until_s: float) -> float:
    """Return for how long the running loop is known to have stood still between two monotonic times, in seconds."""
    return running_loop_lag().stalled_s(since_s, until_s) if until_s - since_s > LATE_S else 0.0
