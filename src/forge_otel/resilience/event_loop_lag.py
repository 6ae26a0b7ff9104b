"""Event-loop stalls, and a timeout that does not count them: in a stall nothing is sent to or read from a service.

While a timeout is running, a timer fires every millisecond. When it fires late, the event loop, or the whole process,
was busy with other work since the last time.
"""

import asyncio
from collections import deque
from typing import Final

__all__ = ["LagAwareTimeout", "LoopLagMonitor"]

_TICK_S: Final = 0.001
# Timers fire up to a millisecond late, because selectors count in milliseconds.
_TOLERANCE_S: Final = 0.0015
_MAX_STALLS: Final = 512
_MAX_EXTENSION_S: Final = 5.0
_MIN_EXTENSION_SHARE: Final = 0.25


class LoopLagMonitor:
    """Records stalls of the running event loop between `enter` and `leave`; shared by the guards of a process."""

    __slots__ = ("_last_tick_s", "_loop", "_stalls", "_watchers", "is_ticking")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers = 0
        self.is_ticking = False
        """True while the timer is scheduled; it stops at its first tick without watchers."""
        self._last_tick_s = 0.0
        self._stalls: deque[tuple[float, float]] = deque(maxlen=_MAX_STALLS)

    def enter(self) -> None:
        """Register a watcher and start the timer."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # A timer of an earlier loop never fires again.
            self._loop, self._watchers, self.is_ticking = loop, 0, False
        self._watchers += 1
        if not self.is_ticking:
            self.is_ticking = True
            self._schedule(loop, loop.time())

    def leave(self) -> None:
        """Unregister a watcher."""
        # 0 for a task of an earlier loop that is collected late.
        if self._watchers:
            self._watchers -= 1

    def stalled_s(self, since_s: float, until_s: float) -> float:
        """Return for how many seconds the loop is known to have stalled between two monotonic times."""
        if until_s - since_s <= _TOLERANCE_S:
            return 0.0
        total_s = 0.0
        if self.is_ticking and until_s - self._last_tick_s > _TICK_S + _TOLERANCE_S:
            # The current stall: the timer is overdue.
            total_s = until_s - max(self._last_tick_s, since_s)
        for started_s, ended_s in reversed(self._stalls):
            if ended_s <= since_s:
                break
            total_s += max(0.0, min(ended_s, until_s) - max(started_s, since_s))
        return total_s

    def _schedule(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        self._last_tick_s = now_s
        loop.call_at(now_s + _TICK_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        now_s = loop.time()
        if now_s - self._last_tick_s > _TICK_S + _TOLERANCE_S:
            self._stalls.append((self._last_tick_s, now_s))
        if self._watchers:
            self._schedule(loop, now_s)
        else:
            self.is_ticking = False


class LagAwareTimeout:
    """Cancels the current task after `limit_s`, extended by stalls of the event loop; runs until `close`.

    An extension below 25 % of the limit is skipped, and extensions end after 5 s of stalls.

    Args:
        limit_s: seconds from now.
        loop_lag: measures the stalls.
    """

    __slots__ = ("_fired", "_handle", "_limit_s", "_loop", "_loop_lag", "_other_cancellations", "_started_s", "_task")

    def __init__(self, limit_s: float, loop_lag: LoopLagMonitor) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a guarded call needs a running asyncio task")
        self._loop = task.get_loop()
        self._task = task
        self._loop_lag = loop_lag
        loop_lag.enter()
        self._limit_s = limit_s
        self._other_cancellations = task.cancelling()
        self._fired = False
        self._started_s = self._loop.time()
        self._handle = self._loop.call_at(self._started_s + limit_s, self._fire)

    def uncancel(self) -> bool:
        """Take the cancellation back and return whether this timeout was its only cause."""
        if not self._fired:
            return False
        self._fired = False
        return self._task.uncancel() <= self._other_cancellations

    def close(self) -> None:
        """End the timeout; called exactly once."""
        self._loop_lag.leave()
        self._handle.cancel()
        self.uncancel()

    def _fire(self) -> None:
        now_s = self._loop.time()
        stalled_s = self._loop_lag.stalled_s(self._started_s, now_s)
        extension_s = self._limit_s - (now_s - self._started_s - stalled_s)
        # The caller's own limit counts too: small extensions and endless ones would only delay its answer.
        if extension_s > _MIN_EXTENSION_SHARE * self._limit_s and stalled_s < _MAX_EXTENSION_S:
            self._handle = self._loop.call_later(extension_s, self._fire)
            return
        self._fired = True
        self._task.cancel()
