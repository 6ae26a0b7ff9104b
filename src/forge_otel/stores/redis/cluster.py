"""A store in a Redis Cluster.

An entry and the epochs of its tags lie in different slots: an epoch is shared by entries of all slots, so that no hash
tag could bring them together but one for everything, which would put the whole cache on one node. So the keys are
asked for in one pipeline, which redis-py splits by node and sends to all of them at once: one round trip's time, and
as many commands as keys. An entry and its epochs are then not read at one instant; this is safe, because an epoch only
ever changes to one that no entry was made under.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self, cast

from forge_otel.errors import needs
from forge_otel.stores.redis.commands import RedisValues

with needs("redis"):
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisClusterException, RedisError, ResponseError

__all__ = ["ClusterStore", "open_cluster"]

_SCAN_COUNT: Final = 500
# A node that has moved is found by one more attempt, after the map of slots was read again.
_ATTEMPTS_AFTER_FAILURE: Final = 1
# At every fifth redirection redis-py closes all connections, also those that others wait on, and their commands fail
# (an AttributeError inside redis-py among them). Without that it corrects the place of the one slot, which is enough:
# before it knows the cluster it sends anywhere, so that a first burst of callers is redirected often.
_NEVER_CLOSE_WHEN_REDIRECTED: Final = 0
_WARM_UP_S: Final = 0.5


class ClusterStore(RedisValues):
    """Keeps values in a Redis Cluster.

    Args:
        client: a client that returns bytes; closed with the store.
    """

    is_one_server = False
    """Whether one `get` may ask for any keys."""

    def __init__(self, client: RedisCluster) -> None:
        super().__init__(client)

    async def __aenter__(self) -> Self:
        # So that the first callers find their nodes; a cluster that is away is found by the guard around the store.
        with suppress(RedisError, RedisClusterException, OSError, TimeoutError):
            async with asyncio.timeout(_WARM_UP_S):
                await self._client.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order, from all nodes at once."""
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.get(key)
        found = await pipeline.execute(raise_on_error=False)
        return [_value(one) for one in found]

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys without blocking the servers; return how many there were."""
        return sum(await asyncio.gather(*(self._client.unlink(key) for key in keys)))

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return the next cursor, `node:cursor` and empty at the end, and some keys that begin with `prefix`."""
        await self._client.initialize()
        nodes = sorted(self._client.get_primaries(), key=lambda node: str(node.name))
        index, _, place = (cursor or "0:0").partition(":")
        if int(index) >= len(nodes):
            return "", []
        node = nodes[int(index)]
        reply: Any = await self._client.scan(int(place), match=f"{prefix}*", count=_SCAN_COUNT, target_nodes=node)
        cursors, keys = reply
        following = next(iter(cursors.values()))
        is_last = not following and int(index) + 1 == len(nodes)
        cursor = "" if is_last else f"{index}:{following}" if following else f"{int(index) + 1}:0"
        return cursor, [str(key, "utf-8") for key in keys]

    async def ping(self) -> None:
        """Raise if a master does not answer."""
        await self._client.ping(target_nodes=RedisCluster.PRIMARIES)


def open_cluster(hosts: Sequence[tuple[str, int]], options: Mapping[str, Any]) -> ClusterStore:
    """Open a cluster; nothing is connected yet.

    Args:
        hosts: of some nodes; the others are found through them.
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
        # As MGET reads it.
        return None
    if isinstance(found, Exception):
        raise found
    return cast("bytes | None", found)
