"""WebSocket connections: one span each, a duration sample of the handshake, exceptions raised again."""

from typing import Any

from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket
from tests.unit.web.support import InMemoryForge, connect

from forge_otel.context import Identity, identity
from forge_otel.names import Attr
from forge_otel.web.middleware import ForgeMiddleware


def serving(endpoint: Any, forge: InMemoryForge) -> ASGIApp:
    app = Starlette(routes=[WebSocketRoute("/rooms/{room}", endpoint)])
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


async def test_rejected() -> None:
    """A handshake that the application rejects is a 403 without an error."""
    forge = InMemoryForge()

    async def endpoint(socket: WebSocket) -> None:
        await socket.close()

    await connect(serving(endpoint, forge), "/rooms/1")
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 403
    assert forge.server_span.status.status_code is StatusCode.UNSET


async def test_unknown_path() -> None:
    """An unmatched path is counted as `_unmatched`."""
    forge = InMemoryForge()
    await connect(serving(lambda: None, forge), "/nothing")
    assert forge.duration.attributes[Attr.HTTP_ROUTE] == "_unmatched"
    assert forge.server_span.name == "WS"


async def test_exception_before_the_handshake() -> None:
    """An exception before the handshake is counted as the 500 that the server sends."""
    forge = InMemoryForge()

    async def endpoint(socket: WebSocket) -> None:
        raise ZeroDivisionError

    exchange = await connect(serving(endpoint, forge), "/rooms/1")
    assert isinstance(exchange.error, ZeroDivisionError)
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 500
    assert forge.duration.attributes[Attr.ERROR_TYPE] == "ZeroDivisionError"
    assert forge.active == 0


async def test_exception_after_the_handshake() -> None:
    """The sample has the successful handshake, and the span has the exception."""
    forge = InMemoryForge()

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        raise ZeroDivisionError

    await connect(serving(endpoint, forge), "/rooms/1")
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 101
    assert forge.server_span.status.status_code is StatusCode.ERROR
    assert [event.name for event in forge.server_span.events] == ["exception"]


async def test_an_abnormal_close_does_not_fail_the_span() -> None:
    """A broken connection has the error type `client_disconnected`, and the span is not failed."""
    forge = InMemoryForge()

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.receive_text()

    await connect(serving(endpoint, forge), "/rooms/1", {"type": "websocket.disconnect", "code": 1006})
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "client_disconnected"
    assert forge.server_span.status.status_code is StatusCode.UNSET


async def test_a_normal_close() -> None:
    """A normal close sets no error type."""
    forge = InMemoryForge()

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()

    await connect(serving(endpoint, forge), "/rooms/1")
    assert Attr.ERROR_TYPE not in forge.server_span.attributes


async def test_identity() -> None:
    """The identity from the headers is set for the connection."""
    forge = InMemoryForge()
    seen: list[Identity] = []

    async def endpoint(socket: WebSocket) -> None:
        seen.append(identity.get())
        await socket.accept()

    await connect(serving(endpoint, forge), "/rooms/1", headers=[("x-session-id", "s1")])
    assert seen == [Identity(session_id="s1")]
