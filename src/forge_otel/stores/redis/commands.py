"""What a store in one Redis and one in a Cluster do alike: writes, each of which concerns one key at a time."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from forge_otel.errors import needs
from forge_otel.leases.redis import RedisLeases

with needs("redis"):
    from redis.exceptions import ResponseError

__all__ = ["RedisValues"]


class RedisValues:
    """Writes values in Redis.

    Args:
        client: of redis-py, for one server, Sentinel or Cluster; returns bytes.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Store `value`, for `ttl_s` seconds or until it is evicted."""
        await self._client.set(key, value, px=None if ttl_s is None else max(1, round(ttl_s * 1000)))

    async def add(self, key: str, value: bytes) -> bytes:
        """Store `value` if `key` is unset; return what is stored now."""
        if await self._client.set(key, value, nx=True):
            return value
        try:
            stored = cast("bytes | None", await self._client.get(key))
        except ResponseError:
            # Of another type than ours: reads find nothing there, so that it would be in the way for ever.
            await self._client.set(key, value)
            stored = cast("bytes | None", await self._client.get(key))
        return value if stored is None else stored

    async def increment(self, amounts: Mapping[str, int], *, ttl_s: float) -> list[int]:
        """Add to counters that live `ttl_s` seconds; return what they then are, in the order of `amounts`."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key, amount in amounts.items():
                pipe.incrby(key, amount)
                pipe.expire(key, max(1, round(ttl_s)))
            return cast("list[int]", (await pipe.execute())[::2])

    def leases(self, *, on_commit: Callable[[str], None] | None = None) -> RedisLeases:
        """Return the leases on this store's entries; open and close them inside the store's own life.

        Args:
            on_commit: called with the key of an entry when one may have been written.
        """
        return RedisLeases(self._client, on_commit=on_commit)
