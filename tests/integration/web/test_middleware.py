"""The middleware under uvicorn, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp
from tests.unit.web.apps import BUILDS, Build, fastapi_native, starlette_added
from tests.unit.web.support import TOKEN, InMemoryForge
from websockets.asyncio.client import connect

from forge_otel.errors import ConfigurationError
from forge_otel.names import Attr

MEGABYTE = b"x" * 2**20


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve `app` on a free port and yield its address without a scheme."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
async def test_requests(build: Build) -> None:
    """The forge is open before the first request and closed after the last, and each request has one span."""
    forge = InMemoryForge()
    async with serving(build(forge)) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert forge.entered >= 1
        assert (await client.get("/items/1")).json() == {"item": 1}
        assert (await client.get("/stream")).text == "c0c1c2"
        assert (await client.get("/livez")).json() == {"status": "pass"}
    assert forge.entered == 0
    names = [span.name for span in forge.spans if span.kind.name == "SERVER"]
    # FastAPI's own telemetry is outside the middleware, so it traces /livez as well.
    assert [name.startswith(("GET /items/{item", "GET /stream")) for name in names[:2]] == [True, True]
    assert forge.active == 0


async def test_metrics_from_this_machine() -> None:
    """A local request needs no token; a request through a proxy does."""
    forge = InMemoryForge(admin_token=TOKEN)
    async with serving(starlette_added(forge)) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/metrics", headers={"x-forwarded-for": "10.0.0.1"})).status_code == 401


@pytest.mark.parametrize("build", [starlette_added, fastapi_native], ids=lambda build: build.__name__)
async def test_fifty_megabytes(build: Build) -> None:
    """A body over the limit gets a 413, and the service continues."""
    forge = InMemoryForge()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield MEGABYTE

    async with serving(build(forge)) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        declared = await client.post("/none", content=MEGABYTE * 50)
        assert declared.status_code == 413
        assert declared.json()["code"] == "payload_too_large"
        assert (await client.post("/none", content=chunks())).status_code in {404, 413}
        assert (await client.get("/items/1")).status_code == 200


async def test_websocket() -> None:
    """A handshake, a message and a close are one span."""
    forge = InMemoryForge()
    async with serving(starlette_added(forge)) as address:
        async with connect(f"ws://{address}/rooms/7") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
        await asyncio.sleep(0)
    assert forge.server_span.name == "WS /rooms/{room}"
    assert forge.server_span.attributes[Attr.HTTP_STATUS] == 101


async def test_a_forge_that_cannot_open_ends_the_server() -> None:
    """The server exits with an error."""
    forge = InMemoryForge(open_error=ConfigurationError(["cache_url is odd"]))
    server = uvicorn.Server(uvicorn.Config(starlette_added(forge), port=0, log_level="critical"))
    with pytest.raises(SystemExit) as caught:
        await server.serve()
    assert caught.value.code == 3
