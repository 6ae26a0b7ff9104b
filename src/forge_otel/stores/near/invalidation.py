"""What a server pushes when keys change: Redis client tracking, in RESP3, on one connection of its own.

`CLIENT TRACKING ON BCAST PREFIX …`: the server sends the name of every key with one of the prefixes that anybody
changes, deletes or lets expire, and "everything" after a FLUSHALL. Broadcasting, because values are read over many
pooled connections: without it each of them would have to be tracked, the server would remember every key that was read
and forget some when its table is full. It costs a push for each write, and writes are rare where one costs a minute.

The connection also answers how far behind we may be: pushes and the answers to our PINGs come in one order, so that
with the answer to a PING everything is known that had happened when it was sent. `heard_until_s` is that moment.

redis-py has client-side caching for its synchronous client alone; the asynchronous parser takes the pushes, though.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from forge_otel.errors import needs

with needs("redis"):
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError, ResponseError

__all__ = ["Tracking"]

_logger = logging.getLogger(__name__)

_BACK_OFF_S: Final = 0.5
_CLOSING_S: Final = 1.0
_CANCELLED_TIMES: Final = 10
_FIRST_S: Final = 0.5
_LEAST_WAIT_S: Final = 0.001


class Tracking:
    """Hears what changes, from `async with` to its end.

    Args:
        connect: makes a connection of redis-py in RESP3 that is not connected yet.
        prefixes: of the keys that matter; none is a prefix of another.
        on_changed: called with the names of keys that changed.
        on_lost: called when something may have been missed: all keys may have changed.
        interval_s: between two PINGs.
        give_up_s: after so long without an answer the connection is given up.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        prefixes: Sequence[str],
        *,
        on_changed: Callable[[Sequence[bytes]], None],
        on_lost: Callable[[], None],
        interval_s: float,
        give_up_s: float,
    ) -> None:
        self._connect = connect
        self._prefixes = prefixes
        self._on_changed = on_changed
        self._on_lost = on_lost
        self._interval_s = interval_s
        self._give_up_s = give_up_s
        self._task: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._asked: dict[bytes, tuple[float, asyncio.Future[None] | None]] = {}
        self._number = 0
        self._is_reported = False
        self._first = asyncio.Event()
        self.is_on = False
        self.heard_until_s = -float("inf")
        """Monotonic: everything that happened before is known."""

    async def __aenter__(self) -> Self:
        # An empty context: the span of whoever opens this is not that of the pushes.
        self._task = asyncio.create_task(self._stay(), name="near cache", context=contextvars.Context())
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_S):
                await self._first.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        for _attempt in range(_CANCELLED_TIMES):
            # More than once: `asyncio.wait_for` of Python 3.11, on which redis-py sends, swallows a cancellation that
            # comes together with what it waits for.
            if task is None or task.done():
                break
            task.cancel()
            await asyncio.wait([task], timeout=_CLOSING_S / _CANCELLED_TIMES)

    async def caught_up(self) -> bool:
        """Wait until everything is known that had happened when this was called; False if that cannot be had."""
        if not self.is_on:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self._ask(future)
            await future
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def _stay(self) -> None:
        while self._task is not None:
            try:
                await self._follow()
            except ResponseError as exc:
                self._report(f"the server does not let us track keys ({exc})")
            except (RedisError, OSError, TimeoutError) as exc:
                self._report(f"the connection is lost ({type(exc).__name__})")
            await asyncio.sleep(_BACK_OFF_S)

    async def _follow(self) -> None:
        connection = self._connect()
        started_s = time.monotonic()
        try:
            await connection.connect()
            # There is no public way to it but through the synchronous client's own cache.
            connection._parser.set_invalidation_push_handler(_itself)  # noqa: SLF001
            prefixes = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
            await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
            await connection.read_response()
            self._begin(connection, started_s)
            while True:
                await self._listen(connection)
        finally:
            self._end()
            with suppress(RedisError, OSError, TimeoutError):
                await connection.disconnect()

    def _begin(self, connection: Any, at_s: float) -> None:
        # Nothing was kept before, so that nothing can be older than this.
        self._connection, self.is_on, self.heard_until_s = connection, True, at_s
        self._first.set()
        if self._is_reported:
            self._is_reported = False
            _logger.info("the near cache is on again")

    def _end(self) -> None:
        self._connection, self.is_on, self.heard_until_s = None, False, -float("inf")
        asked, self._asked = self._asked, {}
        for _, future in asked.values():
            if future is not None and not future.done():
                future.set_exception(RedisConnectionError("the connection was lost"))
        self._on_lost()

    async def _listen(self, connection: Any) -> None:
        """Take one push or answer, and ask again when it is time."""
        now_s = time.monotonic()
        if not self._asked and now_s >= self.heard_until_s + self._interval_s:
            await self._ask(None)
        until_s = self.heard_until_s + self._interval_s
        if self._asked:
            until_s = min(at_s for at_s, _ in self._asked.values()) + self._give_up_s
        wait_s = max(_LEAST_WAIT_S, until_s - now_s)
        told = await connection.read_response(timeout=wait_s, push_request=True)
        if told is None and self._asked and time.monotonic() >= until_s:
            # Only now: if this process was held up, the answer may have been there all the while.
            raise TimeoutError("the server is silent")
        if isinstance(told, list) and told[0] == b"invalidate":
            self._hear(told[1])
        elif isinstance(told, bytes):
            self._answered(told)

    def _hear(self, names: Sequence[bytes] | None) -> None:
        if names is None:
            self._on_lost()
        else:
            self._on_changed(names)

    async def _ask(self, future: asyncio.Future[None] | None) -> None:
        if not self._connection.is_connected:
            # redis-py would connect anew, and nothing would be tracked there.
            raise RedisConnectionError("the connection was closed")
        self._number += 1
        token = b"%d" % self._number
        self._asked[token] = (time.monotonic(), future)
        await self._connection.send_command("PING", token)

    def _answered(self, token: bytes) -> None:
        at_s, future = self._asked.pop(token, (self.heard_until_s, None))
        self.heard_until_s = max(self.heard_until_s, at_s)
        if future is not None and not future.done():
            future.set_result(None)

    def _report(self, why: str) -> None:
        if not self._is_reported:
            self._is_reported = True
            _logger.warning("the near cache is off: %s", why)


async def _itself(message: Any) -> Any:
    # What a handler does wrong redis-py only logs, and a push that is lost must not go unseen; so it is only handed on.
    return message
