"""Background tasks that are held and supervised, and time limits that hold even if the work ignores cancellation."""

import asyncio
import contextvars
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from forge_otel._internal.backoff import Backoff

__all__ = ["BackgroundTask", "TaskSet", "TaskSupervisor", "abandon", "abandon_after"]

_logger = logging.getLogger(__name__)
_FIRST_RESTART_S: Final = 0.1
_LONGEST_RESTART_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 1.0
# A task that has run for this long since its last failure has recovered.
_STABLE_S: Final = 10.0

T = TypeVar("T")

# The event loop holds tasks weakly only.
_abandoned: Final[set["asyncio.Future[Any]"]] = set()


class TaskSupervisor:
    """Restarts of the background tasks that are started inside `watching`, and of those that these start in turn.

    Attributes:
        restarts: name of a task to number of restarts.
    """

    def __init__(self) -> None:
        self.restarts: Counter[str] = Counter()
        self._failed: dict[str, BackgroundTask] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the tasks that are started in this context until the block ends."""
        token = _supervisor.set(self)
        try:
            yield
        finally:
            _supervisor.reset(token)

    def failing(self) -> Mapping[str, str]:
        """Return the last error of each task that failed and has not run for 10 s since; this is thread-safe."""
        return {name: task.last_error for name, task in tuple(self._failed.items()) if task.is_failing}

    def record_failure(self, task: "BackgroundTask") -> None:
        """Count the failure of a task that will be restarted."""
        self.restarts[task.name] += 1
        self._failed[task.name] = task


_supervisor: Final[contextvars.ContextVar[TaskSupervisor | None]] = contextvars.ContextVar(
    "forge_task_supervisor", default=None
)


class BackgroundTask:
    """A long-lived asyncio task that is restarted with back-off when its work raises, and counted.

    The task runs in a context with nothing but its supervisor, so that it does not keep the request alive in which it
    was started.

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
        self._supervisor: TaskSupervisor | None = None
        self._stable_at_s = 0.0

    @property
    def is_running(self) -> bool:
        """Return whether the task was started and has not ended."""
        return self._task is not None and not self._task.done()

    @property
    def is_failing(self) -> bool:
        """Return whether the task failed, and has not run for 10 s since its restart."""
        return self.restarts > 0 and self.is_running and time.monotonic() < self._stable_at_s

    def start(self) -> None:
        """Start the task; it must not be running."""
        loop = asyncio.get_running_loop()
        self._supervisor = _supervisor.get()
        context = contextvars.Context()
        context.run(_supervisor.set, self._supervisor)
        self._task = loop.create_task(self._supervise(), name=self.name, context=context)

    async def stop(self, *, timeout_s: float = _STOP_TIMEOUT_S) -> bool:
        """Cancel the task and return whether it ended within `timeout_s`."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=timeout_s)
        return task is None or task.done()

    async def _supervise(self) -> None:
        backoff = Backoff(first_s=_FIRST_RESTART_S, longest_s=_LONGEST_RESTART_S)
        while True:
            started_s = time.monotonic()
            try:
                await self._work()
            except (KeyboardInterrupt, SystemExit):
                raise
            # BaseException: a Rust extension's PanicException is one, and would end the task in silence.
            except BaseException as exc:
                # A library may raise CancelledError although this task was not cancelled.
                if isinstance(exc, asyncio.CancelledError) and _is_cancelled():
                    raise
                if time.monotonic() - started_s >= _STABLE_S:
                    backoff.reset()
                pause_s = backoff.next_s()
                self._record_failure(exc, pause_s)
                await asyncio.sleep(pause_s)
            else:
                return

    def _record_failure(self, exc: BaseException, pause_s: float) -> None:
        self.restarts += 1
        self.last_error = type(exc).__name__
        self._stable_at_s = time.monotonic() + pause_s + _STABLE_S
        if self._supervisor is not None:
            self._supervisor.record_failure(self)
        _logger.error("background task %s failed and is restarted in %.1f s", self.name, pause_s, exc_info=exc)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


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
