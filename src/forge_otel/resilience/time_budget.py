"""How long one call waits for its cache in all.

A call asks its cache several times: for the answer, for the lease, for a pattern, for the budget; then it writes. Each
step is short, and a cache that fails makes each of them long. So all steps of a call share one allowance. When it is
used up, or too small for a step as long as the longest one so far, the call goes on as if the cache were away; what has
to be written is written behind its back.

A step that is cut short says nothing about the service, because it had less time than the service is given; and time in
which the event loop stood still is nobody's.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from forge_otel.errors import ServiceTimeout
from forge_otel.resilience.deadline import current_scope
from forge_otel.resilience.event_loop_lag import stalled_s
from forge_otel.resilience.lag_aware_timeout import LagAwareTimeout

__all__ = ["TimeBudget", "behind", "budgeted", "current_patience"]

T = TypeVar("T")
Guarded = Callable[..., Awaitable[Any]]


class TimeBudget:
    """What one call may still wait for its cache.

    Args:
        total_s: seconds for all steps together; no less than one step is given.
    """

    __slots__ = ("_longest_s", "_rest_s", "_total_s")

    def __init__(self, total_s: float) -> None:
        self._total_s = total_s
        self._longest_s = 0.0
        self._rest_s = total_s

    def renew(self) -> None:
        """Begin anew, for a call that has waited for something else meanwhile."""
        self._rest_s = self._total_s

    async def run(self, function: Guarded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Await a step.

        Args:
            function, args, kwargs: the step; it ends at once when it is cancelled.

        Raises:
            ServiceTimeout: there is no time left for it.
            Exception: what it raises.
        """
        if self._rest_s <= self._longest_s:
            raise ServiceTimeout("no time is left for the cache: the call has waited for it long enough")
        started_s = time.monotonic()
        try:
            if self._rest_s >= self._total_s:
                return await function(*args, **kwargs)
            return await self._bounded(function, args, kwargs)
        finally:
            self._charge(started_s)

    async def wait(self, task: asyncio.Task[Any]) -> bool:
        """Wait for a task, which goes on after that; whether it is done."""
        if self._rest_s > 0 and not task.done():
            started_s = time.monotonic()
            try:
                await asyncio.wait([task], timeout=self._rest_s)
            finally:
                self._charge(started_s)
        return task.done()

    async def _bounded(self, function: Guarded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = LagAwareTimeout(self._rest_s)
        try:
            return await function(*args, **kwargs)
        except asyncio.CancelledError as exc:
            if not bound.withdraw():
                raise
            raise ServiceTimeout("the cache did not answer in what was left of its time") from exc
        finally:
            bound.end()

    def _charge(self, started_s: float) -> None:
        ended_s = time.monotonic()
        took_s = ended_s - started_s - stalled_s(started_s, ended_s)
        self._rest_s -= took_s
        self._longest_s = max(self._longest_s, took_s)


current_patience: ContextVar[TimeBudget | None] = ContextVar("forge_patience", default=None)


def budgeted(function: Guarded) -> Guarded:
    """Let a guarded step draw from the patience of the running call, where it has one."""

    async def step(*args: Any, **kwargs: Any) -> Any:
        patience = current_patience.get()
        if patience is None:
            return await function(*args, **kwargs)
        return await patience.run(function, args, kwargs)

    return step


def behind(step: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin something that neither the call's patience nor its deadline limits; hold the task, the loop does not."""
    context = contextvars.copy_context()
    context.run(current_patience.set, None)
    context.run(current_scope.set, None)
    return asyncio.get_running_loop().create_task(step, context=context)
