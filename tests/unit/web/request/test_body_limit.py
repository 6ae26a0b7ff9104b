"""Request bodies over the limit: rejected before the application is called if declared, else while it reads."""

import json
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from tests.unit.web.apps import NATIVE_OFF, native
from tests.unit.web.support import Exchange, InMemoryForge, request

from forge_otel.names import Attr
from forge_otel.web.middleware import ForgeMiddleware

LIMIT = 100


def starlette_app(forge: InMemoryForge, calls: list[int]) -> ASGIApp:
    async def page(request: Request) -> Response:
        calls.append(1)
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/", page, methods=["POST"])])
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def fastapi_app(forge: InMemoryForge, calls: list[int], telemetry: Any = NATIVE_OFF) -> ASGIApp:
    app = FastAPI(telemetry=telemetry)
    app.add_middleware(ForgeMiddleware, forge=forge)

    @app.post("/")
    async def page(data: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        calls.append(1)
        return data

    return app


def native_app(forge: InMemoryForge, calls: list[int]) -> ASGIApp:
    return fastapi_app(forge, calls, native(forge))


everywhere = pytest.mark.parametrize("build", [starlette_app, fastapi_app, native_app])


def check_rejected(exchange: Exchange, forge: InMemoryForge) -> None:
    assert exchange.error is None
    assert exchange.status == 413
    assert exchange.headers["content-type"] == "application/problem+json"
    assert json.loads(exchange.body)["code"] == "payload_too_large"
    assert json.loads(exchange.body)["trace_id"] == exchange.headers["x-trace-id"]
    assert forge.server_span.attributes[Attr.HTTP_STATUS] == 413
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 413


@everywhere
async def test_declared(build: Any) -> None:
    """A declared size over the limit is a 413 without a call of the application."""
    forge, calls = InMemoryForge(max_body_bytes=LIMIT), []
    body = [b"x" * (LIMIT + 1)]
    exchange = await request(
        build(forge, calls), method="POST", body=body, headers=[("content-length", str(LIMIT + 1))]
    )
    check_rejected(exchange, forge)
    assert calls == []


@everywhere
async def test_chunked(build: Any) -> None:
    """A chunked body is a 413 once it passes the limit, even if the framework turns the error into a 400."""
    forge, calls = InMemoryForge(max_body_bytes=LIMIT), []
    headers = [("content-type", "application/json")]
    exchange = await request(build(forge, calls), method="POST", body=[b"x" * 60, b"x" * 60], headers=headers)
    check_rejected(exchange, forge)


@everywhere
async def test_at_the_limit(build: Any) -> None:
    """A body of exactly the limit is accepted."""
    forge, calls = InMemoryForge(max_body_bytes=LIMIT), []
    body = json.dumps({"a": "x" * 90}).ljust(LIMIT).encode()
    headers = [("content-type", "application/json"), ("content-length", str(LIMIT))]
    exchange = await request(build(forge, calls), method="POST", body=[body], headers=headers)
    assert (exchange.status, calls) == (200, [1])
    assert forge.server_span.attributes[Attr.HTTP_REQUEST_SIZE] == LIMIT
