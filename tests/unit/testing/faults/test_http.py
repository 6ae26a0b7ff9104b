"""HTTP faults as httpx and the OpenAI SDK see them, and the reader that finds where requests end."""

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
    """An HTTP client that goes through `proxy`."""
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
async def test_an_answer_is_seen_as_it_is(
    web_server: WebServer, web_proxy: FaultProxy, answer: HttpAnswer, status: int, headers: dict[str, str]
) -> None:
    """Status, headers and body reach the client; the server sees nothing."""
    web_proxy.set(answer)
    async with client_of(web_proxy) as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (status, answer.body)
    assert headers.items() <= response.headers.items()
    assert web_server.asked == []


async def test_nonsense_says_it_is_json_and_is_not(web_proxy: FaultProxy) -> None:
    """Everything about the answer is right but the body."""
    web_proxy.set(HttpAnswer.nonsense())
    async with client_of(web_proxy) as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    with pytest.raises(ValueError, match=r"utf-8|JSON"):
        response.json()


async def test_every_request_of_a_connection_is_answered(web_proxy: FaultProxy) -> None:
    """Keep-alive works, with bodies of a known length, in chunks, and none, and after HEAD."""

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


async def test_a_client_that_wants_to_close_is_let_go(web_proxy: FaultProxy) -> None:
    """`Connection: close` is answered and obeyed."""
    web_proxy.set(HttpAnswer.unavailable())
    async with client_of(web_proxy) as client:
        response = await client.get("/", headers={"Connection": "close"})
        assert response.headers["connection"] == "close"
        await client.get("/")
    assert web_proxy.traffic.connections == 2


async def test_a_body_that_waits_to_be_wanted_is_asked_for(web_proxy: FaultProxy) -> None:
    """`Expect: 100-continue`, as S3 clients send it, does not end in both sides waiting."""
    web_proxy.set(HttpAnswer.unavailable())
    reader, writer = await asyncio.open_connection("127.0.0.1", web_proxy.port)
    writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 503 ")
    writer.close()


async def test_an_open_connection_is_switched_and_switched_back(web_server: WebServer, web_proxy: FaultProxy) -> None:
    """The client's kept-alive connection gets the fault in its next request, and the server in the one after."""
    async with client_of(web_proxy) as client:
        assert (await client.get("/")).text == PAGE
        async with web_proxy.fault(HttpAnswer.too_many_requests()):
            assert (await client.get("/")).status_code == 429
            web_proxy.set(HttpAnswer.unavailable())
            assert (await client.get("/")).status_code == 503
        assert (await client.get("/")).text == PAGE
    assert web_proxy.traffic.connections == 1
    assert len(web_server.asked) == 2


async def test_a_request_under_way_is_still_answered_by_the_server(
    web_server: WebServer, web_proxy: FaultProxy
) -> None:
    """An HTTP fault is for the requests that come; what the server has begun it may end."""
    async with client_of(web_proxy) as client:
        task = asyncio.create_task(client.get("/slow"))
        async with asyncio.timeout(5):
            while not web_server.asked:
                await asyncio.sleep(0.01)
        web_proxy.set(HttpAnswer.unavailable())
        web_server.may_answer.set()
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
async def test_a_fault_below_http_is_what_it_claims(
    web_proxy: FaultProxy, fault: Fault, error: type[Exception]
) -> None:
    """httpx tells them apart, on a new connection and on one that has served, and recovers by itself."""
    for warm in (False, True):
        async with client_of(web_proxy, timeout_s=0.5) as client:
            if warm:
                await client.get("/")
            async with web_proxy.fault(fault):
                with pytest.raises(error):
                    await client.get("/")
            assert (await client.get("/")).text == PAGE


async def test_a_trickle_outlives_the_read_timeout(web_proxy: FaultProxy) -> None:
    """No read is late, and the answer takes longer than the timeout: only a total deadline helps."""
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
async def test_the_openai_sdk_takes_them_for_its_service(
    web_proxy: FaultProxy, answer: HttpAnswer, error: type[openai.APIStatusError]
) -> None:
    """An SDK raises what it raises in earnest, with the code that the body gives."""
    web_proxy.set(answer)
    async with openai.AsyncOpenAI(base_url=web_proxy.url_for("http://a/v1"), api_key="k", max_retries=0) as client:
        with pytest.raises(error) as seen:
            await client.models.list()
    assert seen.value.code


async def test_amplification_can_be_counted(web_proxy: FaultProxy) -> None:
    """The counters tell how many requests one call became."""
    web_proxy.set(HttpAnswer(status=503, headers={"retry-after-ms": "1"}))
    async with openai.AsyncOpenAI(base_url=web_proxy.url_for("http://a/v1"), api_key="k", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError):
            await client.models.list()
    assert web_proxy.traffic.requests == 3


async def test_a_request_cut_by_a_switch_is_reset(web_proxy: FaultProxy) -> None:
    """Half a request that the proxy has read cannot be handed to the server later."""
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
def test_requests_end_where_they_end(texts: list[bytes], data: st.DataObject) -> None:
    """However the bytes are cut into packets, the same requests are found, and nothing is left over."""
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
def test_what_is_no_request_is_refused(text: bytes) -> None:
    """Nonsense ends the connection instead of being collected."""
    with pytest.raises(NotHttp):
        RequestReader().feed(text)
