"""Canned HTTP responses as seen by httpx and the OpenAI SDK, and the request parser."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.testing.conftest import PAGE, WebServer

from forge_otel.testing.faults.http import HttpAnswer, HttpRequest, NotHttp, RequestReader
from forge_otel.testing.faults.proxy import (
    CutOff,
    Fault,
    FaultProxy,
    Garbage,
    PassThrough,
    Refuse,
    Reset,
    Silent,
    Slow,
    Trickle,
)


def client_of(proxy: FaultProxy, *, timeout_s: float = 5.0) -> httpx.AsyncClient:
    """An HTTP client through `proxy`."""
    return httpx.AsyncClient(base_url=proxy.url_for("http://server.test"), timeout=timeout_s, trust_env=False)


@pytest.mark.parametrize(
    ("answer", "status", "headers"),
    [
        (HttpAnswer.unauthorized(), 401, {"www-authenticate": "Bearer", "content-type": "application/json"}),
        (HttpAnswer.too_many_requests(retry_after_s=7), 429, {"retry-after": "7"}),
        (HttpAnswer.unavailable(retry_after_s=3), 503, {"retry-after": "3"}),
        (HttpAnswer.server_error(), 500, {"content-type": "text/html; charset=utf-8"}),
        (HttpAnswer(status=599, headers={"X-Own": "1"}), 599, {"x-own": "1"}),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
async def test_a_canned_response_reaches_the_client(
    web_server: WebServer, web_proxy: FaultProxy, answer: HttpAnswer, status: int, headers: dict[str, str]
) -> None:
    """Status, headers and body reach the client; the server receives no request."""
    web_proxy.set(answer)
    async with client_of(web_proxy) as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (status, answer.body)
    assert headers.items() <= response.headers.items()
    assert web_server.requests == []


async def test_nonsense_is_not_valid_json(web_proxy: FaultProxy) -> None:
    """Only the body of the response is invalid."""
    web_proxy.set(HttpAnswer.nonsense())
    async with client_of(web_proxy) as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    with pytest.raises(ValueError, match=r"utf-8|JSON"):
        response.json()


async def test_every_request_of_a_connection_gets_a_response(web_proxy: FaultProxy) -> None:
    """Keep-alive works with bodies of known length, chunked bodies, no body, and after HEAD."""

    async def chunks() -> AsyncIterator[bytes]:
        for size in (1, 70_000, 0, 500_000):
            yield b"x" * size

    web_proxy.set(HttpAnswer.unavailable())
    async with client_of(web_proxy) as client:
        responses = [
            await client.post("/", content=b"y" * 1_000_000),
            await client.post("/", content=chunks()),
            await client.head("/"),
            await client.get("/"),
        ]
    assert {response.status_code for response in responses} == {503}
    assert responses[2].content == b""
    assert (web_proxy.traffic.connections, web_proxy.traffic.requests) == (1, 4)


async def test_connection_close_is_supported(web_proxy: FaultProxy) -> None:
    """`Connection: close` is sent back, and the connection is closed."""
    web_proxy.set(HttpAnswer.unavailable())
    async with client_of(web_proxy) as client:
        response = await client.get("/", headers={"Connection": "close"})
        assert response.headers["connection"] == "close"
        await client.get("/")
    assert web_proxy.traffic.connections == 2


async def test_expect_continue_is_supported(web_proxy: FaultProxy) -> None:
    """`Expect: 100-continue`, which S3 clients send, gets a 100 response."""
    web_proxy.set(HttpAnswer.unavailable())
    reader, writer = await asyncio.open_connection("127.0.0.1", web_proxy.port)
    writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 503 ")
    writer.close()


async def test_a_fault_affects_open_connections(web_server: WebServer, web_proxy: FaultProxy) -> None:
    """On a kept-alive connection the next request gets the fault, and the one after it reaches the server."""
    async with client_of(web_proxy) as client:
        assert (await client.get("/")).text == PAGE
        async with web_proxy.fault(HttpAnswer.too_many_requests()):
            assert (await client.get("/")).status_code == 429
            web_proxy.set(HttpAnswer.unavailable())
            assert (await client.get("/")).status_code == 503
        assert (await client.get("/")).text == PAGE
    assert web_proxy.traffic.connections == 1
    assert len(web_server.requests) == 2


async def test_a_request_in_flight_gets_the_response_of_the_server(
    web_server: WebServer, web_proxy: FaultProxy
) -> None:
    """A fault applies to new requests; the server may complete those that it has received."""
    async with client_of(web_proxy) as client:
        task = asyncio.create_task(client.get("/slow"))
        async with asyncio.timeout(5):
            while not web_server.requests:
                await asyncio.sleep(0.01)
        web_proxy.set(HttpAnswer.unavailable())
        web_server.may_respond.set()
        assert (await task).text == PAGE


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Refuse(), httpx.ConnectError),
        (Reset(), httpx.ReadError),
        (Silent(), httpx.ReadTimeout),
        (Slow(answer_s=1.0), httpx.ReadTimeout),
        (Garbage(), httpx.RemoteProtocolError),
        (CutOff(after_bytes=10), httpx.RemoteProtocolError),
        (CutOff(after_bytes=200), httpx.RemoteProtocolError),
    ],
    ids=repr,
)
async def test_tcp_faults_are_errors_of_the_http_client(
    web_proxy: FaultProxy, fault: Fault, error: type[Exception]
) -> None:
    """httpx raises a specific error on new and on open connections, and recovers without a new client."""
    for warm in (False, True):
        async with client_of(web_proxy, timeout_s=0.5) as client:
            if warm:
                await client.get("/")
            async with web_proxy.fault(fault):
                with pytest.raises(error):
                    await client.get("/")
            assert (await client.get("/")).text == PAGE


async def test_a_trickle_outlasts_the_read_timeout(web_proxy: FaultProxy) -> None:
    """No single read times out, and the response takes longer than the timeout: only a total deadline helps."""
    web_proxy.set(Trickle(chunk_bytes=40, interval_s=0.1))
    async with client_of(web_proxy, timeout_s=0.5) as client:
        started_s = time.monotonic()
        assert (await client.get("/")).text == PAGE
        assert time.monotonic() - started_s > 0.5


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (HttpAnswer.unauthorized(), openai.AuthenticationError),
        (HttpAnswer.too_many_requests(), openai.RateLimitError),
        (HttpAnswer.unavailable(), openai.InternalServerError),
    ],
    ids=["401", "429", "503"],
)
async def test_the_openai_sdk_raises_its_own_errors(
    web_proxy: FaultProxy, answer: HttpAnswer, error: type[openai.APIStatusError]
) -> None:
    """The SDK raises the error of the real API, with the code of the body."""
    web_proxy.set(answer)
    async with openai.AsyncOpenAI(base_url=web_proxy.url_for("http://a/v1"), api_key="k", max_retries=0) as client:
        with pytest.raises(error) as seen:
            await client.models.list()
    assert seen.value.code


async def test_requests_are_counted(web_proxy: FaultProxy) -> None:
    """The counters show the number of requests of one call."""
    web_proxy.set(HttpAnswer(status=503, headers={"retry-after-ms": "1"}))
    async with openai.AsyncOpenAI(base_url=web_proxy.url_for("http://a/v1"), api_key="k", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError):
            await client.models.list()
    assert web_proxy.traffic.requests == 3


async def test_a_partial_request_is_reset_when_the_fault_ends(web_proxy: FaultProxy) -> None:
    """A partial request that the proxy has read cannot be forwarded later, so the connection is reset."""
    web_proxy.set(HttpAnswer.unavailable())
    reader, writer = await asyncio.open_connection("127.0.0.1", web_proxy.port)
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
    async with asyncio.timeout(5):
        while web_proxy.traffic.upstream.received_bytes == 0:
            await asyncio.sleep(0.01)
    web_proxy.set(PassThrough())
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


REQUESTS = {
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n": HttpRequest("GET"),
    b"\r\n\nHEAD /x?y=1 HTTP/1.1\nHost: a\n\n": HttpRequest("HEAD"),
    b"POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\nGET / HTTP/": HttpRequest("POST"),
    b"PUT / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n5;a=b\r\nab\r\nc\r\n1A\r\n"
    + b"z" * 26
    + b"\r\n0\r\nTrailer: 1\r\n\r\n": HttpRequest("PUT"),
    b"GET / HTTP/1.1\r\nConnection: keep-alive, Close\r\n\r\n": HttpRequest("GET", is_last=True),
    b"GET / HTTP/1.0\r\n\r\n": HttpRequest("GET", is_last=True),
    b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n": HttpRequest("GET"),
}


@given(st.lists(st.sampled_from(sorted(REQUESTS)), max_size=6), st.data())
def test_the_parser_finds_the_end_of_each_request(texts: list[bytes], data: st.DataObject) -> None:
    """The same requests are found in every segmentation of the bytes, and the buffer is empty afterwards."""
    stream = b"".join(texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader, found = RequestReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == [REQUESTS[text] for text in texts]
    assert reader.is_between_requests


@pytest.mark.parametrize(
    "text",
    [
        b"*1\r\n$4\r\nPING\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"G" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
    ],
    ids=["redis", "version", "header", "length", "chunk", "line", "head"],
)
def test_invalid_requests_are_rejected(text: bytes) -> None:
    """Invalid data raises an error instead of being buffered."""
    with pytest.raises(NotHttp):
        RequestReader().feed(text)
