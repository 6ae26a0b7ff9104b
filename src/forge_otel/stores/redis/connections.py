"""Reads on connections that are kept: half of what a read through redis-py's client costs is spent around it.

The client takes a connection from the pool, looks whether it is well, packs, retries, counts and gives it back; all
that takes longer than to send and to read. A lane is a connection that is taken once. It is used as redis-py's own
clients use it, by its public methods, so that TLS, passwords, databases and protocols stay its concern.

Not for Sentinel, whose pool has to notice that another server is the master now.
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

_KEPT: Final = 4


class PinnedConnections:
    """Reads values; for one event loop.

    Args:
        pool: of redis-py, for one server, with connections that return bytes and have no timeouts of their own, because
            theirs are one for each step; closed with the lanes.
        timeout_s: how long a read takes at most, whoever else limits it.
    """

    def __init__(self, pool: Any, *, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._idle: list[Any] = []

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order, in one round trip."""
        packed = _packed(keys)
        async with asyncio.timeout(self._timeout_s):
            return await self._read(packed)

    async def warm_up(self) -> None:
        """Connect before the first callers come."""
        await asyncio.gather(*(self.get(["forge:none"]) for _ in range(_KEPT)))

    async def close(self) -> None:
        """Disconnect."""
        self._idle.clear()
        await self._pool.aclose()

    async def _read(self, packed: bytes) -> list[bytes | None]:
        if self._idle:
            try:
                return await self._ask(self._idle.pop(), packed)
            except (RedisConnectionError, OSError):
                # The server may have closed it since it was used; a new one tells.
                while self._idle:
                    await self._give_back(self._idle.pop())
        return await self._ask(await self._pool.get_connection(), packed)

    async def _ask(self, lane: Any, packed: bytes) -> list[bytes | None]:
        try:
            await lane.send_packed_command(packed, check_health=False)
            found: list[bytes | None] = await lane.read_response(disable_decoding=True)
        except BaseException:
            # An answer may still come, which would be taken for that to the next command.
            await self._give_back(lane)
            raise
        if len(self._idle) < _KEPT:
            self._idle.append(lane)
        else:
            await self._pool.release(lane)
        return found

    async def _give_back(self, lane: Any) -> None:
        try:
            with suppress(RedisError, OSError):
                await lane.disconnect(nowait=True)
        finally:
            await self._pool.release(lane)


def _packed(keys: Sequence[str]) -> bytes:
    """Return the command as it is sent (RESP: an array of bulk strings)."""
    parts = [b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)]
    for key in keys:
        text = key.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)
