"""Reads over pinned connections, which take half the time of a read through redis-py's client.

The client takes a connection from the pool, checks it, packs, retries, counts and returns it for each command; that
takes longer than sending and reading. A pinned connection is taken from the pool once. It is used through the public
methods that redis-py's own clients use, so TLS, passwords, databases and protocol versions remain its concern.

Not for Sentinel: its pool has to notice that another server has become the master.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from forge_otel.errors import needs

with needs("redis"):
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError

__all__ = ["PinnedConnections"]

_MAX_IDLE: Final = 4


class PinnedConnections:
    """Reads values over connections that stay open between reads; for one event loop.

    Args:
        pool: of redis-py, for one server; closed with this object. Its connections return bytes and have no socket
            timeouts, because those would apply to each step and not to the whole read.
        timeout_s: time limit of one read in seconds.
    """

    def __init__(self, pool: Any, *, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._idle: list[Any] = []

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys`, in their order, in one round trip."""
        command = _pack(keys)
        async with asyncio.timeout(self._timeout_s):
            return await self._read(command)

    async def warm_up(self) -> None:
        """Connect before the first read."""
        await asyncio.gather(*(self.get(["forge:none"]) for _ in range(_MAX_IDLE)))

    async def close(self) -> None:
        """Disconnect."""
        self._idle.clear()
        await self._pool.aclose()

    async def _read(self, command: bytes) -> list[bytes | None]:
        if self._idle:
            try:
                return await self._send(self._idle.pop(), command)
            except (RedisConnectionError, OSError):
                # The server may have closed idle connections, for example at a restart; a new one shows whether it did.
                while self._idle:
                    await self._discard(self._idle.pop())
        return await self._send(await self._pool.get_connection(), command)

    async def _send(self, connection: Any, command: bytes) -> list[bytes | None]:
        try:
            await connection.send_packed_command(command, check_health=False)
            values: list[bytes | None] = await connection.read_response(disable_decoding=True)
        except BaseException:
            # The response may still arrive and would be read as that of the next command.
            await self._discard(connection)
            raise
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            await self._pool.release(connection)
        return values

    async def _discard(self, connection: Any) -> None:
        try:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)


def _pack(keys: Sequence[str]) -> bytes:
    """Return MGET as RESP: an array of bulk strings."""
    parts = [b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)]
    for key in keys:
        text = key.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)
