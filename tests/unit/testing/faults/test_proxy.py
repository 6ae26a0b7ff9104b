"""Each fault is what it claims to be, as seen by a Redis client and by bare sockets."""

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis.exceptions
from tests.unit.testing.conftest import open_files, redis_client

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

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def name_of(fault: Fault) -> str:
    """The fault's own name, for the test's."""
    return type(fault).__name__


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection to the proxy, not for ever."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def in_front_of(handler: Handler) -> AsyncIterator[FaultProxy]:
    """A proxy before a server that does what `handler` does with each connection."""
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()
        ended.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    await asyncio.wait_for(ended.wait(), 5)
    server.close()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, not for ever."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_without_a_fault_everything_passes(redis_proxy: FaultProxy) -> None:
    """A client does not notice the proxy, also with megabytes in both directions."""
    value = bytes(range(256)) * 20_000
    async with redis_client(redis_proxy) as client:
        await client.set("large", value)
        assert await client.get("large") == value
    traffic = redis_proxy.traffic
    assert traffic.upstream.received_bytes == traffic.upstream.sent_bytes > len(value)
    assert traffic.downstream.received_bytes == traffic.downstream.sent_bytes > len(value)


async def test_refused(redis_proxy: FaultProxy) -> None:
    """Nobody listens, and nobody else can: ECONNREFUSED, at the port that serves before and after."""
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
    """The connection is made, and gone with ECONNRESET when something is asked."""
    redis_proxy.set(Reset())
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_reset_of_an_open_connection(redis_proxy: FaultProxy) -> None:
    """A connection that waits for nothing in particular is reset at once."""
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        assert await reader.readline() == PONG
        redis_proxy.set(Reset())
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_silence_on_a_new_connection(redis_proxy: FaultProxy) -> None:
    """The connection is made, everything is read, nothing is answered and the server not asked."""
    redis_proxy.set(Silent())
    async with redis_client(redis_proxy, timeout_s=0.1) as client:
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.ping()
    assert redis_proxy.traffic.upstream.received_bytes > 0
    assert redis_proxy.traffic.upstream.sent_bytes == 0


async def test_silence_on_an_open_connection(redis_proxy: FaultProxy) -> None:
    """A connection that has served goes silent in its place."""
    async with redis_client(redis_proxy, timeout_s=0.1) as client:
        assert await client.ping()
        before = redis_proxy.traffic.connections
        redis_proxy.set(Silent())
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.ping()
        assert redis_proxy.traffic.connections == before


async def test_silence_lets_go_of_clients_that_give_up(redis_proxy: FaultProxy) -> None:
    """A black hole does not collect the sockets of those who have left."""
    redis_proxy.set(Silent())
    for _ in range(20):
        async with connected(redis_proxy) as (_, writer):
            writer.write(PING)
    await eventually(lambda: redis_proxy.open_connections == 0)


async def test_slow_adds_latency_each_way(redis_proxy: FaultProxy) -> None:
    """A round trip takes what both directions add."""
    async with redis_client(redis_proxy) as client:
        await client.ping()
        redis_proxy.set(Slow(request_s=0.1, answer_s=0.15))
        started_s = time.monotonic()
        await client.ping()
        assert 0.25 <= time.monotonic() - started_s < 1.0


async def test_slow_is_a_long_line_and_not_a_thin_one(redis_proxy: FaultProxy) -> None:
    """Megabytes are late by the latency once, not once for each packet."""
    async with redis_client(redis_proxy) as client:
        await client.set("large", bytes(4_000_000))
        redis_proxy.set(Slow(answer_s=0.2))
        started_s = time.monotonic()
        assert await client.get("large") == bytes(4_000_000)
        # 16 packets of 256 kB at least.
        assert 0.2 <= time.monotonic() - started_s < 1.6


async def test_trickle(redis_proxy: FaultProxy) -> None:
    """An answer comes in drops, so that no single read is late while the whole is."""
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
    """The client notices that this is no Redis, at once and not by a timeout; the server was asked all the same."""
    async with redis_client(redis_proxy) as client:
        await client.set("key", "before")
        async with redis_proxy.fault(Garbage()):
            with pytest.raises(redis.exceptions.RedisError) as seen:
                await client.set("key", "after")
        assert not isinstance(seen.value, redis.exceptions.TimeoutError)
        assert await client.get("key") == b"after"


async def test_garbage_is_the_same_for_the_same_seed(redis_proxy: FaultProxy) -> None:
    """A test that fails on garbage fails again on the same garbage."""

    async def answer(seed: int) -> bytes:
        redis_proxy.set(Garbage(seed=seed))
        async with connected(redis_proxy) as (reader, writer):
            writer.write(PING)
            return await reader.readline()

    first, again, other = await answer(1), await answer(1), await answer(2)
    assert first == again != other
    assert len(first) == len(PONG) + 2


async def test_cut_off(redis_proxy: FaultProxy) -> None:
    """The answer ends in the middle, and is counted anew on each connection."""
    redis_proxy.set(CutOff(after_bytes=3))
    for _ in range(2):
        async with connected(redis_proxy) as (reader, writer):
            writer.write(PING)
            assert await reader.read() == PONG[:3]
    async with redis_client(redis_proxy) as client:
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()


async def test_cut_off_counts_from_the_fault_on(redis_proxy: FaultProxy) -> None:
    """What an open connection was answered before is not counted."""
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        assert await reader.readline() == PONG
        redis_proxy.set(CutOff(after_bytes=5))
        writer.write(PING)
        assert await reader.read() == PONG[:5]


async def test_http_on_something_else_is_a_reset(redis_proxy: FaultProxy) -> None:
    """A client that does not speak HTTP is not left waiting."""
    redis_proxy.set(HttpAnswer.unavailable())
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        with pytest.raises(ConnectionResetError):
            await reader.read()


@pytest.mark.parametrize("fault", [*HARD_FAULTS, Slow(answer_s=30), Trickle(interval_s=30)], ids=name_of)
async def test_a_client_recovers_without_a_restart(redis_proxy: FaultProxy, fault: Fault) -> None:
    """The client that had the trouble is served again, at the same port, as soon as the fault is over."""
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
async def test_what_is_held_back_comes_when_the_fault_ends(redis_proxy: FaultProxy, slow: Fault) -> None:
    """An open connection goes on where it was, without waiting for the delay to end."""
    async with connected(redis_proxy) as (reader, writer):
        redis_proxy.set(slow)
        writer.write(PING)
        await eventually(lambda: redis_proxy.traffic.upstream.received_bytes == len(PING))
        redis_proxy.set(PassThrough())
        assert await asyncio.wait_for(reader.readline(), 5) == PONG


async def test_a_connection_with_a_hole_is_reset_at_the_end(redis_proxy: FaultProxy) -> None:
    """Where a request was swallowed the client is told, instead of waiting for ever."""
    redis_proxy.set(Silent())
    async with connected(redis_proxy) as (reader, writer):
        writer.write(PING)
        await eventually(lambda: redis_proxy.traffic.upstream.received_bytes == len(PING))
        redis_proxy.set(PassThrough())
        with pytest.raises(ConnectionResetError):
            await reader.read()


@pytest.mark.parametrize("fault", [Silent(), Garbage(), Trickle(), CutOff()], ids=name_of)
async def test_a_connection_that_was_idle_lives_on(redis_proxy: FaultProxy, fault: Fault) -> None:
    """Where nothing was spoilt nothing is reset, on connections from before the fault and from within."""
    async with connected(redis_proxy) as before:
        await eventually(lambda: redis_proxy.open_connections == 1)
        redis_proxy.set(fault)
        async with connected(redis_proxy) as within:
            await eventually(lambda: redis_proxy.open_connections == 2)
            redis_proxy.set(PassThrough())
            for reader, writer in (before, within):
                writer.write(PING)
                assert await reader.readline() == PONG


async def test_a_server_that_is_away_is_a_reset() -> None:
    """Without a fault a client cannot wait for ever either, when there is nobody behind the proxy."""
    async with FaultProxy("127.0.0.1", 6379) as gone:
        port = gone.port
    async with FaultProxy("127.0.0.1", port) as proxy, connected(proxy) as (reader, writer):
        writer.write(PING)
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_a_half_closed_connection_is_still_answered() -> None:
    """A client may say that it is done before it is answered."""

    async def length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))

    async with in_front_of(length) as proxy, connected(proxy) as (reader, writer):
        writer.write(b"x" * 1000)
        writer.write_eof()
        assert await reader.read() == b"1000"


async def test_a_server_that_speaks_first_is_heard() -> None:
    """The server is connected to before the client has sent anything."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    async with in_front_of(greet) as proxy, connected(proxy) as (reader, _):
        assert await reader.read() == b"hello"


async def test_a_slow_reader_slows_the_server_and_fills_no_memory() -> None:
    """The proxy takes no more from the server than it can pass on, and loses nothing."""
    size_bytes = 64 * 2**20
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < size_bytes:
            writer.write(bytes(2**16))
            sent += 2**16
            await writer.drain()

    async with in_front_of(pour) as proxy, connected(proxy) as (reader, _):
        seen = [-1]

        def has_stopped() -> bool:
            seen.append(proxy.traffic.downstream.received_bytes)
            return seen[-1] > 0 and len(seen) > 20 and len(set(seen[-20:])) == 1

        await eventually(has_stopped)
        assert sent < size_bytes
        assert proxy.traffic.downstream.received_bytes - proxy.traffic.downstream.sent_bytes < 2**20
        assert len(await reader.read()) == size_bytes


async def test_five_hundred_clients_at_once(redis_proxy: FaultProxy, many_files: None) -> None:
    """All are served, all go silent together and all are served again; nothing is left behind."""

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
async def test_closing_leaves_nothing_behind(redis_url: str, many_files: None, fault: Fault) -> None:
    """With a thousand connections in the middle of something, the end is quick and complete."""
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


async def test_switching_while_clients_arrive_leaks_nothing(redis_proxy: FaultProxy, many_files: None) -> None:
    """A listener that closes and opens again while hundreds connect loses no socket and no port."""

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


async def test_out_of_files_it_waits_and_goes_on(redis_proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    """Clients that cannot be accepted for want of file descriptors are accepted when there are some again."""
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
    """Credentials, path, query and fragment stay."""
    async with FaultProxy("127.0.0.1", 1) as proxy:
        assert proxy.url_for(url) == expected.format(proxy.port)


async def test_mistakes_are_told() -> None:
    """What cannot be meant is refused with a sentence that says what to do."""
    proxy = FaultProxy("127.0.0.1", 1)
    with pytest.raises(NotOpen, match="async with FaultProxy"):
        _ = proxy.port
    async with proxy:
        with pytest.raises(ConfigurationError, match="URL with a host"):
            proxy.url_for("sqlite:///a.db")
    for wrong in (
        lambda: Slow(answer_s=-1),
        lambda: Slow(request_s=float("nan")),
        lambda: Trickle(chunk_bytes=0),
        lambda: Trickle(interval_s=0),
        lambda: CutOff(after_bytes=-1),
        lambda: HttpAnswer(status=100),
    ):
        with pytest.raises(ConfigurationError):
            wrong()


async def test_a_fault_may_be_set_before_the_proxy_is_open() -> None:
    """A proxy may begin with a fault, and may be entered again."""
    proxy = FaultProxy("127.0.0.1", 1)
    proxy.set(Refuse())
    for _ in range(2):
        async with proxy:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
