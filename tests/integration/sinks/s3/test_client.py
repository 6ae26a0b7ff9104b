"""Requests: deadlines, single attempts, and no `Expect` header."""

import asyncio
import gc
import hashlib
import time
from typing import Any

import boto3
import pytest
from tests.integration.sinks.s3.archives import CODE, ITEM, SLOW_DOWN, open_archive
from tests.unit.sinks.builders import eventually

from forge_otel.errors import ServiceTimeout, ServiceUnavailable
from forge_otel.sinks.s3.sink import S3Archive
from forge_otel.testing.faults.proxy import FaultProxy, Silent, Trickle


async def test_opening_does_not_block_the_event_loop(bucket: str, s3_endpoint: str) -> None:
    """The models of S3 are loaded in a thread: between two iterations the loop's thread uses little CPU time."""
    worst_s, is_open = 0.0, False

    async def probe() -> None:
        # CPU time of the thread, which other processes and threads on a busy machine do not add to.
        nonlocal worst_s
        while not is_open:
            started_s = time.thread_time()
            await asyncio.sleep(0.001)
            worst_s = max(worst_s, time.thread_time() - started_s)

    # A full garbage collection would be counted too.
    gc.collect()
    gc.freeze()
    probing = asyncio.create_task(probe())
    async with open_archive(bucket, s3_endpoint) as archive:
        is_open = True
        await probing
        await archive.ping()

    gc.unfreeze()
    started_s = time.thread_time()
    boto3.Session().client("s3", region_name="us-east-1", endpoint_url=s3_endpoint)
    assert worst_s < (time.thread_time() - started_s) / 2


@pytest.mark.parametrize("fault", [Silent(), Trickle(chunk_bytes=1, interval_s=0.05)], ids=["silent", "trickle"])
async def test_every_operation_ends_within_its_deadline(
    shaky: S3Archive, archive: S3Archive, proxy: FaultProxy, fault: Any
) -> None:
    """With no response, or one byte at a time, every operation times out, and no connection stays open."""
    await archive.deliver([ITEM])
    async with proxy.fault(fault):
        for work in (
            lambda: shaky._uploader.put(CODE, b"x" * 100_000),
            lambda: shaky.deliver([ITEM]),
            lambda: shaky.read(CODE),
            lambda: anext(aiter(shaky.list())),
            lambda: shaky.delete("button-1"),
        ):
            started_s = time.perf_counter()
            with pytest.raises(ServiceTimeout):
                await work()
            assert time.perf_counter() - started_s < 1.5
        await eventually(lambda: not proxy.open_connections)


async def test_a_failed_request_is_not_repeated(proxied: S3Archive, proxy: FaultProxy) -> None:
    """The SDK does not retry, because the outbox does."""
    async with proxy.fault(SLOW_DOWN):
        before = proxy.traffic.requests
        with pytest.raises(ServiceUnavailable):
            await proxied.read(CODE)
        assert proxy.traffic.requests - before == 1


async def test_uploads_have_no_expect_header() -> None:
    """An upload would wait without a timeout for a server that never sends the interim response."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head.lower())
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "%s"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' % md5_of(body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_archive("any-bucket", f"http://127.0.0.1:{port}", timeout_s="2") as archive:
            await archive._uploader.put(CODE, b"export {}")

    (head,) = heads
    assert head.startswith(b"put /any-bucket/components/")
    assert b"expect:" not in head
    assert b"content-md5:" in head


def md5_of(body: bytes) -> bytes:
    """ETag of a body."""
    return hashlib.md5(body).hexdigest().encode()
