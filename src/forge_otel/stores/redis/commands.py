"""Commands that are the same on one server and in a Cluster, because each concerns one key."""

from collections.abc import Mapping
from typing import Any, cast

from forge_otel.errors import needs

with needs("redis"):
    from redis.exceptions import ResponseError

__all__ = ["RedisCommands"]


class RedisCommands:
    """Writes to Redis.

    Args:
        client: of redis-py, for one server, Sentinel or Cluster; returns bytes.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        await self._client.set(key, value, px=None if ttl_s is None else max(1, round(ttl_s * 1000)))

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return the value that is stored now."""
        if await self._client.set(key, value, nx=True):
            return value
        try:
            stored = cast("bytes | None", await self._client.get(key))
        except ResponseError:
            # The key holds another type (WRONGTYPE). MGET reads it as missing, so it would block the key forever.
            await self._client.set(key, value)
            stored = cast("bytes | None", await self._client.get(key))
        return value if stored is None else stored

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters and renew their TTL of `ttl_s` seconds; return their values, in the order of `amounts`."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key, amount in amounts.items():
                pipe.incrby(key, amount)
                pipe.expire(key, max(1, round(ttl_s)))
            return cast("list[int]", (await pipe.execute())[::2])
