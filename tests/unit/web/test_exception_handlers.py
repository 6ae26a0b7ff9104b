"""Errors of Starlette and FastAPI themselves as problem+json."""

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from tests.unit.web.apps import NATIVE_OFF
from tests.unit.web.support import InMemoryForge, problem, request

from forge_otel.web.exception_handlers import install_problem_handlers
from forge_otel.web.middleware import ForgeMiddleware


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


async def test_malformed_json() -> None:
    """A body that is not JSON is a 400 with the position of the error."""
    app = with_handlers(InMemoryForge())
    install_problem_handlers(app)
    exchange = await request(app, "/orders", method="POST", body=[b'{"size": '], headers=JSON)
    found = problem(exchange)
    assert (found["status"], found["code"]) == (400, "invalid_json")
    assert found["detail"] == "the request body is not valid JSON: Expecting value at character 9"
    assert found["trace_id"] == exchange.headers["x-trace-id"]


async def test_wrong_field() -> None:
    """A 422 names the invalid field and does not repeat its value."""
    app = with_handlers(InMemoryForge())
    install_problem_handlers(app)
    exchange = await request(app, "/orders", method="POST", body=[b'{"size": "SECRET"}'], headers=JSON)
    found = problem(exchange)
    assert found["status"] == 422
    assert found["detail"].startswith("the request is invalid: size: Input should be a valid integer")
    assert b"SECRET" not in exchange.body


async def test_http_errors() -> None:
    """Unknown paths, wrong methods and the application's HTTP errors keep their status and headers."""
    app = with_handlers(InMemoryForge())
    install_problem_handlers(app)
    lost = await request(app, "/none")
    assert problem(lost)["detail"] == "nothing is served at this path"
    wrong = await request(app, "/orders")
    assert (problem(wrong)["status"], wrong.headers["allow"]) == (405, "POST")
    mine = await request(app, "/mine")
    assert (problem(mine)["context"], mine.headers["x-mine"]) == ({"taken": True}, "1")


async def test_on_starlette() -> None:
    """The handlers work on Starlette without FastAPI."""
    app = Starlette(routes=[])
    app.add_middleware(ForgeMiddleware, forge=InMemoryForge())
    install_problem_handlers(app)
    assert problem(await request(app, "/none"))["code"] == "not_found"


async def test_the_applications_handler_is_kept() -> None:
    """A handler that the application registered is not replaced."""
    app = with_handlers(InMemoryForge())

    async def own(_request: Request, exc: Exception) -> Response:
        return PlainTextResponse("own", status_code=422)

    app.add_exception_handler(RequestValidationError, own)
    install_problem_handlers(app)
    exchange = await request(app, "/orders", method="POST", body=[b"{}"], headers=JSON)
    assert exchange.body == b"own"
