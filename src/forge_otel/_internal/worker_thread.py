"""A daemon thread that handles queued items in order and in batches."""

import queue
import threading
from collections.abc import Callable
from logging import getLogger
from typing import Final, Generic, TypeVar

__all__ = ["WorkerThread"]

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
            except Exception:
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
