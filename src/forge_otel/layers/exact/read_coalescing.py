"""Reads of a store that many callers make at once, put together.

A herd of callers would open a connection each, and the handshakes alone take longer than a cache may. So only a few
reads go out by themselves; those that come while these are on their way are sent together, at the end of the same turn
of the event loop: nobody waits for the answer to another read, and nothing is read earlier than it is asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

__all__ = ["ReadCoalescer"]

Get = Callable[[Sequence[str]], Awaitable[list[bytes | None]]]

_ALONE: Final = 4
_MAX_TOGETHER: Final = 100


class ReadCoalescer:
    """Gets values; for one event loop.

    Args:
        get: reads any keys in one step, in their order.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._alone = 0
        self._turns = asyncio.Semaphore(_ALONE)
        self._waiting: list[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order.

        Raises:
            Exception: what `get` raises, to all whose keys were among those read.
        """
        if self._alone < _ALONE:
            self._alone += 1
            try:
                return await self._get(keys)
            finally:
                self._alone -= 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._waiting.append((keys, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        return await future

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), _MAX_TOGETHER):
            task = asyncio.create_task(self._read(waiting[first : first + _MAX_TOGETHER]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read(self, waiting: list[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]]) -> None:
        wanted = list(dict.fromkeys(key for keys, _ in waiting for key in keys))
        try:
            # A large herd's stand in line here, and not inside of what limits their time.
            async with self._turns:
                found = dict(zip(wanted, await self._get(wanted), strict=True))
        except BaseException as exc:
            _fail([future for _, future in waiting], exc)
            if not isinstance(exc, Exception):
                raise
            return
        for keys, future in waiting:
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
