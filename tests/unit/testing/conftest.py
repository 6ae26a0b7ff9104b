"""Fixtures: an HTTP server, Redis clients, and the open file descriptors of the process."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
import uvicorn
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from forge_otel.testing.faults.proxy import FaultProxy

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PAGE = "a page of the server's own " * 10


@dataclass
class WebServer:
    """An application under uvicorn that records its requests."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    may_respond: asyncio.Event = field(default_factory=asyncio.Event)

    async def page(self, request: Request) -> Response:
        """Return a page; `/slow` waits for `may_respond`."""
        self.requests.append(f"{request.method} {request.url.path}")
        if request.url.path == "/slow":
            await self.may_respond.wait()
        return PlainTextResponse(PAGE)


@pytest.fixture
async def web_server() -> AsyncIterator[WebServer]:
    """A running web server."""
    web = WebServer()
    app = Starlette(routes=[Route("/{path:path}", web.page, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    web.port = server.servers[0].sockets[0].getsockname()[1]
    yield web
    server.should_exit = True
    await task


@pytest.fixture
async def web_proxy(web_server: WebServer) -> AsyncIterator[FaultProxy]:
    """A proxy in front of the web server."""
    async with FaultProxy("127.0.0.1", web_server.port) as proxy:
        yield proxy


@pytest.fixture
async def redis_proxy(redis_url: str) -> AsyncIterator[FaultProxy]:
    """A proxy in front of the shared Redis."""
    parts = urlsplit(redis_url)
    async with FaultProxy(str(parts.hostname), int(parts.port or 0)) as proxy:
        yield proxy


@asynccontextmanager
async def redis_client(proxy: FaultProxy, *, timeout_s: float = 5.0) -> AsyncIterator[Redis]:
    """A Redis client through `proxy` that does not retry."""
    url = proxy.url_for("redis://127.0.0.1:6379/0")
    async with Redis.from_url(url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise the limit of file descriptors to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files() -> int:
    """Return the number of open file descriptors of this process."""
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - a path would open one more


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain connection to the proxy, with a timeout."""
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
    """A proxy in front of a server that calls `handler` with each connection."""
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
    """Wait until a condition holds, with a timeout."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
