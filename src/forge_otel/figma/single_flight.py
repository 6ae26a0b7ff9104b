"""Single flight: concurrent equal calls share one running call, as in Go's `singleflight`."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from forge_otel.resilience.time_budget import start_detached

__all__ = ["SingleFlightGroup"]

T = TypeVar("T")


class SingleFlightGroup:
    """The running calls of this process by key; for one event loop.

    A caller that is cancelled leaves the shared call running for the other callers.
    """

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}

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
            task.add_done_callback(lambda done: self._on_end(key, done))
        return task

    def _on_end(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            # Consumed, so that asyncio does not report it as never retrieved: all callers may have been cancelled.
            task.exception()
