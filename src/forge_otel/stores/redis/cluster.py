"""A store in a Redis Cluster.

An entry and the versions of its tags are in different hash slots: a tag version is shared by entries of all slots, so a
common hash tag would put the whole cache on one node. The keys are read in one pipeline, which redis-py splits by node
and sends to all nodes at once: the time of one round trip, and one command per key. An entry and its tag versions are
therefore not read at one instant. This is safe, because a tag version only changes to one that no entry has.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self, cast

from forge_otel.errors import needs
from forge_otel.leases.redis import RedisLeases
from forge_otel.stores.redis.commands import RedisCommands

with needs("redis"):
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisClusterException, RedisError, ResponseError

__all__ = ["ClusterStore", "open_cluster"]

_SCAN_COUNT: Final = 500
# A second attempt, after the slot map was read again, finds a slot that has moved to another node.
_ATTEMPTS_AFTER_FAILURE: Final = 1
# By default redis-py closes all connections at every fifth redirection, and commands in flight on them fail (some with
# an AttributeError inside redis-py). Correcting the one slot is enough: before the slot map is loaded, commands go to
# any node, so a first burst of calls is redirected often.
_NEVER_CLOSE_WHEN_REDIRECTED: Final = 0
_WARM_UP_S: Final = 0.5


class ClusterStore(RedisCommands):
    """Store in a Redis Cluster.

    Args:
        client: returns bytes; closed with the store.
    """

    def __init__(self, client: RedisCluster) -> None:
        super().__init__(client)

    async def __aenter__(self) -> Self:
        # Loads the slot map before the first call; whether the cluster is available is left to the guard.
        with suppress(RedisError, RedisClusterException, OSError, TimeoutError):
            async with asyncio.timeout(_WARM_UP_S):
                await self._client.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys`, in their order, from all nodes at once."""
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.get(key)
        found = await pipeline.execute(raise_on_error=False)
        return [_value(one) for one in found]

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys without blocking the servers (UNLINK); return how many existed."""
        return sum(await asyncio.gather(*(self._client.unlink(key) for key in keys)))

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return the next cursor, `node:cursor` and empty at the end, and some keys that begin with `prefix`."""
        await self._client.initialize()
        nodes = sorted(self._client.get_primaries(), key=lambda node: str(node.name))
        index, _, node_cursor = (cursor or "0:0").partition(":")
        if int(index) >= len(nodes):
            return "", []
        node = nodes[int(index)]
        reply: Any = await self._client.scan(int(node_cursor), match=f"{prefix}*", count=_SCAN_COUNT, target_nodes=node)
        cursors, keys = reply
        following = next(iter(cursors.values()))
        is_last = not following and int(index) + 1 == len(nodes)
        cursor = "" if is_last else f"{index}:{following}" if following else f"{int(index) + 1}:0"
        return cursor, [str(key, "utf-8") for key in keys]

    def leases(self) -> RedisLeases:
        """Return the leases on this store's entries; open and close them while the store is open."""
        return RedisLeases(self._client)

    async def ping(self) -> None:
        """Raise unless every master responds."""
        await self._client.ping(target_nodes=RedisCluster.PRIMARIES)


def open_cluster(hosts: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> ClusterStore:
    """Return the store of a cluster; nothing is connected yet.

    Args:
        hosts: host and port of some nodes, through which the rest are found.
        options: of each connection.
    """
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in hosts],
        retry=Retry(NoBackoff(), _ATTEMPTS_AFTER_FAILURE),
        reinitialize_steps=_NEVER_CLOSE_WHEN_REDIRECTED,
        **options,
    )
    return ClusterStore(client)


def _value(found: Any) -> bytes | None:
    if isinstance(found, ResponseError) and "WRONGTYPE" in str(found):
        # MGET reads a key of another type as missing.
        return None
    if isinstance(found, Exception):
        raise found
    return cast("bytes | None", found)
