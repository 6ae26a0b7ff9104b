"""Time budget of one generation for its cache: all cache steps of the call share one allowance.

A call uses its cache several times: for the entry, the lease, a pattern, the spending limits, and a write. Each step is
short, but a failing cache makes each of them long. When the budget is used up, or too small for a step as long as the
longest one so far, the call continues as if the cache were unavailable, and writes continue in the background.

A step that is cut short does not count against the service, because it had less time than the service's own limit.
Stalls of the event loop are not charged.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from forge_otel.errors import ServiceTimeout
from forge_otel.resilience.deadline import current_deadline
from forge_otel.resilience.event_loop_lag import LagAwareTimeout, LoopLagMonitor

__all__ = ["TimeBudget", "budgeted", "current_time_budget", "start_detached"]

T = TypeVar("T")
Guarded = Callable[..., Awaitable[Any]]


class TimeBudget:
    """The time that one call may still wait for its cache.

    Args:
        total_s: seconds for all steps together; at least the limit of one step.
        loop_lag: measures stalls of the event loop, which are not charged.
    """

    __slots__ = ("_longest_s", "_loop_lag", "_remaining_s", "_total_s")

    def __init__(self, total_s: float, loop_lag: LoopLagMonitor) -> None:
        self._total_s = total_s
        self._loop_lag = loop_lag
        self._longest_s = 0.0
        self._remaining_s = total_s

    def reset(self) -> None:
        """Grant the full budget again, after a wait that was not for the cache."""
        self._remaining_s = self._total_s

    async def run(self, function: Guarded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Await one step.

        Args:
            function: the step; it must end at once when it is cancelled.
            args, kwargs: its arguments.

        Raises:
            ServiceTimeout: the remaining budget is too small for the step.
            Exception: raised by the step.
        """
        if self._remaining_s <= self._longest_s:
            raise ServiceTimeout("the time budget of this call for the cache is used up")
        started_s = time.monotonic()
        try:
            if self._remaining_s >= self._total_s:
                # The step's own limit is smaller; a second timer would only slow the hit path down.
                return await function(*args, **kwargs)
            return await self._run_limited(function, args, kwargs)
        finally:
            self._charge(started_s)

    async def wait(self, task: asyncio.Task[Any]) -> bool:
        """Wait for a task within the budget and return whether it has ended; the task is not cancelled."""
        if self._remaining_s > 0 and not task.done():
            started_s = time.monotonic()
            try:
                await asyncio.wait([task], timeout=self._remaining_s)
            finally:
                self._charge(started_s)
        return task.done()

    async def _run_limited(self, function: Guarded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        timeout = LagAwareTimeout(self._remaining_s, self._loop_lag)
        try:
            return await function(*args, **kwargs)
        except asyncio.CancelledError as exc:
            if not timeout.uncancel():
                raise
            raise ServiceTimeout("the cache did not respond within the remaining time budget of this call") from exc
        finally:
            timeout.close()

    def _charge(self, started_s: float) -> None:
        ended_s = time.monotonic()
        took_s = ended_s - started_s - self._loop_lag.stalled_s(started_s, ended_s)
        self._remaining_s -= took_s
        self._longest_s = max(self._longest_s, took_s)


current_time_budget: ContextVar[TimeBudget | None] = ContextVar("forge_time_budget", default=None)


def budgeted(function: Guarded) -> Guarded:
    """Return `function` limited by the time budget of the current call, if it has one."""

    async def step(*args: Any, **kwargs: Any) -> Any:
        budget = current_time_budget.get()
        if budget is None:
            return await function(*args, **kwargs)
        return await budget.run(function, args, kwargs)

    return step


def start_detached(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task without the time budget and the deadline of the current call; the caller holds the task."""
    context = contextvars.copy_context()
    context.run(current_time_budget.set, None)
    context.run(current_deadline.set, None)
    return asyncio.get_running_loop().create_task(work, context=context)
