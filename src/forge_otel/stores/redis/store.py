"""A store in Redis 6.2 or newer (or Valkey), shared by all workers.

`redis://host:6379/0`, `rediss://` with TLS, `unix:///path`; `redis+sentinel://host:26379,host:26379/name/0`
follows the master `name` through fail-overs; `redis+cluster://host:6379,host:6379` is a Redis Cluster. With TLS the
last two begin with `rediss+`.

Deliberate divergences from redis-py's defaults: `Redis(host=…)` retries ten times and waits five seconds for a silent
server, so one call takes up to a minute. Here each call is attempted once with short socket timeouts, because the guard
around the store is responsible for retries and deadlines. Maintenance notifications are off: they relax the timeouts to
10 s.

A master that is demoted to a replica keeps its connections open, so all connections are replaced after a `READONLY`
error, also one inside a script, and after a failed health check.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, cast
from urllib.parse import SplitResult, unquote, urlsplit

from forge_otel.errors import ConfigurationError, needs
from forge_otel.stores.redis.connections import PinnedConnections, ReconnectingPools, check_role

with needs("redis"):
    from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff
    from redis.exceptions import NoPermissionError, ResponseError
    from redis.maint_notifications import MaintNotificationsConfig

    from forge_otel.leases.redis import RedisLeases
    from forge_otel.stores.redis.cluster import ClusterStore, open_cluster
    from forge_otel.stores.redis.commands import RedisCommands

__all__ = ["RedisStore", "open_url"]

_CONNECT_TIMEOUT_S: Final = 0.5
# Slightly longer than the guard's own time limit, so that the guard acts first and the socket is only a safety net.
_SOCKET_TIMEOUT_S: Final = 1.0
_SCAN_COUNT: Final = 500
_SENTINEL_PORT, _CLUSTER_PORT = 26379, 6379
# More than the slots of both guards (lookups and single-flight), or calls that wait for a connection would look slow.
_MAX_CONNECTIONS: Final = 48
_WARM_CONNECTIONS: Final = 10


class RedisStore(RedisCommands):
    """Store in one Redis server, or behind Sentinels.

    Args:
        client: returns bytes; closed with the store.
        sentinels: clients of the Sentinels; closed with the store.
        pinned: connections for reads; closed with the store. None reads through the client.

    Attributes:
        connections: replaces all connections that were made so far.
    """

    def __init__(
        self, client: Redis, *, sentinels: Sequence[Redis] = (), pinned: PinnedConnections | None = None
    ) -> None:
        super().__init__(client)
        self._pinned = pinned
        self._sentinels = sentinels
        self.connections = ReconnectingPools(client.connection_pool, *([] if pinned is None else [pinned.pool]))

    async def __aenter__(self) -> Self:
        await self._warm_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pinned is not None:
            await self._pinned.close()
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys`, in their order, in one round trip."""
        if self._pinned is not None:
            return await self._pinned.get(keys)
        return cast("list[bytes | None]", await self._client.mget(keys))

    async def add_all(self, values: Mapping[str, bytes]) -> list[bytes]:
        """Store each value whose key is unset, in one round trip; return the values that are stored now, in order."""
        async with self._client.pipeline(transaction=False) as pipe:
            for key, value in values.items():
                pipe.set(key, value, nx=True)
            pipe.mget(list(values))
            *_, stored = await pipe.execute()
        return [
            await self.add(key, values[key]) if found is None else found
            for key, found in zip(values, cast("list[bytes | None]", stored), strict=True)
        ]

    async def get_with_ttls(
        self, keys: Sequence[str], expiring: Sequence[str], /
    ) -> tuple[list[bytes | None], list[int]]:
        """Return the values of `keys` and the TTLs of the keys in `expiring`, in one round trip.

        TTLs are in milliseconds; -1 is no expiry, -2 a missing key.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.mget(keys)
            for key in expiring:
                pipe.pttl(key)
            values, *ttls_ms = await pipe.execute()
        return values, ttls_ms

    def connection(self) -> Any:
        """Return a new RESP3 connection that is not connected yet; the caller closes it."""
        pool = self._client.connection_pool
        return pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})

    async def delete(self, keys: Sequence[str], /) -> int:
        """Delete the keys without blocking the server (UNLINK); return how many existed."""
        return await self._client.unlink(*keys) if keys else 0

    async def _warm_up(self) -> None:
        """Connect before the first call; whether the server is available is left to the guard around the store."""
        pings = [asyncio.create_task(self.ping()) for _ in range(_WARM_CONNECTIONS)]
        if self._pinned is not None:
            pings.append(asyncio.create_task(self._pinned.warm_up()))
        _, late = await asyncio.wait(pings, timeout=_CONNECT_TIMEOUT_S)
        for ping in late:
            ping.cancel()
        await asyncio.gather(*pings, return_exceptions=True)

    async def scan(self, prefix: str, cursor: str = "", /) -> tuple[str, list[str]]:
        """Return the next cursor, empty at the end, and some keys that begin with `prefix`."""
        found, keys = await self._client.scan(int(cursor or 0), match=f"{prefix}*", count=_SCAN_COUNT)
        return (str(found) if found else ""), [str(key, "utf-8") for key in cast("list[bytes]", keys)]

    def leases(self, *, on_commit: Callable[[str], None] | None = None) -> RedisLeases:
        """Return the leases on this store's entries; open and close them while the store is open.

        Args:
            on_commit: called with the key of an entry that may have been written.
        """
        return RedisLeases(self._client, on_commit=on_commit)

    async def ping(self) -> None:
        """Raise unless the server responds and accepts writes, which a replica does not."""
        try:
            try:
                check_role(await self._client.execute_command("HELLO"))
            except (ResponseError, NoPermissionError):
                # A proxy without HELLO, or a user who may not call it.
                await self._client.ping()
            else:
                if self._pinned is not None:
                    await self._pinned.check_roles()
        except BaseException:
            # The other connections may lead to the same dead or demoted server.
            self.connections.replace()
            raise


def open_url(url: str, *, max_bytes: int) -> RedisStore | ClusterStore:
    """Return the store of a URL, in one of the forms in the module's docstring.

    Raises:
        ConfigurationError: a Sentinel or Cluster URL is incomplete.
    """
    # The server limits its own memory (`maxmemory`).
    del max_bytes
    kind = urlsplit(url).scheme.partition("+")[2]
    if not kind:
        # Blocking: connecting takes as long as twenty commands, so a burst of calls waits for a free connection.
        pool = BlockingConnectionPool.from_url(
            url, max_connections=_MAX_CONNECTIONS, timeout=_SOCKET_TIMEOUT_S, **_options()
        )
        pinned = ConnectionPool.from_url(url, **_options() | {"socket_timeout": None})
        return RedisStore(Redis.from_pool(pool), pinned=PinnedConnections(pinned, timeout_s=_SOCKET_TIMEOUT_S))
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
    # The credentials in the URL are those of the master; Sentinels usually have none.
    own = {key: value for key, value in options.items() if key not in {"username", "password"}}
    sentinel: Any = cast("Any", Sentinel)(_hosts(parsed, _SENTINEL_PORT), sentinel_kwargs=own)
    client = sentinel.master_for(name, db=int(database or 0), **options)
    return RedisStore(client, sentinels=sentinel.sentinels)


def _hosts(parsed: SplitResult, default_port: int) -> list[tuple[str, int]]:
    found = []
    for address in parsed.netloc.rpartition("@")[2].split(","):
        # Parsed as a URL, which handles IPv6 addresses.
        part = urlsplit(f"//{address}")
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
