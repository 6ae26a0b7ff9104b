"""Each fault of the proxy as seen by a Redis client and by plain sockets."""

import asyncio
import errno
import os
import resource
import socket
import time
from contextlib import suppress
from typing import Any

import pytest
import redis.exceptions
from tests.unit.testing.conftest import connected, eventually, open_files, redis_client

from forge_otel.errors import ConfigurationError, NotOpen
from forge_otel.testing.faults.proxy import (
    CutOff,
    Fault,
    FaultProxy,
    Garbage,
    HttpAnswer,
    PassThrough,
    Refuse,
    Reset,
    Silent,
    Slow,
    Trickle,
)

PING = b"PING\r\n"
PONG = b"+PONG\r\n"
HARD_FAULTS = [Refuse(), Reset(), Silent(), Garbage(), CutOff(after_bytes=3), HttpAnswer.unavailable()]


def name_of(fault: Fault) -> str:
    """Return the name of the fault, for test ids."""
    return type(fault).__name__


async def test_without_a_fault_data_is_forwarded(redis_proxy: FaultProxy) -> None:
    """Data is forwarded unchanged, also megabytes in both directions."""
    value = bytes(range(256)) * 20_000
    async with redis_client(redis_proxy) as client:
        await client.set("large", value)
        assert await client.get("large") == value
    traffic = redis_proxy.traffic
    assert traffic.upstream.received_bytes == traffic.upstream.sent_bytes > len(value)
    assert traffic.downstream.received_bytes == traffic.downstream.sent_bytes > len(value)


async def test_refused(redis_proxy: FaultProxy) -> None:
    """The port is closed and stays reserved: ECONNREFUSED during the fault, service before and after."""
    port = redis_proxy.port
    async with redis_client(redis_proxy) as client:
        assert await client.ping()
        async with redis_proxy.fault(Refuse()):
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()
            with pytest.raises(ConnectionRefusedError) as refused:
                await asyncio.open_connection("127.0.0.1", port)
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        assert refused.value.errno == errno.ECONNREFUSED
        assert await client.ping()
    assert redis_proxy.port == port


async def test_reset_of_a_new_connection(redis_proxy: FaultProxy) -> None:
    """A new connection is accepted, and reset when the client sends data."""
    redis_proxy.set(Reset())
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_reset_of_an_open_connection(redis_proxy: FaultProxy) -> None:
    """An idle open connection is reset at once."""
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        assert await reader.readline() == PONG
        redis_proxy.set(Reset())
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_silence_on_a_new_connection(redis_proxy: FaultProxy) -> None:
    """A new connection is accepted and read; no data is returned, and the server receives none."""
    redis_proxy.set(Silent())
    async with redis_client(redis_proxy, timeout_s=0.1) as client:
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.ping()
    assert redis_proxy.traffic.upstream.received_bytes > 0
    assert redis_proxy.traffic.upstream.sent_bytes == 0


async def test_silence_on_an_open_connection(redis_proxy: FaultProxy) -> None:
    """An open connection goes silent."""
    async with redis_client(redis_proxy, timeout_s=0.1) as client:
        assert await client.ping()
        before = redis_proxy.traffic.connections
        redis_proxy.set(Silent())
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.ping()
        assert redis_proxy.traffic.connections == before


async def test_silence_closes_connections_of_clients_that_give_up(redis_proxy: FaultProxy) -> None:
    """Connections of clients that have disconnected are closed."""
    redis_proxy.set(Silent())
    for _ in range(20):
        async with connected(redis_proxy) as (_, writer):
            writer.write(PING)
    await eventually(lambda: redis_proxy.open_connections == 0)


async def test_slow_adds_latency_each_way(redis_proxy: FaultProxy) -> None:
    """A round trip takes the latency of both directions."""
    async with redis_client(redis_proxy) as client:
        await client.ping()
        redis_proxy.set(Slow(request_s=0.1, answer_s=0.15))
        started_s = time.monotonic()
        await client.ping()
        assert 0.25 <= time.monotonic() - started_s < 1.0


async def test_slow_does_not_limit_the_throughput(redis_proxy: FaultProxy) -> None:
    """Megabytes are delayed once, not once for each packet."""
    async with redis_client(redis_proxy) as client:
        await client.set("large", bytes(4_000_000))
        redis_proxy.set(Slow(answer_s=0.2))
        started_s = time.monotonic()
        assert await client.get("large") == bytes(4_000_000)
        # 16 packets of 256 kB at least.
        assert 0.2 <= time.monotonic() - started_s < 1.6


async def test_trickle(redis_proxy: FaultProxy) -> None:
    """A response arrives in chunks: no single read is late, the whole is."""
    redis_proxy.set(Trickle(chunk_bytes=2, interval_s=0.05))
    drops: list[bytes] = []
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        started_s = time.monotonic()
        while sum(map(len, drops)) < len(PONG):
            drops.append(await asyncio.wait_for(reader.read(100), 5))
        assert time.monotonic() - started_s >= 3 * 0.05
    assert drops == [b"+P", b"ON", b"G\r", b"\n"]


async def test_garbage_is_a_protocol_error(redis_proxy: FaultProxy) -> None:
    """The client fails on the invalid response at once, without a timeout; the server has received the request."""
    async with redis_client(redis_proxy) as client:
        await client.set("key", "before")
        async with redis_proxy.fault(Garbage()):
            with pytest.raises(redis.exceptions.RedisError) as seen:
                await client.set("key", "after")
        assert not isinstance(seen.value, redis.exceptions.TimeoutError)
        assert await client.get("key") == b"after"


async def test_garbage_is_the_same_for_the_same_seed(redis_proxy: FaultProxy) -> None:
    """The same seed yields the same random bytes."""

    async def answer(seed: int) -> bytes:
        redis_proxy.set(Garbage(seed=seed))
        async with connected(redis_proxy) as (reader, writer):
            writer.write(PING)
            return await reader.readline()

    first, again, other = await answer(1), await answer(1), await answer(2)
    assert first == again != other
    assert len(first) == len(PONG) + 2


async def test_cut_off(redis_proxy: FaultProxy) -> None:
    """The response is cut; each connection has its own byte count."""
    redis_proxy.set(CutOff(after_bytes=3))
    for _ in range(2):
        async with connected(redis_proxy) as (reader, writer):
            writer.write(PING)
            assert await reader.read() == PONG[:3]
    async with redis_client(redis_proxy) as client:
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()


async def test_cut_off_counts_from_the_beginning_of_the_fault(redis_proxy: FaultProxy) -> None:
    """Bytes that an open connection received before the fault are not counted."""
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        assert await reader.readline() == PONG
        redis_proxy.set(CutOff(after_bytes=5))
        writer.write(PING)
        assert await reader.read() == PONG[:5]


async def test_an_http_fault_resets_other_protocols(redis_proxy: FaultProxy) -> None:
    """A connection whose data is not HTTP is reset."""
    redis_proxy.set(HttpAnswer.unavailable())
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        with pytest.raises(ConnectionResetError):
            await reader.read()


@pytest.mark.parametrize("fault", [*HARD_FAULTS, Slow(answer_s=30), Trickle(interval_s=30)], ids=name_of)
async def test_a_client_recovers_without_a_restart(redis_proxy: FaultProxy, fault: Fault) -> None:
    """The same client is served again at the same port when the fault ends."""
    async with redis_client(redis_proxy, timeout_s=0.2) as client:
        assert await client.ping()
        async with redis_proxy.fault(fault):
            with pytest.raises(redis.exceptions.RedisError):
                await client.ping()
        assert redis_proxy.current == PassThrough()
        # A connection that the client holds for sound may have been reset meanwhile: that costs one call.
        with suppress(redis.exceptions.ConnectionError):
            await client.ping()
        assert await client.ping()


@pytest.mark.parametrize("slow", [Slow(request_s=60), Slow(answer_s=60), Trickle(interval_s=60)], ids=repr)
async def test_delayed_data_is_forwarded_when_the_fault_ends(redis_proxy: FaultProxy, slow: Fault) -> None:
    """Delayed data of an open connection is forwarded at once when the fault ends."""
    async with connected(redis_proxy) as (reader, writer):
        redis_proxy.set(slow)
        writer.write(PING)
        await eventually(lambda: redis_proxy.traffic.upstream.received_bytes == len(PING))
        redis_proxy.set(PassThrough())
        assert await asyncio.wait_for(reader.readline(), 5) == PONG


async def test_a_corrupted_connection_is_reset_when_the_fault_ends(redis_proxy: FaultProxy) -> None:
    """A connection whose request was discarded is reset, so that the client does not wait."""
    redis_proxy.set(Silent())
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        await eventually(lambda: redis_proxy.traffic.upstream.received_bytes == len(PING))
        redis_proxy.set(PassThrough())
        with pytest.raises(ConnectionResetError):
            await reader.read()


@pytest.mark.parametrize("fault", [Silent(), Garbage(), Trickle(), CutOff()], ids=name_of)
async def test_an_intact_connection_stays_open(redis_proxy: FaultProxy, fault: Fault) -> None:
    """A connection without discarded data stays open, whether it began before or during the fault."""
    async with connected(redis_proxy) as before:
        await eventually(lambda: redis_proxy.open_connections == 1)
        redis_proxy.set(fault)
        async with connected(redis_proxy) as within:
            await eventually(lambda: redis_proxy.open_connections == 2)
            redis_proxy.set(PassThrough())
            for reader, writer in (before, within):
                writer.write(PING)
                assert await reader.readline() == PONG


async def test_an_unreachable_server_is_a_reset() -> None:
    """If the server's port is closed, the client is reset, also without a fault."""
    async with FaultProxy("127.0.0.1", 6379) as gone:
        port = gone.port
    async with FaultProxy("127.0.0.1", port) as proxy, connected(proxy) as (reader, writer):
        writer.write(PING)
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_five_hundred_clients_are_served_at_once(redis_proxy: FaultProxy, many_files: None) -> None:
    """All connections are served, go silent and are served again, and no socket is leaked."""

    async def pings(count: int) -> list[Any]:
        return await asyncio.gather(*(client.ping() for client in clients[:count]), return_exceptions=True)

    before = open_files()
    async with asyncio.timeout(60):
        contexts = [redis_client(redis_proxy, timeout_s=3) for _ in range(500)]
        clients = [await context.__aenter__() for context in contexts]
        assert await pings(500) == [True] * 500
        assert redis_proxy.open_connections == redis_proxy.traffic.connections == 500
        redis_proxy.set(Silent())
        assert {type(found) for found in await pings(500)} == {redis.exceptions.TimeoutError}
        redis_proxy.set(PassThrough())
        assert await pings(500) == [True] * 500
        for context in contexts:
            await context.__aexit__(None, None, None)
    await eventually(lambda: redis_proxy.open_connections == 0)
    await eventually(lambda: open_files() == before)


@pytest.mark.parametrize("fault", [PassThrough(), Silent(), Slow(answer_s=60)], ids=name_of)
async def test_closing_the_proxy_closes_every_connection(redis_url: str, many_files: None, fault: Fault) -> None:
    """Closing the proxy with a thousand busy connections is quick and closes all of them."""
    host, _, port = redis_url.removeprefix("redis://").removesuffix("/0").partition(":")
    before, tasks = open_files(), asyncio.all_tasks()
    async with FaultProxy(host, int(port)) as proxy:
        proxy.set(fault)
        opened = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(1000)]
        for _, writer in opened:
            writer.write(PING)
        await eventually(lambda: proxy.traffic.upstream.received_bytes == 1000 * len(PING))
        ending_s = time.monotonic()
    assert time.monotonic() - ending_s < 5
    assert proxy.open_connections == 0
    assert asyncio.all_tasks() == tasks
    for _, writer in opened:
        writer.close()
    await eventually(lambda: open_files() == before)


async def test_switching_faults_while_clients_connect_leaks_no_socket(
    redis_proxy: FaultProxy, many_files: None
) -> None:
    """Closing and reopening the port while hundreds of clients connect leaks no socket."""

    async def ping() -> bytes | None:
        with suppress(OSError):
            async with connected(redis_proxy) as (reader, writer):
                writer.write(PING)
                return await asyncio.wait_for(reader.read(len(PONG)), 5)
        return None

    before = open_files()
    for turn in range(40):
        tasks = [asyncio.create_task(ping()) for _ in range(25)]
        for _ in range(turn % 10):
            await asyncio.sleep(0)
        redis_proxy.set(Refuse())
        await asyncio.sleep(0)
        redis_proxy.set(PassThrough())
        assert set(await asyncio.gather(*tasks)) <= {PONG, b"", None}
    assert await ping() == PONG
    await eventually(lambda: open_files() == before)


async def test_clients_wait_while_file_descriptors_are_exhausted(
    redis_proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Without free file descriptors clients wait, and are accepted when some are free again."""
    loop = asyncio.get_running_loop()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket.socket() for _ in range(10)]
    # The limit is on the number of a new descriptor, which is always the lowest free one.
    lowest_free = os.dup(clients[0].fileno())
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        for client in clients:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", redis_proxy.port))
        started_s = time.monotonic()
        await eventually(lambda: caplog.text.count("cannot accept") >= 3)
        assert time.monotonic() - started_s >= 0.15
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for client in clients:
        await loop.sock_sendall(client, PING)
        assert await asyncio.wait_for(loop.sock_recv(client, 100), 5) == PONG
        client.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://10.0.0.1:6379/0", "redis://127.0.0.1:{}/0"),
        ("redis://user:p%40ss@cache.local/1?protocol=3", "redis://user:p%40ss@127.0.0.1:{}/1?protocol=3"),
        ("postgresql+asyncpg://u:p@[::1]:5432/db", "postgresql+asyncpg://u:p@127.0.0.1:{}/db"),
        ("http://api.test", "http://127.0.0.1:{}"),
        ("http://api.test/v1/#part", "http://127.0.0.1:{}/v1/#part"),
    ],
)
async def test_url_for_replaces_the_host_and_the_port(url: str, expected: str) -> None:
    """Credentials, path, query and fragment are unchanged."""
    async with FaultProxy("127.0.0.1", 1) as proxy:
        assert proxy.url_for(url) == expected.format(proxy.port)


async def test_misuse_is_rejected() -> None:
    """The message names the valid use."""
    proxy = FaultProxy("127.0.0.1", 1)
    with pytest.raises(NotOpen, match="async with FaultProxy"):
        _ = proxy.port
    async with proxy:
        with pytest.raises(ConfigurationError, match="URL with a host"):
            proxy.url_for("sqlite:///a.db")


async def test_a_fault_may_be_set_before_the_proxy_is_open() -> None:
    """A fault can be set before the proxy is entered, and a closed proxy can be entered again."""
    proxy = FaultProxy("127.0.0.1", 1)
    proxy.set(Refuse())
    for _ in range(2):
        async with proxy:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
