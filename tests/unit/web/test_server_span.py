"""The matrix: however an application is instrumented, one request is one SERVER span and one duration sample."""

import pytest
from opentelemetry.trace import StatusCode
from tests.unit.web.apps import BUILDS, Build
from tests.unit.web.support import SmallRuntime, connect, request

from forge_otel.names import Attr

everywhere = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)


@everywhere
async def test_json(build: Build) -> None:
    """A plain answer has its route on the span and on the sample, and nothing is left in flight."""
    runtime = SmallRuntime()
    exchange = await request(build(runtime), "/items/42")
    assert (exchange.status, exchange.error) == (200, None)
    assert runtime.server_span.attributes[Attr.HTTP_ROUTE].startswith("/items/{item")
    assert runtime.server_span.name.startswith("GET /items/{item")
    assert runtime.server_span.attributes[Attr.HTTP_STATUS] == 200
    assert runtime.server_span.status.status_code is StatusCode.UNSET
    assert runtime.duration.attributes[Attr.HTTP_ROUTE].startswith("/items/{item")
    assert runtime.active == 0


@everywhere
async def test_stream(build: Build) -> None:
    """A stream is one span too, and its size is the bytes that were sent."""
    runtime = SmallRuntime()
    exchange = await request(build(runtime), "/stream")
    assert exchange.body == b"c0c1c2"
    assert runtime.server_span.attributes[Attr.HTTP_RESPONSE_SIZE] == 6
    assert runtime.duration.attributes[Attr.HTTP_ROUTE] == "/stream"


@everywhere
async def test_websocket(build: Build) -> None:
    """A connection is one span, and its handshake one sample."""
    runtime = SmallRuntime()
    exchange = await connect(build(runtime), "/rooms/7", {"type": "websocket.receive", "text": "hello"})
    assert [message["type"] for message in exchange.sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert runtime.server_span.attributes[Attr.HTTP_ROUTE] == "/rooms/{room}"
    assert runtime.duration.attributes[Attr.HTTP_STATUS] == 101
    assert runtime.active == 0


@everywhere
async def test_error(build: Build) -> None:
    """An exception reaches the server untouched, makes the span an error, and is one event on it."""
    runtime = SmallRuntime()
    exchange = await request(build(runtime), "/boom")
    assert isinstance(exchange.error, ZeroDivisionError)
    assert runtime.server_span.status.status_code is StatusCode.ERROR
    assert [event.name for event in runtime.server_span.events] == ["exception"]
    assert runtime.duration.attributes[Attr.HTTP_STATUS] == 500
    assert runtime.active == 0


@everywhere
async def test_not_found(build: Build) -> None:
    """What no route matches has no route on the span, and no raw path on the metrics."""
    runtime = SmallRuntime()
    exchange = await request(build(runtime), "/nothing/here")
    assert exchange.status == 404
    assert runtime.server_span.attributes.get(Attr.HTTP_ROUTE) in {None, "/{path}"}
    assert runtime.duration.attributes.get(Attr.HTTP_ROUTE) in {None, "_unmatched", "/{path}"}
    assert runtime.server_span.status.status_code is StatusCode.UNSET


@everywhere
async def test_what_runs_below(build: Build) -> None:
    """A span that the endpoint opens hangs below the one server span, whoever stands between."""
    runtime = SmallRuntime()
    exchange = await request(build(runtime), "/span")
    spans = {span.context.span_id: span for span in runtime.spans}
    span = spans[int(exchange.body)]
    while span.parent is not None:
        span = spans[span.parent.span_id]
    assert span is runtime.server_span
