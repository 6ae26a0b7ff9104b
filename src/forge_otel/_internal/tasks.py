"""Background tasks that are held and supervised, and time limits that hold even if the work ignores cancellation."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from forge_otel._internal.backoff import Backoff

__all__ = ["BackgroundTask", "TaskSet", "abandon", "abandon_after"]

_logger = logging.getLogger(__name__)
_FIRST_RESTART_S: Final = 0.1
_LONGEST_RESTART_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 1.0

T = TypeVar("T")

# The event loop holds tasks weakly only.
_abandoned: Final[set["asyncio.Future[Any]"]] = set()


class BackgroundTask:
    """A long-lived asyncio task that is restarted with back-off when its work raises, and counted.

    The task runs in an empty context, so that it does not keep the request alive in which it was started.

    Args:
        work: an async function that runs until it is cancelled; returning ends the task for good.
        name: of the asyncio task, and in log lines.
    """

    def __init__(self, work: Callable[[], Awaitable[object]], *, name: str) -> None:
        self.name = name
        self.restarts = 0
        self.last_error = ""
        self._work = work
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Return whether the task was started and has not ended."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the task; it must not be running."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._supervise(), name=self.name, context=contextvars.Context())

    async def stop(self, *, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
        """Cancel the task and return whether it ended within `timeout_s`."""
        task, self._task = self._task, None
        if task is None:
            return True
        task.cancel()
        _, running = await asyncio.wait({task}, timeout=timeout_s)
        return not running

    async def _supervise(self) -> None:
        backoff = Backoff(first_s=_FIRST_RESTART_S, longest_s=_LONGEST_RESTART_S)
        while True:
            try:
                await self._work()
            except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
                raise
            # BaseException: a Rust extension's PanicException is one, and would end the task in silence.
            except BaseException as exc:
                self.restarts += 1
                self.last_error = type(exc).__name__
                pause_s = backoff.next_s()
                _logger.exception("background task %s failed and is restarted in %.1f s", self.name, pause_s)
                await asyncio.sleep(pause_s)
            else:
                return


class TaskSet(set["asyncio.Task[T]"], Generic[T]):
    """Running tasks that are held until they end, because the event loop holds tasks weakly only."""

    def hold(self, task: "asyncio.Task[T]") -> "asyncio.Task[T]":
        """Keep a reference to `task` until it ends, and return it."""
        self.add(task)
        task.add_done_callback(self.discard)
        return task


async def abandon_after(work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """Await `work` for at most `timeout_s`, even if it does not end when it is cancelled.

    `asyncio.timeout` waits until the cancelled code has ended; code that swallows the cancellation makes it wait for
    ever.

    Raises:
        TimeoutError: the work did not end in time, or cancelled itself; it is cancelled and no longer awaited.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        abandon(task)
        raise
    if not done:
        abandon(task)
        raise TimeoutError(f"no answer within {timeout_s:.1f} s")
    if task.cancelled():
        raise TimeoutError("the awaited call cancelled itself")
    return task.result()


def abandon(task: "asyncio.Future[Any]") -> None:
    """Cancel `task` without awaiting it; it is held until it ends, and its exception is consumed."""
    _abandoned.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(ended: "asyncio.Future[Any]") -> None:
    _abandoned.discard(ended)
    if not ended.cancelled():
        ended.exception()
