"""One SERVER span and one duration sample per request, with every combination of instrumentation."""

import pytest
from opentelemetry.trace import StatusCode
from tests.unit.web.apps import BACKGROUND_NS, BUILDS, MOUNTED, Build
from tests.unit.web.support import InMemoryForge, connect, request

from forge_otel.names import Attr

everywhere = pytest.mark.parametrize(
    ("build", "path", "template"),
    [pytest.param(*case, id=case[0].__name__) for case in [*((build, "", "") for build in BUILDS), *MOUNTED]],
)


@everywhere
async def test_json(build: Build, path: str, template: str) -> None:
    """A response has its route on the span and on the sample, and no request remains in flight."""
    forge = InMemoryForge()
    exchange = await request(build(forge), f"{path}/items/42")
    assert (exchange.status, exchange.error) == (200, None)
    assert forge.server_span.attributes[Attr.HTTP_ROUTE].startswith(f"{template}/items/{{item")
    assert forge.server_span.name.startswith(f"GET {template}/items/{{item")
    assert forge.server_span.attributes[Attr.HTTP_STATUS] == 200
    assert forge.server_span.status.status_code is StatusCode.UNSET
    assert forge.duration.attributes[Attr.HTTP_ROUTE].startswith(f"{template}/items/{{item")
    assert forge.active == 0


@everywhere
async def test_stream(build: Build, path: str, template: str) -> None:
    """A stream is one span, with the bytes sent as its size."""
    forge = InMemoryForge()
    exchange = await request(build(forge), f"{path}/stream")
    assert exchange.body == b"c0c1c2"
    assert forge.server_span.attributes[Attr.HTTP_RESPONSE_SIZE] == 6
    assert forge.duration.attributes[Attr.HTTP_ROUTE] == f"{template}/stream"


@everywhere
async def test_websocket(build: Build, path: str, template: str) -> None:
    """A WebSocket connection is one span, and its handshake one sample."""
    forge = InMemoryForge()
    exchange = await connect(build(forge), f"{path}/rooms/7", {"type": "websocket.receive", "text": "hello"})
    assert [message["type"] for message in exchange.sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert forge.server_span.attributes[Attr.HTTP_ROUTE] == f"{template}/rooms/{{room}}"
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 101
    assert forge.active == 0


@everywhere
async def test_error(build: Build, path: str, template: str) -> None:
    """An exception is raised again, fails the span, and is one event on the span or on its background span."""
    forge = InMemoryForge()
    exchange = await request(build(forge), f"{path}/boom")
    assert isinstance(exchange.error, ZeroDivisionError)
    assert forge.server_span.status.status_code is StatusCode.ERROR
    events = {span.name: [event.name for event in span.events] for span in forge.spans if span.events}
    # In a mounted application the owner of the server span may end it with the 500, before the exception arrives.
    assert events in ({forge.server_span.name: ["exception"]}, {f"background {template}/boom": ["exception"]})
    assert forge.duration.attributes[Attr.HTTP_STATUS] == 500
    assert forge.active == 0


@everywhere
async def test_not_found(build: Build, path: str, template: str) -> None:
    """An unmatched path has no route on the span, and no raw path on the metrics."""
    forge = InMemoryForge()
    exchange = await request(build(forge), f"{path}/nothing/here")
    assert exchange.status == 404
    # A mount is a route too; contrib names it without its inner path.
    mount = {f"{template}/{{path}}", template}
    assert forge.server_span.attributes.get(Attr.HTTP_ROUTE) in {None, *mount}
    assert forge.duration.attributes.get(Attr.HTTP_ROUTE) in {None, "_unmatched", *mount}
    assert forge.server_span.status.status_code is StatusCode.UNSET


@everywhere
async def test_child_spans(build: Build, path: str, template: str) -> None:
    """A span of the endpoint is a descendant of the server span."""
    forge = InMemoryForge()
    exchange = await request(build(forge), f"{path}/span")
    spans = {span.context.span_id: span for span in forge.spans}
    span = spans[int(exchange.body)]
    while span.parent is not None:
        span = spans[span.parent.span_id]
    assert span is forge.server_span


@everywhere
async def test_background(build: Build, path: str, template: str) -> None:
    """A background task has its own span, linked to the server span, and does not prolong the request."""
    forge = InMemoryForge()
    exchange = await request(build(forge), f"{path}/later")
    assert (exchange.status, exchange.error) == (200, None)
    server = forge.server_span
    (background,) = [span for span in forge.spans if span.name == f"background {template}/later"]
    assert [link.context for link in background.links] == [server.context]
    assert background.end_time - background.start_time >= BACKGROUND_NS
    assert background.context.trace_id == server.context.trace_id
    assert forge.duration.sum < background.end_time - background.start_time
