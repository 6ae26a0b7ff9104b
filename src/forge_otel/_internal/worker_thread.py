"""Daemon threads: one that handles queued items in order and in batches, and functions awaited from the event loop."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from logging import getLogger
from typing import Final, Generic, TypeVar

__all__ = ["WorkerThread", "resolving", "run_in_daemon_thread"]

_logger = getLogger(__name__)
_MAX_BATCH: Final = 1_000

T = TypeVar("T")


class WorkerThread(Generic[T]):
    """One daemon thread: a disk that hangs cannot hold up the event loop, nor the exit as an executor's thread would.

    Args:
        name: of the thread.
        handle: called on the thread with everything that came in since the last call; must see to its own errors.
    """

    def __init__(self, name: str, handle: Callable[[list[T]], None]) -> None:
        self._handle = handle
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand over `item`; never waits."""
        self._queue.put(item)

    def stop(self) -> None:
        """Let the thread end after what it was given so far; does not wait for it."""
        self._queue.put(None)

    def _run(self) -> None:
        is_running = True
        while is_running:
            batch, is_running = self._take()
            try:
                self._handle(batch)
            # BaseException: a Rust extension's PanicException is one, and would end the thread in silence.
            except BaseException:
                _logger.exception("%s failed on a batch of %d", self._thread.name, len(batch))

    def _take(self) -> tuple[list[T], bool]:
        batch: list[T] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == _MAX_BATCH or self._queue.empty():
                return batch, True
            item = self._queue.get()
        return batch, False


async def run_in_daemon_thread(work: Callable[[], T], *, name: str) -> T:
    """Run `work` on a new daemon thread and return its result; a cancelled caller leaves the thread running.

    The threads of asyncio's default executor are joined at exit, so a call that hangs there would hold up the exit.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    threading.Thread(target=resolving(work, future), name=name, daemon=True).start()
    return await future


def resolving(work: Callable[[], T], future: "asyncio.Future[T]") -> Callable[[], None]:
    """Return a function for another thread that runs `work` and resolves `future` on its event loop."""

    def run() -> None:
        try:
            resolve = partial(_set_result, future, work())
        # BaseException: the caller would never get an answer from a future that is not resolved.
        except BaseException as exc:
            resolve = partial(_set_exception, future, exc)
        # The event loop may have been closed meanwhile.
        with suppress(RuntimeError):
            future.get_loop().call_soon_threadsafe(resolve)

    return run


def _set_result(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


def _set_exception(future: "asyncio.Future[T]", exc: BaseException) -> None:
    if not future.done():
        future.set_exception(exc)
