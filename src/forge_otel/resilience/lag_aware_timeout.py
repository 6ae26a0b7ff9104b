"""A bound on what is awaited in place, in the caller's own task: `asyncio.timeout` for those who wait for a service."""

import asyncio
from typing import Final

from forge_otel.resilience.event_loop_lag import running_loop_lag

__all__ = ["LagAwareTimeout"]

_MAX_GIVEN_S: Final = 5.0
_SMALL: Final = 0.25


class LagAwareTimeout:
    """Cancels the running task when its time is over, from its making to `end`; a loop that stood still gets more.

    While the loop stood still nothing was sent or read: that time was not the service's, and it is given again. But
    not what is a small part of the limit, because a caller has the right to go on; nor for ever.

    Args:
        limit_s: seconds.
    """

    __slots__ = ("_fired", "_handle", "_lag", "_limit_s", "_loop", "_others", "_started_s", "_task")

    def __init__(self, limit_s: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a guarded call is made in a task")
        self._loop = task.get_loop()
        self._task = task
        self._lag = running_loop_lag()
        self._lag.enter()
        self._limit_s = limit_s
        self._others = task.cancelling()
        self._fired = False
        self._started_s = self._loop.time()
        self._handle = self._loop.call_at(self._started_s + limit_s, self._fire)

    def withdraw(self) -> bool:
        """Take the cancellation back; whether it was ours alone."""
        if not self._fired:
            return False
        self._fired = False
        return self._task.uncancel() <= self._others

    def end(self) -> None:
        """Limit nothing any more; to be called exactly once."""
        self._lag.leave()
        self._handle.cancel()
        self.withdraw()

    def _fire(self) -> None:
        now_s = self._loop.time()
        stalled_s = self._lag.stalled_s(self._started_s, now_s)
        rest_s = self._limit_s - (now_s - self._started_s - stalled_s)
        if rest_s > _SMALL * self._limit_s and stalled_s < _MAX_GIVEN_S:
            self._handle = self._loop.call_later(rest_s, self._fire)
            return
        self._fired = True
        self._task.cancel()
