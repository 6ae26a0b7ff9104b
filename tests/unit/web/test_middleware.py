"""The middleware is transparent: applications send and receive the same messages as without it."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message
from tests.unit.web.apps import NATIVE_OFF, fastapi_app, starlette_app
from tests.unit.web.support import InMemoryForge, connect, plain, request, serving

from forge_otel.web.middleware import ForgeMiddleware

OURS = {"x-trace-id", "server-timing", "cache-status"}


def without_ours(messages: list[Message]) -> list[Message]:
    return [
        message
        if "headers" not in message
        else {**message, "headers": [item for item in message["headers"] if item[0].decode() not in OURS]}
        for message in messages
    ]


@pytest.mark.parametrize("build", [starlette_app, lambda: fastapi_app(NATIVE_OFF)], ids=["starlette", "fastapi"])
@pytest.mark.parametrize("call", [{}, {"method": "POST"}, {"method": "HEAD"}, {"body": [b"a", b"b"]}], ids=str)
@pytest.mark.parametrize("path", ["/items/1", "/items/x", "/stream", "/boom", "/none", "/items/1/?token=x"])
async def test_http(build: Callable[[], ASGIApp], call: dict[str, Any], path: str) -> None:
    """HTTP: the same messages in the same order, and the same exception."""
    bare = await request(build(), path, **call)
    ours = await request(ForgeMiddleware(build(), forge=InMemoryForge()), path, **call)
    assert without_ours(ours.sent) == bare.sent
    assert type(ours.error) is type(bare.error)


@pytest.mark.parametrize("build", [starlette_app, lambda: fastapi_app(NATIVE_OFF)], ids=["starlette", "fastapi"])
@pytest.mark.parametrize("path", ["/rooms/1", "/none"])
async def test_websocket(build: Callable[[], ASGIApp], path: str) -> None:
    """WebSocket: the same messages in the same order."""
    hello = {"type": "websocket.receive", "text": "hello"}
    bare = await connect(build(), path, hello)
    ours = await connect(ForgeMiddleware(build(), forge=InMemoryForge()), path, hello)
    assert ours.sent == bare.sent


async def test_the_applications_messages_are_not_changed() -> None:
    """Headers are added to a copy, since an application may send the same message again."""
    headers = [(b"a", b"1")]
    start = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    await request(ForgeMiddleware(app, forge=InMemoryForge()))
    assert headers == [(b"a", b"1")]


async def test_extensions_pass() -> None:
    """Messages of ASGI extensions pass unchanged, and trailers end the response."""
    sent = [
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        {"type": "http.response.body", "body": b"x"},
        {"type": "http.response.trailers", "headers": [(b"t", b"1")]},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)

    forge = InMemoryForge()
    exchange = await request(ForgeMiddleware(app, forge=forge))
    assert without_ours(exchange.sent) == sent
    assert forge.duration.count == 1


async def test_excluded_requests() -> None:
    """An excluded request has no span, no sample and no added headers."""
    forge = InMemoryForge()
    exchange = await request(serving(plain, forge, exclude=lambda scope: scope["path"] == "/"))
    assert set(exchange.headers) == {"content-length", "content-type"}
    assert forge.spans == []


async def test_unknown_scopes_pass() -> None:
    """Scopes other than HTTP, WebSocket and lifespan are forwarded."""
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    await ForgeMiddleware(app, forge=InMemoryForge())({"type": "mqtt"}, None, None)  # type: ignore[arg-type]
    assert passed == ["mqtt"]
