"""Single flight: concurrent equal calls share one running call, as in Go's `singleflight`."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from forge_otel.resilience.time_budget import start_detached

__all__ = ["SingleFlightGroup"]

T = TypeVar("T")

_CLOSE_S: Final = 1.0


class SingleFlightGroup:
    """The running calls of this process by key; for one event loop.

    A caller that is cancelled leaves the shared call running for the other callers.
    """

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._started_s: dict[str, float] = {}

    async def call(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await the running call under `key`, or start one.

        Args:
            key: equal for equal calls.
            start: makes the call; it must end within a bounded time, because it is never cancelled.
        """
        task = self.start(key, start)
        try:
            return await asyncio.shield(task)
        finally:
            # The traceback of the task's exception holds this frame; without `del` they form a reference cycle.
            del task

    def start(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Return the running call under `key`, or start one; the caller must not cancel it.

        Args:
            key, start: as of `call`.
        """
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            # Detached: the deadline of the first caller must not limit the other ones.
            task = self._running[key] = start_detached(start())
            self._started_s[key] = time.monotonic()
            task.add_done_callback(lambda done: self._on_end(key, done))
        return task

    def age_s(self, key: str) -> float:
        """Return the seconds since the running call under `key` was started; 0 if there is none."""
        now_s = time.monotonic()
        return now_s - self._started_s.get(key, now_s)

    async def close(self) -> None:
        """Cancel the running calls."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_CLOSE_S)

    def _on_end(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._running[key], self._started_s[key]
        if not task.cancelled():
            # Consumed, so that asyncio does not report it as never retrieved: all callers may have been cancelled.
            task.exception()
