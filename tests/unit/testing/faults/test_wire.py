"""Connections through the proxy: half-closing, servers that send first, and flow control."""

import asyncio

from tests.unit.testing.conftest import connected, eventually, in_front_of


async def test_a_half_closed_connection_gets_its_response() -> None:
    """A client may end its data before the response."""

    async def length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))

    async with in_front_of(length) as proxy, connected(proxy) as (reader, writer):
        writer.write(b"x" * 1000)
        writer.write_eof()
        assert await reader.read() == b"1000"


async def test_a_server_may_send_data_first() -> None:
    """The proxy connects to the server before the client sends data."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    async with in_front_of(greet) as proxy, connected(proxy) as (reader, _):
        assert await reader.read() == b"hello"


async def test_a_slow_reader_pauses_the_server() -> None:
    """The proxy reads no more from the server than it can buffer, and loses no data."""
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
