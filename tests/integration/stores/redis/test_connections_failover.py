"""The Redis store replaces its connections when their server was demoted or is dead."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Self

import pytest
from tests.servers import RedisServer
from tests.servers.redis_groups import ask

from forge_otel._runtime.plugins import load
from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.connections import DemotedServer
from forge_otel.stores.redis.store import RedisStore
from forge_otel.types import Event


class VirtualAddress:
    """One address in front of two servers; a fail-over leaves open connections with the old one."""

    def __init__(self, target: RedisServer) -> None:
        self.target = target
        self.is_hanging = False
        """Connections that are open now no longer pass anything on, as after a power cut behind a firewall."""
        self._server: asyncio.Server | None = None
        self._epoch = 0
        self._copies: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for copy in self._copies:
            copy.cancel()

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def move_to(self, target: RedisServer, *, hang: bool = False) -> None:
        """Send new connections to `target`."""
        self.target = target
        if hang:
            self._epoch += 1

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        epoch = self._epoch
        upstream = await asyncio.open_connection("127.0.0.1", self.target.port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    if epoch == self._epoch:
                        sink.write(data)
                sink.close()

        for pair in ((reader, upstream[1]), (upstream[0], writer)):
            self._copies.add(asyncio.create_task(copy(*pair)))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


async def settled(store: RedisStore, key: str, value: bytes) -> None:
    """Repeat a write until it succeeds, at most a few times."""
    for _ in range(4):
        with suppress(DemotedServer):
            return await store.set(key, value)
        await asyncio.sleep(0.02)
    raise AssertionError("the store stayed with the replica")


Servers = tuple[RedisServer, RedisServer, VirtualAddress]


@pytest.fixture
async def servers(redis_server: RedisServer) -> AsyncIterator[Servers]:
    """An old master, a new one, and the address that leads to the old one."""
    async with RedisServer() as new, VirtualAddress(redis_server) as address:
        yield redis_server, new, address


def demote(old: RedisServer, new: RedisServer) -> None:
    """Make `old` a replica of `new`; it keeps its clients."""
    assert b"OK" in ask(old, "REPLICAOF", "127.0.0.1", new.port)


async def test_a_refused_write_leads_to_the_new_master(servers: Servers) -> None:
    """The next attempt reads and writes there, over all connections."""
    old, new, address = servers
    async with load("stores", address.url)(address.url, max_bytes=0) as store:
        await asyncio.gather(*(store.set(f"k{n}", b"old") for n in range(20)))
        demote(old, new)
        address.move_to(new)
        with pytest.raises(DemotedServer):
            await store.set("k", b"new")
        await settled(store, "k", b"new")
        assert [await store.get(["k"]) for _ in range(10)] == [[b"new"]] * 10
        assert b"new" in ask(new, "GET", "k")


async def test_a_refused_script_leads_to_the_new_master(
    servers: Servers,
) -> None:
    """Before Redis 7 the error of a script does not begin with READONLY."""
    old, new, address = servers
    async with load("stores", address.url)(address.url, max_bytes=0) as store, store.leases() as leases:
        first = await leases.acquire("one", "token", ttl_s=5, waited_s=0)
        demote(old, new)
        address.move_to(new)
        with pytest.raises(DemotedServer):
            await leases.acquire("two", "token", ttl_s=5, waited_s=0)
        await asyncio.sleep(0.05)
        assert (await leases.acquire("two", "token", ttl_s=5, waited_s=0)).key == "two"
        assert first.key == "one"


async def test_a_refused_progress_event_is_an_error(servers: Servers) -> None:
    """Only events of an older run are dropped in silence."""
    old, new, address = servers
    async with load("stores", address.url)(address.url, max_bytes=0) as store, store.leases() as leases:
        await leases.append("key", [Event(1, 1, b"a")])
        demote(old, new)
        with pytest.raises(DemotedServer):
            await leases.append("key", [Event(1, 2, b"b")])


async def test_a_ping_notices_a_demotion_without_a_write(
    servers: Servers,
) -> None:
    """A service that only reads would never leave the replica."""
    old, new, address = servers
    async with load("stores", address.url)(address.url, max_bytes=0) as store:
        await store.get(["k"])
        demote(old, new)
        ask(new, "SET", "k", "new")
        address.move_to(new)
        with pytest.raises(DemotedServer):
            await store.ping()
        await asyncio.sleep(0.05)
        await store.ping()
        ask(old, "REPLICAOF", "NO", "ONE")
        ask(old, "SET", "k", "old")
        assert [await store.get(["k"]) for _ in range(10)] == [[b"new"]] * 10


async def test_a_server_that_stays_a_replica_is_reported(
    servers: Servers,
) -> None:
    """It cannot keep anything, so its pings fail; once promoted it is used."""
    old, new, address = servers
    async with load("stores", address.url)(address.url, max_bytes=0) as store:
        demote(old, new)
        for _ in range(3):
            with pytest.raises(DemotedServer):
                await store.ping()
        ask(old, "REPLICAOF", "NO", "ONE")
        await settled(store, "k", b"v")
        await store.ping()


async def test_dead_connections_are_replaced_after_one_failed_ping(
    servers: Servers,
) -> None:
    """Half-open TCP: nothing is answered and nothing is closed; each call would wait for one of them."""
    _, new, address = servers
    async with load("stores", address.url)(address.url, max_bytes=0) as store:
        await asyncio.gather(*(store.set(f"k{n}", b"old") for n in range(20)))
        address.move_to(new, hang=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await store.ping()
        await asyncio.sleep(0.05)
        started_s = time.monotonic()
        await asyncio.gather(*(store.set(f"k{n}", b"new") for n in range(20)), store.get(["k1"]))
        assert time.monotonic() - started_s < 0.4


async def test_a_near_cache_tracks_the_new_master(servers: Servers) -> None:
    """A copy that was read from the old master is dropped, and changes on the new one are received."""
    old, new, address = servers
    inner = load("stores", address.url)(address.url, max_bytes=0)
    async with NearStore(inner, max_bytes=100_000) as store:
        await store.set("forge:l1:k", b"old")
        await store.fetch(["forge:l1:k"])
        assert store.peek(["forge:l1:k"]) == [b"old"]
        demote(old, new)
        address.move_to(new)
        with pytest.raises(DemotedServer):
            await store.set("forge:l1:other", b"x")
        assert store.peek(["forge:l1:k"]) is None
        ask(new, "SET", "forge:l1:k", "new")
        async with asyncio.timeout(10):
            while not await store.synchronize():
                await asyncio.sleep(0.05)
        assert await store.fetch(["forge:l1:k"]) == [b"new"]
        ask(new, "SET", "forge:l1:k", "newer")
        await until(lambda: store.peek(["forge:l1:k"]) is None)
