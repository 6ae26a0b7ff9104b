"""Coalesces concurrent reads of a store into fewer round trips.

Without it, hundreds of concurrent callers would each open a connection, and the handshakes alone would exceed the
cache's deadline. A few reads are sent directly; reads that arrive while those are in flight are batched at the end of
the same event-loop iteration. No read waits for the result of another, and none is sent before it is requested.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from forge_otel._internal.tasks import TaskSet

__all__ = ["ReadCoalescer"]

Get = Callable[[Sequence[str]], Awaitable[list[bytes | None]]]

_MAX_IN_FLIGHT: Final = 4
_MAX_BATCH: Final = 100


class ReadCoalescer:
    """Reads keys, batched under load; it belongs to one event loop.

    Args:
        get: reads any number of keys in one step and returns their values in order.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._direct_reads = 0
        self._batch_slots = asyncio.Semaphore(_MAX_IN_FLIGHT)
        self._queue: list[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]] = []
        self._batches: TaskSet[None] = TaskSet()

    async def __call__(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in order.

        Raises:
            Exception: the error of `get`, for every caller whose keys were in the failed batch.
        """
        if self._direct_reads < _MAX_IN_FLIGHT:
            self._direct_reads += 1
            try:
                return await self._get(keys)
            finally:
                self._direct_reads -= 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._queue.append((keys, future))
        if len(self._queue) == 1:
            loop.call_soon(self._send)
        return await future

    def _send(self) -> None:
        queue, self._queue = self._queue, []
        for first in range(0, len(queue), _MAX_BATCH):
            self._batches.hold(asyncio.create_task(self._read(queue[first : first + _MAX_BATCH])))

    async def _read(self, batch: list[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]]) -> None:
        wanted = list(dict.fromkeys(key for keys, _ in batch for key in keys))
        try:
            # Queued here and not inside `get`, whose guard would count the queueing time as latency of the store.
            async with self._batch_slots:
                found = dict(zip(wanted, await self._get(wanted), strict=True))
        except BaseException as exc:
            _fail([future for _, future in batch], exc)
            if not isinstance(exc, Exception):
                raise
            return
        for keys, future in batch:
            if not future.done():
                future.set_result([found[key] for key in keys])


def _fail(futures: Sequence[asyncio.Future[list[bytes | None]]], exc: BaseException) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(exc, Exception):
            future.set_exception(exc)
        else:
            future.cancel()
