"""A store in Redis 6.2 or newer (or Valkey), shared by all workers.

Deliberate divergences from redis-py's defaults: `Redis(host=…)` retries ten times and waits five seconds for a silent
server, so one call costs up to a minute; here a call is tried once and its sockets time out, because the guard around
the store owns retries and deadlines. Maintenance notifications are off, because they relax the timeouts to 10 s.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self, cast

from forge_otel.errors import needs
from forge_otel.stores.redis_leases import RedisLeases

with needs("redis"):
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.maint_notifications import MaintNotificationsConfig

__all__ = ["RedisStore", "open_url"]

_CONNECT_TIMEOUT_S = 0.5
# A little above the guard's own bound, so that the guard decides and the socket is only the net below it.
_SOCKET_TIMEOUT_S = 1.0
_MAX_CONNECTIONS = 32
_WARM_CONNECTIONS = 4


class RedisStore:
    """Keeps values in Redis.

    Args:
        client: a client that returns bytes; closed with the store.
    """

    is_one_server = True
    """Whether one `get` may ask for any keys."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        await self._warm_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order, in one round trip."""
        return cast("list[bytes | None]", await self._client.mget(keys))

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        await self._client.set(key, value, px=None if ttl_s is None else max(1, round(ttl_s * 1000)))

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return what is stored now."""
        if await self._client.set(key, value, nx=True):
            return value
        stored = cast("bytes | None", await self._client.get(key))
        return value if stored is None else stored

    async def increase(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters that live `ttl_s` seconds; return what they then are, in the order of `amounts`."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key, amount in amounts.items():
                pipe.incrby(key, amount)
                pipe.expire(key, max(1, round(ttl_s)))
            return cast("list[int]", (await pipe.execute())[::2])

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys without blocking the server; return how many there were."""
        return await self._client.unlink(*keys) if keys else 0

    async def _warm_up(self) -> None:
        """Connect before the first callers come; a server that is away is found by the guard around the store."""
        pings = [asyncio.create_task(self.ping()) for _ in range(_WARM_CONNECTIONS)]
        _, late = await asyncio.wait(pings, timeout=_CONNECT_TIMEOUT_S)
        for ping in late:
            ping.cancel()
        await asyncio.gather(*pings, return_exceptions=True)

    def leases(self) -> RedisLeases:
        """Return the leases on this store's entries; open and close them inside the store's own life."""
        return RedisLeases(self._client)

    async def ping(self) -> None:
        """Raise if the server does not answer."""
        await self._client.ping()


def open_url(url: str, *, max_bytes: int) -> RedisStore:
    """Open ``redis://``, ``rediss://`` or ``unix://``; the server bounds its own memory."""
    del max_bytes
    # A herd of callers waits for these: to connect takes as long as twenty answers.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=_SOCKET_TIMEOUT_S,
        decode_responses=False,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        socket_timeout=_SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return RedisStore(Redis.from_pool(pool))
