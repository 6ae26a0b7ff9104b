"""Callers who ask the same at the same moment share one call, which none of them can cancel for the others."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from forge_otel.resilience.deadline import current_deadline

__all__ = ["SharedCalls"]

T = TypeVar("T")


class SharedCalls:
    """The calls that are running, in this process; for one event loop."""

    def __init__(self) -> None:
        # Holds the tasks too: the event loop keeps only weak references.
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def join(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the running call under `key` does, or `start()` if none is.

        Args:
            key: of equal calls.
            start: must end by itself in a bounded time, because nobody cancels it.
        """
        task = self.begin(key, start)
        try:
            return await asyncio.shield(task)
        finally:
            # The traceback of its exception holds this frame, which must not hold the exception.
            del task

    def begin(self, key: str, start: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Return the running call under `key`, or begin `start()` if none is; it is not to be cancelled.

        Args:
            key, start: as of `join`.
        """
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(_unbounded(start))
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            # Looked at, so that nobody reports it as never retrieved: all callers may have left.
            task.exception()


async def _unbounded(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    # The time that the first caller has left is no concern of the others.
    current_deadline.set(None)
    return await start()
