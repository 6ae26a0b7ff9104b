"""Span, duration sample and background span of an HTTP request."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from tests.unit.web.support import InMemoryForge, plain, request, scope_of, serving

from forge_otel import GenerationRequest, GenerationResult
from forge_otel.names import Attr, Metric
from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.request.http import record_background

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = ("traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01")


async def test_attributes() -> None:
    """The span has the server attributes of the HTTP conventions."""
    forge = InMemoryForge()
    await request(serving(plain, forge), "/?page=2", headers=[("user-agent", "curl/8")])
    found = dict(forge.server_span.attributes or {})
    assert found == {
        Attr.HTTP_METHOD: "GET",
        Attr.HTTP_ROUTE: "/",
        Attr.HTTP_STATUS: 200,
        Attr.HTTP_RESPONSE_SIZE: 5,
        Attr.URL_SCHEME: "http",
        Attr.URL_PATH: "/",
        Attr.URL_QUERY: "page=2",
        Attr.SERVER_ADDRESS: "api.test",
        Attr.SERVER_PORT: 8000,
        Attr.CLIENT_ADDRESS: "192.0.2.7",
        Attr.USER_AGENT: "curl/8",
        Attr.NETWORK_PROTOCOL_VERSION: "1.1",
    }


async def test_unknown_methods_share_one_series() -> None:
    """An unknown method is counted as `_OTHER`; only the span has its name."""
    forge = InMemoryForge()
    await request(serving(plain, forge), method="FOOBAR")
    assert forge.server_span.name == "HTTP /"
    assert forge.server_span.attributes[Attr.HTTP_METHOD_ORIGINAL] == "FOOBAR"
    assert forge.duration.attributes[Attr.HTTP_METHOD] == "_OTHER"


async def test_a_stream_counts_to_its_last_byte() -> None:
    """Span and sample end with the last byte of a stream."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        async def slow() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0.05)
            yield b"last"

        return StreamingResponse(slow())

    await request(serving(page, forge))
    span = forge.server_span
    assert span.end_time - span.start_time >= 45_000_000
    assert forge.duration.sum >= 0.045
    assert span.attributes[Attr.HTTP_RESPONSE_SIZE] == 9


async def test_requests_in_flight() -> None:
    """The gauge counts a request by method while it runs, and then falls to 0."""
    forge = InMemoryForge()
    seen: list[int] = []

    async def page(_request: Request) -> Response:
        seen.append(forge.active)
        return PlainTextResponse("hello")

    await request(serving(page, forge), method="POST")
    assert seen == [1]
    [point] = forge.points("http.server.active_requests")
    assert (point.value, point.attributes) == (0, {Attr.HTTP_METHOD: "POST", Attr.URL_SCHEME: "http"})


async def test_a_head_request_has_no_body() -> None:
    """The body that an application sends to HEAD does not count, since the server drops it."""
    forge = InMemoryForge()
    await request(serving(plain, forge), method="HEAD")
    assert forge.server_span.attributes[Attr.HTTP_RESPONSE_SIZE] == 0


async def test_a_file_that_the_server_sends() -> None:
    """The size of a file sent by the server is unknown."""
    forge = InMemoryForge()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": "/some/file"})

    await request(ForgeMiddleware(app, forge=forge))
    assert Attr.HTTP_RESPONSE_SIZE not in forge.server_span.attributes
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 200


async def test_background_tasks_do_not_count() -> None:
    """A background task does not prolong the span or the sample."""
    forge = InMemoryForge()
    ended: list[int] = []

    async def after() -> None:
        await asyncio.sleep(0.05)
        ended.append(len(forge.spans))

    async def page(_request: Request) -> Response:
        return PlainTextResponse("hello", background=BackgroundTask(after))

    await request(serving(page, forge))
    assert ended == [1]
    assert forge.duration.sum < 0.045


async def test_background_tasks_have_their_own_span() -> None:
    """The span starts with the last byte, ends with the task and is linked to the server span."""
    forge = InMemoryForge()

    async def after() -> None:
        started_ns = time.time_ns()
        while time.time_ns() - started_ns < 30_000_000:
            await asyncio.sleep(0)

    async def page(_request: Request) -> Response:
        return PlainTextResponse("hello", background=BackgroundTask(after))

    await request(serving(page, forge))
    server, span = forge.server_span, forge.spans[-1]
    assert (span.name, span.parent, [link.context for link in span.links]) == (
        "background /",
        server.context,
        [server.context],
    )
    assert span.start_time == server.end_time
    assert span.end_time - span.start_time >= 30_000_000


@pytest.mark.parametrize(("took_ms", "spans"), [(24, 0), (25, 1)])
def test_a_quick_return_has_no_span(took_ms: int, spans: int) -> None:
    """Less than 25 ms after the last byte is the return through middleware, not a background task."""
    forge = InMemoryForge()
    record_background(
        forge.tracer_provider.get_tracer("test"),
        trace.INVALID_SPAN,
        route=None,
        started_ns=10**9,
        ended_ns=10**9 + took_ms * 10**6,
        error=None,
        with_text=False,
    )
    assert len(forge.spans) == spans


async def test_a_failing_background_task() -> None:
    """The exception is raised again and fails the background span, not the server span."""
    forge = InMemoryForge()

    async def after() -> None:
        raise ZeroDivisionError

    async def page(_request: Request) -> Response:
        return PlainTextResponse("hello", background=BackgroundTask(after))

    exchange = await request(serving(page, forge))
    assert isinstance(exchange.error, ZeroDivisionError)
    assert forge.server_span.status.status_code is StatusCode.UNSET
    background = forge.spans[-1]
    assert (background.name, background.status.status_code) == ("background /", StatusCode.ERROR)
    assert [event.name for event in background.events] == ["exception"]


async def test_a_disconnect_does_not_fail_the_span() -> None:
    """A disconnect during a stream has the error type `client_disconnected`."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"more"

        return StreamingResponse(endless())

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    await serving(page, forge)(scope_of("/"), receive, send)
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "client_disconnected"
    assert forge.server_span.status.status_code is StatusCode.UNSET
    assert forge.duration.attributes[Attr.ERROR_TYPE] == "client_disconnected"
    assert forge.active == 0


async def test_a_send_that_fails_is_a_disconnect() -> None:
    """ASGI 2.4 servers raise an OSError if the client has disconnected."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        async def two() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        return StreamingResponse(two())

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError

    with pytest.raises(ClientDisconnect):
        await serving(page, forge)(scope_of("/", asgi={"spec_version": "2.4"}), receive, send)
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "client_disconnected"


async def test_a_cancellation_fails_the_span() -> None:
    """A request that the server cancels is an error, unlike a client's disconnect."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(request(serving(page, forge)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "asyncio.exceptions.CancelledError"
    assert forge.server_span.status.status_code is StatusCode.ERROR
    assert forge.active == 0


async def test_an_application_without_a_response() -> None:
    """Returning without a response is counted as the 500 that the server sends."""
    forge = InMemoryForge()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    await request(ForgeMiddleware(silent, forge=forge))
    assert forge.duration.attributes[Attr.ERROR_TYPE] == "incomplete_response"
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 500


async def test_a_server_error_of_the_application() -> None:
    """A 503 of the application fails the span without an exception."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        return PlainTextResponse("later", status_code=503)

    await request(serving(page, forge))
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "503"
    assert forge.server_span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("fails_in_generation", [True, False])
async def test_a_failure_without_a_record_is_in_the_summary(fails_in_generation: bool) -> None:
    """Like the model call before it; a failed generation has a record, which counts once."""
    forge = InMemoryForge()

    async def fail() -> GenerationResult:
        raise RuntimeError("x")

    async def page(_request: Request) -> Response:
        forge.record_usage(1000, 200, model="gpt-4o", provider="openai")
        if fails_in_generation:
            await forge.generate(GenerationRequest(component_type="a", figma_key="f"), fail, pipeline="p")
        return PlainTextResponse("later", status_code=503)

    await request(ForgeMiddleware(serving(page, forge), forge=forge, handle_errors=True))
    unrecorded = (await forge.operations.summary())["unrecorded"]
    assert unrecorded["failed_requests"] == int(not fails_in_generation)
    (spent,) = forge.points(Metric.COST.name)
    assert float(unrecorded["cost_usd"]) == pytest.approx(spent.value)
    assert unrecorded["model_calls"] == 1


@pytest.mark.parametrize(
    ("trust", "same_trace", "links"), [("accept", True, 0), ("link", False, 1), ("ignore", False, 0)]
)
async def test_the_callers_trace(trust: str, same_trace: bool, links: int) -> None:
    """The caller's trace context is continued, linked or ignored."""
    forge = InMemoryForge()
    await request(serving(plain, forge, trust_context=trust), headers=[TRACEPARENT])
    span = forge.server_span
    assert (trace.format_trace_id(span.context.trace_id) == TRACE_ID) is same_trace
    assert len(span.links) == links


async def test_child_spans() -> None:
    """The server span is current in the endpoint, also behind a BaseHTTPMiddleware."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        with forge.telemetry.tracer.start_as_current_span("agent"):
            return PlainTextResponse("hello")

    async def forward(inner: Request, call_next: Any) -> Response:
        return await call_next(inner)

    await request(serving(page, forge, middleware=[Middleware(BaseHTTPMiddleware, dispatch=forward)]))
    agent = next(span for span in forge.spans if span.name == "agent")
    assert agent.parent.span_id == forge.server_span.context.span_id


async def test_an_application_called_in_process_has_its_own_span() -> None:
    """A handler that calls a second application in-process gets a second server span as a child."""
    forge = InMemoryForge()
    inner = ForgeMiddleware(serving(plain, forge), forge=forge)

    async def page(_request: Request) -> Response:
        await request(inner, "/")
        return PlainTextResponse("hello")

    await request(serving(page, forge))
    second, first = forge.spans
    assert second.parent.span_id == first.context.span_id


async def test_unsampled_requests_are_counted() -> None:
    """A request without a recorded span still has a duration sample."""
    forge = InMemoryForge(sampler=ALWAYS_OFF)
    exchange = await request(serving(plain, forge))
    assert exchange.status == 200
    assert forge.spans == []
    assert forge.duration.attributes[Attr.HTTP_ROUTE] == "/"
