"""A store in Redis 6.2 or newer (or Valkey), shared by all workers.

`redis://host:6379/0`, `rediss://` with TLS, `unix:///path`; `redis+sentinel://host:26379,host:26379/name/0`
follows the master `name` through fail-overs; `redis+cluster://host:6379,host:6379` is a Redis Cluster. With TLS the
last two begin with `rediss+`.

Deliberate divergences from redis-py's defaults: `Redis(host=…)` retries ten times and waits five seconds for a silent
server, so one call costs up to a minute; here a call is tried once and its sockets time out, because the guard around
the store owns retries and deadlines. Maintenance notifications are off, because they relax the timeouts to 10 s.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, cast
from urllib.parse import SplitResult, unquote, urlsplit

from forge_otel.errors import ConfigurationError, needs
from forge_otel.stores.redis.connections import PinnedConnections

with needs("redis"):
    from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff
    from redis.maint_notifications import MaintNotificationsConfig

    from forge_otel.stores.redis.cluster import ClusterStore, open_cluster
    from forge_otel.stores.redis.commands import RedisValues

__all__ = ["RedisStore", "open_url"]

_CONNECT_TIMEOUT_S: Final = 0.5
# A little above the guard's own bound, so that the guard decides and the socket is only the net below it.
_SOCKET_TIMEOUT_S: Final = 1.0
_SCAN_COUNT: Final = 500
_SENTINEL_PORT, _CLUSTER_PORT = 26379, 6379
# Above the places of both guards around it, look-ups and flights, or calls that wait for a connection look slow.
_MAX_CONNECTIONS: Final = 48
_WARM_CONNECTIONS: Final = 10


class RedisStore(RedisValues):
    """Keeps values in Redis.

    Args:
        client: a client that returns bytes; closed with the store.
        sentinels: closed with the store, too.
        lanes: read in place of the client; closed with the store.
    """

    is_one_server = True
    """Whether one `get` may ask for any keys."""

    def __init__(
        self, client: Redis, *, sentinels: Sequence[Redis] = (), lanes: PinnedConnections | None = None
    ) -> None:
        super().__init__(client)
        self._lanes = lanes
        self._sentinels = sentinels

    async def __aenter__(self) -> Self:
        await self._warm_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._lanes is not None:
            await self._lanes.close()
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys` in their order, in one round trip."""
        if self._lanes is not None:
            return await self._lanes.get(keys)
        return cast("list[bytes | None]", await self._client.mget(keys))

    async def add_all(self, values: Mapping[str, bytes]) -> list[bytes]:
        """Do what `add` does for several keys, in one round trip; return what is stored, in their order."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key, value in values.items():
                pipe.set(key, value, nx=True)
            pipe.mget(list(values))
            *_, stored = await pipe.execute()
        return [
            await self.add(key, values[key]) if found is None else found
            for key, found in zip(values, cast("list[bytes | None]", stored), strict=True)
        ]

    async def get_with_lives(
        self, keys: Sequence[str], lasting: Sequence[str], /
    ) -> tuple[list[bytes | None], list[int]]:
        """Return the values of `keys` and the lives of those in `lasting`, in one round trip.

        Lives are in milliseconds, -1 for ever, -2 if the key is not there.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.mget(keys)
            for key in lasting:
                pipe.pttl(key)
            values, *lives_ms = await pipe.execute()
        return values, lives_ms

    def connection(self) -> Any:
        """Return a connection in RESP3, not yet connected, for whoever listens to pushes; it is the caller's."""
        pool = self._client.connection_pool
        return pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys without blocking the server; return how many there were."""
        return await self._client.unlink(*keys) if keys else 0

    async def _warm_up(self) -> None:
        """Connect before the first callers come; a server that is away is found by the guard around the store."""
        pings = [asyncio.create_task(self.ping()) for _ in range(_WARM_CONNECTIONS)]
        if self._lanes is not None:
            pings.append(asyncio.create_task(self._lanes.warm_up()))
        _, late = await asyncio.wait(pings, timeout=_CONNECT_TIMEOUT_S)
        for ping in late:
            ping.cancel()
        await asyncio.gather(*pings, return_exceptions=True)

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return the next cursor, empty at the end, and some keys that begin with `prefix`; never by KEYS."""
        found, keys = await self._client.scan(int(cursor or 0), match=f"{prefix}*", count=_SCAN_COUNT)
        return (str(found) if found else ""), [str(key, "utf-8") for key in cast("list[bytes]", keys)]

    async def ping(self) -> None:
        """Raise if the server does not answer."""
        await self._client.ping()


def open_url(url: str, *, max_bytes: int) -> RedisStore | ClusterStore:
    """Open a URL as the module's docstring has them; the server bounds its own memory.

    Raises:
        ConfigurationError: a Sentinel or Cluster URL lacks something.
    """
    del max_bytes
    kind = urlsplit(url).scheme.partition("+")[2]
    if not kind:
        # A herd of callers waits for these: to connect takes as long as twenty answers.
        pool = BlockingConnectionPool.from_url(
            url, max_connections=_MAX_CONNECTIONS, timeout=_SOCKET_TIMEOUT_S, **_options()
        )
        lanes = ConnectionPool.from_url(url, **_options() | {"socket_timeout": None})
        return RedisStore(Redis.from_pool(pool), lanes=PinnedConnections(lanes, timeout_s=_SOCKET_TIMEOUT_S))
    parsed = urlsplit(url)
    credentials = {
        name: unquote(value)
        for name, value in (("username", parsed.username), ("password", parsed.password))
        if value is not None
    }
    options = _options() | credentials | {"ssl": parsed.scheme.startswith("rediss")}
    if kind == "sentinel":
        return _sentinel(parsed, options)
    if kind == "cluster":
        options.pop("retry")
        return open_cluster(_hosts(parsed, _CLUSTER_PORT), options)
    raise ConfigurationError([f"cache_url begins with {parsed.scheme!r}; use redis+sentinel or redis+cluster"])


def _sentinel(parsed: SplitResult, options: dict[str, Any]) -> RedisStore:
    name, _, database = parsed.path.strip("/").partition("/")
    if not name or not (database or "0").isdecimal():
        raise ConfigurationError(["cache_url names no master; write redis+sentinel://host:26379,host:26379/name/0"])
    # Sentinels usually have no password, and their own where they have one: that is not in the URL.
    own = {key: value for key, value in options.items() if key not in {"username", "password"}}
    sentinel: Any = cast("Any", Sentinel)(_hosts(parsed, _SENTINEL_PORT), sentinel_kwargs=own)
    client = sentinel.master_for(name, db=int(database or 0), **options)
    return RedisStore(client, sentinels=sentinel.sentinels)


def _hosts(parsed: SplitResult, default_port: int) -> list[tuple[str, int]]:
    found = []
    for place in parsed.netloc.rpartition("@")[2].split(","):
        # As a URL, which knows how IPv6 addresses are written.
        part = urlsplit(f"//{place}")
        if not part.hostname:
            raise ConfigurationError(["cache_url has an empty host; write host:port, with commas between several"])
        found.append((part.hostname, part.port or default_port))
    return found


def _options() -> dict[str, Any]:
    return {
        "decode_responses": False,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": _SOCKET_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
