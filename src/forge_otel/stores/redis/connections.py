"""Connections to Redis: those that notice a demoted server, and pinned ones for reads.

After a fail-over behind one address (a virtual IP, a DNS name) the old master is a read-only replica that keeps its
connections open, so a pool would stay with it. `ReconnectingPools` replaces all connections when one of them finds that
out, when the server has forgotten its authentication, and when a health check fails, because then the other connections
may be dead as well.

Reads go over pinned connections, which take half the time of a read through redis-py's client.

The client takes a connection from the pool, checks it, packs, retries, counts and returns it for each command; that
takes longer than sending and reading. A pinned connection is taken from the pool once. It is used through the public
methods that redis-py's own clients use, so TLS, passwords, databases and protocol versions remain its concern.

Not for Sentinel: its pool has to notice that another server has become the master.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from forge_otel.errors import needs

with needs("redis"):
    from redis.exceptions import AuthenticationError, MasterDownError, ReadOnlyError, RedisError, ResponseError
    from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["DemotedServer", "PinnedConnections", "ReconnectingPools", "check_role"]

_MAX_IDLE: Final = 4
# Before Redis 7 the code of an error inside a script stands in the middle of the message.
_DEMOTED: Final = re.compile(r"-(?:READONLY|MASTERDOWN) ")
_HELLO: Final = b"*1\r\n$5\r\nHELLO\r\n"


class DemotedServer(RedisConnectionError):
    """The server is a replica and accepts no writes; the next attempt connects again."""


class ReconnectingPools:
    """Replaces all connections of a store when one of them is found to be useless; for one event loop.

    Args:
        pools: of redis-py.
    """

    def __init__(self, *pools: Any) -> None:
        self._pools = pools
        self._listeners: list[Callable[[], None]] = []
        self._replacing: asyncio.Task[None] | None = None
        for pool in pools:
            # redis-py has no option for it: the class follows from the URL's scheme, or is Sentinel's.
            pool.connection_class = _watching(pool.connection_class, self.replace)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the connections are replaced."""
        self._listeners.append(listener)

    def replace(self) -> None:
        """Close idle connections in the background, and those in use when they are returned."""
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.get_running_loop().create_task(self._replace())
        for listener in self._listeners:
            listener()

    async def _replace(self) -> None:
        for pool in self._pools:
            with suppress(RedisError, OSError):
                await pool.update_active_connections_for_reconnect()
                await pool.disconnect(inuse_connections=False)


def check_role(hello: Any) -> None:
    """Check the reply to HELLO.

    Raises:
        DemotedServer: the server is a replica.
    """
    pairs = hello if isinstance(hello, Mapping) else dict(zip(hello[::2], hello[1::2], strict=False))
    if pairs.get(b"role", b"master") != b"master":
        raise DemotedServer("the server at this address is a read-only replica")


def _watching(connection_class: type[Any], on_useless: Callable[[], None]) -> type[Any]:
    """Return a subclass that reports errors which say that the connection leads to the wrong server."""

    class WatchingConnection(connection_class):  # type: ignore[misc]
        async def read_response(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().read_response(*args, **kwargs)
            except ResponseError as exc:
                if not isinstance(exc, ReadOnlyError | MasterDownError) and not _DEMOTED.search(str(exc)):
                    raise
                on_useless()
                await self.disconnect(nowait=True)
                raise DemotedServer("the server is a read-only replica now") from exc
            except AuthenticationError:
                # A proxy has connected to another server, which knows nothing of the earlier AUTH.
                on_useless()
                raise

    return WatchingConnection


class PinnedConnections:
    """Reads values over connections that stay open between reads; for one event loop.

    Args:
        pool: of redis-py, for one server; closed with this object. Its connections return bytes and have no socket
            timeouts, because those would apply to each step and not to the whole read.
        timeout_s: time limit of one read in seconds.
    """

    def __init__(self, pool: Any, *, timeout_s: float) -> None:
        self.pool = pool
        self._timeout_s = timeout_s
        self._idle: list[Any] = []

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the values of `keys`, in their order, in one round trip."""
        command = _pack(keys)
        async with asyncio.timeout(self._timeout_s):
            return await self._read(command)

    async def check_roles(self) -> None:
        """Check that every idle connection leads to a master.

        Raises:
            DemotedServer: one leads to a replica.
        """
        for _ in range(len(self._idle)):
            if not self._idle:
                return
            # `_send` appends a connection that has responded, so each is checked once.
            connection = self._idle.pop(0)
            if connection.should_reconnect():
                await self._discard(connection)
            else:
                check_role(await self._send(connection, _HELLO))

    async def warm_up(self) -> None:
        """Connect before the first read."""
        await asyncio.gather(*(self.get(["forge:none"]) for _ in range(_MAX_IDLE)))

    async def close(self) -> None:
        """Disconnect."""
        self._idle.clear()
        await self.pool.aclose()

    async def _read(self, command: bytes) -> list[bytes | None]:
        if self._idle:
            connection = self._idle.pop()
            if connection.should_reconnect():
                await self._discard(connection)
                return await self._read(command)
            try:
                return await self._send(connection, command)
            except (RedisConnectionError, OSError):
                # The server may have closed idle connections, for example at a restart; a new one shows whether it did.
                while self._idle:
                    await self._discard(self._idle.pop())
        return await self._send(await self.pool.get_connection(), command)

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
            await self.pool.release(connection)
        return values

    async def _discard(self, connection: Any) -> None:
        try:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
        finally:
            await self.pool.release(connection)


def _pack(keys: Sequence[str]) -> bytes:
    """Return MGET as RESP: an array of bulk strings."""
    parts = [b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)]
    for key in keys:
        text = key.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)
