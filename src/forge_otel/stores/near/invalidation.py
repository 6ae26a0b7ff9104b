"""Invalidation messages of a Redis server (client tracking, RESP3), on a connection of their own.

`CLIENT TRACKING ON BCAST PREFIX …` makes the server push the name of every key with one of the prefixes that is
changed, deleted or expires, and a flush of everything after FLUSHALL. Broadcasting mode, because values are read over
many pooled connections: otherwise each of them would have to be tracked, and the server would remember every key that
was read and forget some when its table is full. It costs one push for each write, and writes are rare here.

The connection also bounds the staleness: pushes and replies to PING arrive in order, so the reply to a PING proves that
every change before it was sent has been received. `current_until_s` is that moment.

redis-py has client-side caching for its synchronous client only; its asynchronous parser accepts pushes, though.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from forge_otel._internal.tasks import BackgroundTask
from forge_otel.errors import needs

with needs("redis"):
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError, ResponseError

__all__ = ["Tracking"]

_logger = logging.getLogger(__name__)

_RECONNECT_PAUSE_S: Final = 0.5
_STOP_TIMEOUT_S: Final = 1.0
_CANCELLATIONS: Final = 10
_FIRST_CONNECT_S: Final = 0.5
_MIN_READ_S: Final = 0.001


class Tracking:
    """Receives invalidation messages while it is open, and reconnects when the connection is lost.

    Args:
        connect: returns a redis-py connection in RESP3 that is not connected yet.
        prefixes: prefixes of the tracked keys; none may be a prefix of another.
        on_changed: called with the names of changed keys.
        on_lost: called when messages may have been missed, so that any key may have changed.
        interval_s: seconds between two PINGs.
        give_up_s: seconds without a reply after which the connection is dropped.
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
        self._task = BackgroundTask(self._run, name="near cache")
        self._is_open = False
        self._connection: Any = None
        # PINGs without a reply: token to the time of sending and the future that waits for the reply.
        self._pings: dict[bytes, tuple[float, asyncio.Future[None] | None]] = {}
        self._last_token = 0
        self._is_reported = False
        self._first_connected = asyncio.Event()
        self._is_dropped = False
        self.is_connected = False
        self.current_until_s = -float("inf")
        """Monotonic time before which every change has been received."""

    async def __aenter__(self) -> Self:
        self._is_open = True
        self._task.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_CONNECT_S):
                await self._first_connected.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        for _attempt in range(_CANCELLATIONS):
            # Repeated, because redis-py sends within `asyncio.wait_for`, which on Python 3.11 swallows a cancellation
            # that arrives together with the result (https://github.com/python/cpython/issues/86296).
            if await self._task.stop(timeout_s=_STOP_TIMEOUT_S / _CANCELLATIONS):
                break

    async def synchronize(self) -> bool:
        """Wait until every change before this call has been received; return False if the connection is lost."""
        if not self.is_connected:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self._ping(future)
            await future
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    def reconnect(self) -> None:
        """Drop the connection, because its server may be a replica that no longer learns of changes."""
        self._set_lost()
        self._is_dropped = True

    async def _run(self) -> None:
        while self._is_open:
            try:
                await self._track()
            except ResponseError as exc:
                self._report(f"the server refuses client tracking ({exc})")
            except (RedisError, OSError, TimeoutError) as exc:
                self._report(f"the connection is lost ({type(exc).__name__})")
            await asyncio.sleep(_RECONNECT_PAUSE_S)

    async def _track(self) -> None:
        connection, self._is_dropped = self._connect(), False
        started_s = time.monotonic()
        try:
            await connection.connect()
            # The only public way to set the handler is the cache of the synchronous client.
            connection._parser.set_invalidation_push_handler(_unchanged)  # noqa: SLF001
            prefixes = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
            await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
            await connection.read_response()
            self._set_connected(connection, started_s)
            while not self._is_dropped:
                await self._receive(connection)
        finally:
            self._set_lost()
            with suppress(RedisError, OSError, TimeoutError):
                await connection.disconnect()

    def _set_connected(self, connection: Any, connecting_s: float) -> None:
        # No copy was kept before tracking began, so no copy can be older than this.
        self._connection, self.is_connected, self.current_until_s = connection, True, connecting_s
        self._first_connected.set()
        if self._is_reported:
            self._is_reported = False
            _logger.info("near cache enabled again")

    def _set_lost(self) -> None:
        self._connection, self.is_connected, self.current_until_s = None, False, -float("inf")
        pings, self._pings = self._pings, {}
        for _, future in pings.values():
            if future is not None and not future.done():
                future.set_exception(RedisConnectionError("the connection was lost"))
        self._on_lost()

    async def _receive(self, connection: Any) -> None:
        """Handle one push or reply, and send a PING when one is due."""
        now_s = time.monotonic()
        if not self._pings and now_s >= self.current_until_s + self._interval_s:
            await self._ping(None)
        until_s = self.current_until_s + self._interval_s
        if self._pings:
            until_s = min(sent_s for sent_s, _ in self._pings.values()) + self._give_up_s
        wait_s = max(_MIN_READ_S, until_s - now_s)
        message = await connection.read_response(timeout=wait_s, push_request=True)
        # Checked after the read: if this process was suspended, the reply may have been in the socket all the time.
        if message is None and self._pings and time.monotonic() >= until_s:
            raise TimeoutError("the server is silent")
        if isinstance(message, list) and message[0] == b"invalidate":
            self._invalidate(message[1])
        elif isinstance(message, bytes):
            self._pong(message)

    def _invalidate(self, names: Sequence[bytes] | None) -> None:
        if names is None:
            self._on_lost()
        else:
            self._on_changed(names)

    async def _ping(self, future: asyncio.Future[None] | None) -> None:
        # redis-py would reconnect, and the new connection would not be tracked.
        if not self._connection.is_connected:
            raise RedisConnectionError("the connection was closed")
        self._last_token += 1
        token = b"%d" % self._last_token
        self._pings[token] = (time.monotonic(), future)
        await self._connection.send_command("PING", token)

    def _pong(self, token: bytes) -> None:
        sent_s, future = self._pings.pop(token, (self.current_until_s, None))
        self.current_until_s = max(self.current_until_s, sent_s)
        if future is not None and not future.done():
            future.set_result(None)

    def _report(self, why: str) -> None:
        if not self._is_reported:
            self._is_reported = True
            _logger.warning("near cache disabled: %s", why)


async def _unchanged(message: Any) -> Any:
    # redis-py only logs the exceptions of a handler, and a lost push must be noticed, so `_receive` does the work.
    return message
