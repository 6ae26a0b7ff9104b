"""One application behind the middleware, with every combination of instrumentation."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse as FastStreaming
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as Contrib
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as StarletteTelemetry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp
from tests.unit.web.support import InMemoryForge

from forge_otel.web.middleware import ForgeMiddleware

Build = Callable[[InMemoryForge], ASGIApp]

BACKGROUND_NS = 30_000_000
NATIVE_OFF: Any = {"tracing": False, "metrics": False, "logs": False}


async def chunks() -> AsyncIterator[str]:
    """Three chunks of 2 bytes."""
    for number in range(3):
        await asyncio.sleep(0)
        yield f"c{number}"


async def json_page(request: Request) -> Response:
    return JSONResponse({"item": request.path_params["item"]})


async def stream_page(_request: Request) -> Response:
    return StreamingResponse(chunks())


async def span_page(_request: Request) -> Response:
    """Respond with the id of the current span."""
    return Response(str(trace.get_current_span().get_span_context().span_id))


async def later() -> None:
    """Run long enough after the response to get a background span."""
    started_ns = time.time_ns()
    with trace.get_tracer("later").start_as_current_span("later"):
        while time.time_ns() - started_ns < BACKGROUND_NS:
            await asyncio.sleep(0)


async def later_page(_request: Request) -> Response:
    return Response("ok", background=BackgroundTask(later))


async def failing_page(_request: Request) -> Response:
    raise ZeroDivisionError("the page failed")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


def starlette_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/items/{item:int}", json_page),
            Route("/stream", stream_page),
            Route("/span", span_page),
            Route("/later", later_page),
            Route("/boom", failing_page),
            WebSocketRoute("/rooms/{room}", echo),
        ]
    )


def fastapi_app(telemetry: Any) -> FastAPI:
    app = FastAPI(telemetry=telemetry)
    router = APIRouter()

    @router.get("/{item}")
    async def item_page(item: int) -> dict[str, int]:
        return {"item": item}

    @app.get("/stream")
    async def streamed() -> FastStreaming:
        return FastStreaming(chunks())

    @app.get("/boom")
    async def boom() -> None:
        raise ZeroDivisionError("the page failed")

    @app.get("/span")
    async def span(request: Request) -> Response:
        return await span_page(request)

    @app.get("/later")
    async def with_later(tasks: BackgroundTasks) -> str:
        tasks.add_task(later)
        return "ok"

    app.include_router(router, prefix="/items")
    app.add_api_websocket_route("/rooms/{room}", echo)
    return app


def native(forge: InMemoryForge, **more: Any) -> Any:
    return {**providers(forge), **more}


def providers(forge: InMemoryForge) -> Any:
    return {"tracer_provider": forge.tracer_provider, "meter_provider": forge.meter_provider}


def starlette_added(forge: InMemoryForge) -> ASGIApp:
    app = starlette_app()
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def starlette_wrapped(forge: InMemoryForge) -> ASGIApp:
    return ForgeMiddleware(starlette_app(), forge=forge)


def starlette_contrib_outside(forge: InMemoryForge) -> ASGIApp:
    return Contrib(starlette_added(forge), **providers(forge))


def starlette_contrib_inside(forge: InMemoryForge) -> ASGIApp:
    return ForgeMiddleware(Contrib(starlette_app(), **providers(forge)), forge=forge)


def starlette_own_outside(forge: InMemoryForge) -> ASGIApp:
    app = starlette_app()
    app.add_middleware(ForgeMiddleware, forge=forge)
    app.add_middleware(StarletteTelemetry, **providers(forge))
    return app


def starlette_own_inside(forge: InMemoryForge) -> ASGIApp:
    app = starlette_app()
    app.add_middleware(StarletteTelemetry, **providers(forge))
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def starlette_twice(forge: InMemoryForge) -> ASGIApp:
    return ForgeMiddleware(starlette_added(forge), forge=forge)


def fastapi_without_native(forge: InMemoryForge) -> ASGIApp:
    app = fastapi_app(NATIVE_OFF)
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def fastapi_native(forge: InMemoryForge) -> ASGIApp:
    app = fastapi_app(native(forge))
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def fastapi_native_spans_only(forge: InMemoryForge) -> ASGIApp:
    app = fastapi_app(native(forge, metrics=False))
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def fastapi_native_metrics_only(forge: InMemoryForge) -> ASGIApp:
    app = fastapi_app(native(forge, tracing=False))
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def fastapi_wrapped(forge: InMemoryForge) -> ASGIApp:
    return ForgeMiddleware(fastapi_app(native(forge)), forge=forge)


def fastapi_instrumented(forge: InMemoryForge) -> ASGIApp:
    app = fastapi_app(native(forge))
    app.add_middleware(ForgeMiddleware, forge=forge)
    FastAPIInstrumentor.instrument_app(app, **providers(forge))
    return app


def fastapi_contrib_added(forge: InMemoryForge) -> ASGIApp:
    app = fastapi_app(native(forge))
    app.add_middleware(ForgeMiddleware, forge=forge)
    app.add_middleware(Contrib, **providers(forge))
    return app


def fastapi_below_starlette(forge: InMemoryForge) -> ASGIApp:
    app = Starlette(routes=[Mount("/", app=fastapi_app(native(forge)))])
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def starlette_mounted(forge: InMemoryForge) -> ASGIApp:
    app = Starlette(routes=[Mount("/t/{tenant}", app=starlette_app())])
    app.add_middleware(ForgeMiddleware, forge=forge)
    return app


def starlette_mounted_in_fastapi(forge: InMemoryForge) -> ASGIApp:
    """FastAPI's own telemetry, where it is on, gives all that is below such a mount one route: `/t/{path}`."""
    app = FastAPI(telemetry=NATIVE_OFF)
    app.add_middleware(ForgeMiddleware, forge=forge)
    app.mount("/t", starlette_app())
    return app


def fastapi_mounted(forge: InMemoryForge) -> ASGIApp:
    app = FastAPI(telemetry=native(forge))
    app.add_middleware(ForgeMiddleware, forge=forge)
    app.mount("/t/{tenant}", fastapi_app(native(forge)))
    return app


def fastapi_mounted_without_native(forge: InMemoryForge) -> ASGIApp:
    app = FastAPI(telemetry=NATIVE_OFF)
    app.add_middleware(ForgeMiddleware, forge=forge)
    app.mount("/t/{tenant}", fastapi_app(NATIVE_OFF))
    return app


def fastapi_mounted_instrumented(forge: InMemoryForge) -> ASGIApp:
    app = FastAPI(telemetry=native(forge))
    app.add_middleware(ForgeMiddleware, forge=forge)
    app.mount("/t/{tenant}", fastapi_app(native(forge)))
    FastAPIInstrumentor.instrument_app(app, **providers(forge))
    return app


def fastapi_mounted_with_its_own(forge: InMemoryForge) -> ASGIApp:
    """Only the mounted application has the middleware."""
    app = FastAPI(telemetry=NATIVE_OFF)
    app.mount("/t/{tenant}", fastapi_without_native(forge))
    return app


def fastapi_mounted_twice(forge: InMemoryForge) -> ASGIApp:
    """Both have the middleware."""
    app = FastAPI(telemetry=native(forge))
    app.add_middleware(ForgeMiddleware, forge=forge)
    app.mount("/t/{tenant}", fastapi_native(forge))
    return app


BUILDS: list[Build] = [
    starlette_added,
    starlette_wrapped,
    starlette_contrib_outside,
    starlette_contrib_inside,
    starlette_own_outside,
    starlette_own_inside,
    starlette_twice,
    fastapi_without_native,
    fastapi_native,
    fastapi_native_spans_only,
    fastapi_native_metrics_only,
    fastapi_wrapped,
    fastapi_instrumented,
    fastapi_contrib_added,
    fastapi_below_starlette,
]
MOUNTED: list[tuple[Build, str, str]] = [
    (starlette_mounted, "/t/acme", "/t/{tenant}"),
    (starlette_mounted_in_fastapi, "/t", "/t"),
    (fastapi_mounted, "/t/acme", "/t/{tenant}"),
    (fastapi_mounted_without_native, "/t/acme", "/t/{tenant}"),
    (fastapi_mounted_instrumented, "/t/acme", "/t/{tenant}"),
    (fastapi_mounted_with_its_own, "/t/acme", "/t/{tenant}"),
    (fastapi_mounted_twice, "/t/acme", "/t/{tenant}"),
]
"""Applications below a mount: where it is in paths, and in templates."""
