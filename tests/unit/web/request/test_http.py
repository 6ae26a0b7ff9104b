"""One request: what its span and its sample say, and what is added to its response."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.unit.web.support import InMemoryForge, request, scope_of

from forge_otel.context import Identity, identity, record_cache_status
from forge_otel.errors import Unauthorized
from forge_otel.names import Attr
from forge_otel.web.middleware import ForgeMiddleware
from forge_otel.web.request.http import record_background
from forge_otel.web.request.options import header_identity
from forge_otel.web.request.response_headers import ResponseHeaders

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = ("traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01")


def serving(page: Any, forge: InMemoryForge, *, middleware: Any = (), **options: Any) -> ASGIApp:
    """A Starlette application with `page` at `/`, behind the middleware."""
    app = Starlette(routes=[Route("/", page, methods=["GET", "POST"])], middleware=list(middleware))
    app.add_middleware(ForgeMiddleware, forge=forge, **options)
    return app


async def plain(_request: Request) -> Response:
    return PlainTextResponse("hello")


async def test_attributes() -> None:
    """The span carries what the HTTP conventions ask of a server."""
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


async def test_an_unknown_method_is_no_new_series() -> None:
    """A method that somebody made up is counted as `_OTHER` and kept on the span only."""
    forge = InMemoryForge()
    await request(serving(plain, forge), method="FOOBAR")
    assert forge.server_span.name == "HTTP /"
    assert forge.server_span.attributes[Attr.HTTP_METHOD_ORIGINAL] == "FOOBAR"
    assert forge.duration.attributes[Attr.HTTP_METHOD] == "_OTHER"


async def test_a_stream_counts_to_its_last_byte() -> None:
    """The span and the sample last as long as the stream."""
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
    """The gauge counts a request while it is answered, by method, and falls to 0 after it."""
    forge = InMemoryForge()
    seen: list[int] = []

    async def page(_request: Request) -> Response:
        seen.append(forge.active)
        return PlainTextResponse("hello")

    await request(serving(page, forge), method="POST")
    assert seen == [1]
    [point] = forge.points("http.server.active_requests")
    assert (point.value, point.attributes) == (0, {Attr.HTTP_METHOD: "POST", Attr.URL_SCHEME: "http"})


async def test_a_head_request_sends_no_body() -> None:
    """What the application gives to a HEAD request stays with the server."""
    forge = InMemoryForge()
    await request(serving(plain, forge), method="HEAD")
    assert forge.server_span.attributes[Attr.HTTP_RESPONSE_SIZE] == 0


async def test_a_file_that_the_server_sends() -> None:
    """Its size is not ours to know."""
    forge = InMemoryForge()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": "/some/file"})

    await request(ForgeMiddleware(app, forge=forge))
    assert Attr.HTTP_RESPONSE_SIZE not in forge.server_span.attributes
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 200


async def test_background_tasks_do_not_count() -> None:
    """What runs after the last byte is not the caller's wait."""
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
    """It begins with the last byte, ends with the task, and is linked to the request."""
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
    """The application's own middleware takes its time too."""
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


async def test_a_failing_background_task_reaches_the_server() -> None:
    """The request was answered well; the exception is the server's to log."""
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


async def test_a_caller_that_hangs_up_is_no_error() -> None:
    """A disconnect in the middle of a stream has its own error type, and does not blame the service."""
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
    """Servers of ASGI 2.4 say with an OSError that nobody listens."""
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


async def test_cancellation_passes_and_is_an_error() -> None:
    """A server that gives up on a request is told apart from a caller who does."""
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


async def test_an_application_that_does_not_answer() -> None:
    """Returning without a response is counted as the 500 that the server makes of it."""
    forge = InMemoryForge()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    await request(ForgeMiddleware(silent, forge=forge))
    assert forge.duration.attributes[Attr.ERROR_TYPE] == "incomplete_response"
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 500


async def test_a_server_error_of_the_application() -> None:
    """A 503 that the application chose is an error without an exception."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        return PlainTextResponse("later", status_code=503)

    await request(serving(page, forge))
    assert forge.server_span.attributes[Attr.ERROR_TYPE] == "503"
    assert forge.server_span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("trust", "same_trace", "links"), [("accept", True, 0), ("link", False, 1), ("ignore", False, 0)]
)
async def test_the_callers_trace(trust: str, same_trace: bool, links: int) -> None:
    """A trace that the caller claims is continued, linked or left alone."""
    forge = InMemoryForge()
    await request(serving(plain, forge, trust_context=trust), headers=[TRACEPARENT])
    span = forge.server_span
    assert (trace.format_trace_id(span.context.trace_id) == TRACE_ID) is same_trace
    assert len(span.links) == links


async def test_spans_below_belong_to_the_server_span() -> None:
    """The server span is current in the endpoint, also behind a BaseHTTPMiddleware."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        with forge.telemetry.tracer.start_as_current_span("agent"):
            return PlainTextResponse("hello")

    async def pass_on(asked: Request, call_next: Any) -> Response:
        return await call_next(asked)

    await request(serving(page, forge, middleware=[Middleware(BaseHTTPMiddleware, dispatch=pass_on)]))
    agent = next(span for span in forge.spans if span.name == "agent")
    assert agent.parent.span_id == forge.server_span.context.span_id


async def test_an_application_called_in_process_is_another_request() -> None:
    """A handler that calls a second application gets a second server span below its own."""
    forge = InMemoryForge()
    inner = ForgeMiddleware(serving(plain, forge), forge=forge)

    async def page(_request: Request) -> Response:
        await request(inner, "/")
        return PlainTextResponse("hello")

    await request(serving(page, forge))
    second, first = forge.spans
    assert second.parent.span_id == first.context.span_id


async def test_the_answer_of_one_generation_has_an_age_and_an_etag() -> None:
    """The same answer has the same mark wherever it comes from; what the application says itself stands."""

    async def page(request: Request) -> Response:
        for origin in request.query_params.getlist("origin"):
            record_cache_status("L1", origin_id=origin, age_s=61.7)
        own = {"etag": '"own"'} if "own" in request.query_params else {}
        return PlainTextResponse("hello", int(request.query_params.get("status", "200")), own)

    app = serving(page, InMemoryForge())
    one, same, other = [await request(app, query_string=f"origin={name}".encode()) for name in ("g1", "g1", "g2")]
    assert one.headers["age"] == "61"
    assert one.headers["etag"] == same.headers["etag"] != other.headers["etag"]
    assert one.headers["etag"].startswith('W/"')
    assert "g1" not in one.headers["etag"]
    assert (await request(app, query_string=b"origin=g1&own=1")).headers["etag"] == '"own"'
    for query in (b"", b"origin=g1&origin=g2", b"origin=g1&status=500"):
        assert not {"etag", "age"} & set((await request(app, query_string=query)).headers)


async def test_response_headers() -> None:
    """A response says its trace, the time until it began, and which cache answered."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        record_cache_status("L4", is_stored=True)
        record_cache_status("L1")
        record_cache_status("collapsed")
        return PlainTextResponse("hello")

    exchange = await request(serving(page, forge), headers=[TRACEPARENT])
    assert exchange.headers["x-trace-id"] == TRACE_ID
    assert exchange.headers["server-timing"].startswith("total;dur=")
    expected = "forge; fwd=miss; stored, forge; hit; detail=L1, forge; fwd=miss; collapsed"
    assert exchange.headers["cache-status"] == expected


async def test_response_headers_can_be_switched_off() -> None:
    """Without our headers the application's message passes as it is."""
    forge = InMemoryForge()
    none = ResponseHeaders(trace_id=None, server_timing=False, cache_status=False)
    exchange = await request(serving(plain, forge, response_headers=none))
    assert set(exchange.headers) == {"content-length", "content-type"}


async def test_the_applications_trace_header_stays() -> None:
    """A header that the application sets itself is not sent twice."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        return PlainTextResponse("hello", headers={"X-Trace-Id": "mine"})

    exchange = await request(serving(page, forge))
    assert exchange.headers["x-trace-id"] == "mine"


async def test_unsampled_requests_are_counted() -> None:
    """A span that is not recorded costs its sample nothing."""
    forge = InMemoryForge(sampler=ALWAYS_OFF)
    exchange = await request(serving(plain, forge))
    assert exchange.status == 200
    assert forge.spans == []
    assert forge.duration.attributes[Attr.HTTP_ROUTE] == "/"


async def test_identity_reaches_the_code_below() -> None:
    """User and session are bound for the request and on its span; what is not safe counts as absent."""
    forge = InMemoryForge()
    seen: list[Identity] = []

    async def page(_request: Request) -> Response:
        seen.append(identity.get())
        return PlainTextResponse("hello")

    headers = [("x-user-id", "ann@example.org"), ("x-session-id", "<script>"), ("x-tenant", "acme")]
    await request(serving(page, forge), headers=headers)
    assert seen == [Identity(user_id="ann@example.org")]
    assert forge.server_span.attributes[Attr.USER_ID] == "ann@example.org"
    assert identity.get() == Identity()


async def test_identity_hook() -> None:
    """The application may say itself who asks, and may refuse."""
    forge = InMemoryForge()

    def only_ann(scope: Scope) -> Identity:
        if header_identity(scope) != Identity(user_id="ann"):
            raise Unauthorized("only Ann may come in")
        return Identity(user_id="ann", tenant="acme")

    app = serving(plain, forge, identity=only_ann)
    assert (await request(app, headers=[("x-user-id", "ann")])).status == 200
    assert (await request(app, headers=[("x-user-id", "bob")])).status == 401
    assert [span.attributes.get(Attr.TENANT) for span in forge.spans] == ["acme", None]


async def test_excluded_requests_are_left_alone() -> None:
    """What is excluded has no span, no sample and no headers."""
    forge = InMemoryForge()
    exchange = await request(serving(plain, forge, exclude=lambda scope: scope["path"] == "/"))
    assert set(exchange.headers) == {"content-length", "content-type"}
    assert forge.spans == []


async def test_unknown_scopes_pass() -> None:
    """What is neither HTTP nor WebSocket nor lifespan is none of our business."""
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    await ForgeMiddleware(app, forge=InMemoryForge())({"type": "mqtt"}, None, None)  # type: ignore[arg-type]
    assert passed == ["mqtt"]
