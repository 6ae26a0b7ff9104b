"""Errors as problem+json: ours always, unexpected ones on request, the frameworks' by one line."""

import json
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from opentelemetry.trace import StatusCode
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from tests.unit.web.apps import NATIVE_OFF, native
from tests.unit.web.support import Exchange, InMemoryForge, request

from forge_otel.errors import BadRequest, CircuitOpen, ForgeError, Unauthorized
from forge_otel.names import Attr
from forge_otel.web.exception_handlers import install_problem_handlers
from forge_otel.web.middleware import ForgeMiddleware


def raising(exc: Exception, forge: InMemoryForge, kind: str = "starlette", **options: Any) -> ASGIApp:
    """An application whose page raises `exc`."""

    async def page(request: Request) -> Response:
        raise exc

    app: Starlette
    if kind == "starlette":
        app = Starlette(routes=[Route("/", page)])
    else:
        app = FastAPI(telemetry=NATIVE_OFF if kind == "fastapi" else native(forge))
        app.add_api_route("/", page)
    app.add_middleware(ForgeMiddleware, forge=forge, **options)
    return app


def problem(exchange: Exchange) -> dict[str, Any]:
    assert exchange.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = json.loads(exchange.body)
    assert found["status"] == exchange.status
    return found


@pytest.mark.parametrize("kind", ["starlette", "fastapi", "native"])
async def test_forge_errors(kind: str) -> None:
    """A ForgeError becomes its status, a plain sentence and the trace id, in every framework."""
    forge = InMemoryForge()
    exchange = await request(raising(CircuitOpen("openai", retry_after_s=4.2), forge, kind))
    assert problem(exchange) == {
        "type": "urn:problem:forge-otel:circuit_open",
        "title": "Circuit open",
        "status": 503,
        "detail": "calls to 'openai' are suspended after repeated failures; retry in 4 s",
        "code": "circuit_open",
        "trace_id": exchange.headers["x-trace-id"],
        "retry_after_s": 4.2,
    }
    assert exchange.headers["retry-after"] == "5"
    assert forge.server_span.status.status_code is StatusCode.ERROR
    assert [event.name for event in forge.server_span.events] == ["exception"]
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 503


async def test_the_callers_fault_is_no_error_of_the_service() -> None:
    """A 4xx leaves the span unset."""
    forge = InMemoryForge()
    exchange = await request(raising(BadRequest("figma_key is missing"), forge))
    assert problem(exchange)["detail"] == "figma_key is missing"
    assert forge.server_span.status.status_code is StatusCode.UNSET
    assert Attr.ERROR_TYPE not in forge.server_span.attributes


async def test_unauthorized_says_how() -> None:
    """RFC 9110 wants the scheme named."""
    exchange = await request(raising(Unauthorized("log in"), InMemoryForge()))
    assert exchange.headers["www-authenticate"].startswith("Bearer")


async def test_unexpected_exceptions_pass() -> None:
    """The application's own handlers, debug pages and logs see what they saw before."""
    exchange = await request(raising(ZeroDivisionError("secret"), InMemoryForge()))
    assert isinstance(exchange.error, ZeroDivisionError)
    assert exchange.body == b"Internal Server Error"


async def test_unexpected_exceptions_on_request(caplog: pytest.LogCaptureFixture) -> None:
    """With handle_errors they are answered without a word of what happened, which is in the log."""
    forge = InMemoryForge()
    exchange = await request(raising(ZeroDivisionError("secret"), forge, handle_errors=True))
    assert exchange.error is None
    assert problem(exchange)["code"] == "internal"
    assert b"secret" not in exchange.body
    assert "ZeroDivisionError: secret" in caplog.text
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "ZeroDivisionError"


async def test_a_started_response_is_not_answered_again() -> None:
    """After the first byte an error can only end the stream."""

    async def page(_request: Request) -> Response:
        async def broken() -> Any:
            yield b"first"
            raise ForgeError("in the middle")

        return StreamingResponse(broken())

    app = Starlette(routes=[Route("/", page)])
    app.add_middleware(ForgeMiddleware, forge=InMemoryForge(), handle_errors=True)
    exchange = await request(app)
    assert isinstance(exchange.error, ForgeError)
    assert exchange.body == b"first"


async def test_the_applications_own_handler_wins() -> None:
    """An application that handles ForgeErrors itself goes on doing so."""

    async def teapot(_request: Request, exc: Exception) -> Response:
        return PlainTextResponse("teapot", status_code=418)

    async def page(request: Request) -> Response:
        raise ForgeError("never seen")

    app = Starlette(routes=[Route("/", page)], exception_handlers={ForgeError: teapot})
    app.add_middleware(ForgeMiddleware, forge=InMemoryForge())
    assert (await request(app)).status == 418


class Order(BaseModel):
    """A body with one field."""

    size: int


def with_handlers(forge: InMemoryForge) -> FastAPI:
    app = FastAPI(telemetry=NATIVE_OFF)
    app.add_middleware(ForgeMiddleware, forge=forge)

    @app.post("/orders")
    async def order(order: Order) -> Order:
        return order

    @app.get("/mine")
    async def mine() -> None:
        raise HTTPException(status_code=409, detail={"taken": True}, headers={"x-mine": "1"})

    return app


JSON = [("content-type", "application/json")]


async def test_handlers_malformed_json() -> None:
    """A body that is not JSON is a 400 which says where."""
    app = with_handlers(InMemoryForge())
    install_problem_handlers(app)
    exchange = await request(app, "/orders", method="POST", body=[b'{"size": '], headers=JSON)
    found = problem(exchange)
    assert (found["status"], found["code"]) == (400, "invalid_json")
    assert found["detail"] == "the request body is not valid JSON: Expecting value at character 9"
    assert found["trace_id"] == exchange.headers["x-trace-id"]


async def test_handlers_wrong_field() -> None:
    """A wrong field is named, and what was sent is not repeated."""
    app = with_handlers(InMemoryForge())
    install_problem_handlers(app)
    exchange = await request(app, "/orders", method="POST", body=[b'{"size": "SECRET"}'], headers=JSON)
    found = problem(exchange)
    assert found["status"] == 422
    assert found["detail"].startswith("the request is invalid: size: Input should be a valid integer")
    assert b"SECRET" not in exchange.body


async def test_handlers_http_errors() -> None:
    """Wrong paths, wrong methods and the application's own HTTP errors keep their status and headers."""
    app = with_handlers(InMemoryForge())
    install_problem_handlers(app)
    lost = await request(app, "/none")
    assert problem(lost)["detail"] == "nothing is served at this path"
    wrong = await request(app, "/orders")
    assert (problem(wrong)["status"], wrong.headers["allow"]) == (405, "POST")
    mine = await request(app, "/mine")
    assert (problem(mine)["context"], mine.headers["x-mine"]) == ({"taken": True}, "1")


async def test_handlers_on_starlette() -> None:
    """The line works on Starlette alone."""
    app = Starlette(routes=[])
    app.add_middleware(ForgeMiddleware, forge=InMemoryForge())
    install_problem_handlers(app)
    assert problem(await request(app, "/none"))["code"] == "not_found"


async def test_handlers_leave_the_applications_choice() -> None:
    """A handler that the application has chosen stays."""
    app = with_handlers(InMemoryForge())

    async def own(_request: Request, exc: Exception) -> Response:
        return PlainTextResponse("own", status_code=422)

    app.add_exception_handler(RequestValidationError, own)
    install_problem_handlers(app)
    exchange = await request(app, "/orders", method="POST", body=[b"{}"], headers=JSON)
    assert exchange.body == b"own"
