"""Headers that the middleware adds to responses."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from tests.unit.web.support import InMemoryForge, plain, request, serving

from forge_otel.context import record_cache_status
from forge_otel.web.request.response_headers import ResponseHeaders

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = ("traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01")


async def test_etag_and_age_of_a_single_generation() -> None:
    """The same answer always has the same weak ETag, and an ETag of the application is kept."""

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
    """A response has the trace id, the time to its start and a `Cache-Status` member per generation."""
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
    """With all headers off, only the application's headers are sent."""
    forge = InMemoryForge()
    none = ResponseHeaders(trace_id=None, server_timing=False, cache_status=False)
    exchange = await request(serving(plain, forge, response_headers=none))
    assert set(exchange.headers) == {"content-length", "content-type"}


async def test_the_applications_trace_header_is_kept() -> None:
    """A trace id header that the application sets itself is not sent twice."""
    forge = InMemoryForge()

    async def page(_request: Request) -> Response:
        return PlainTextResponse("hello", headers={"X-Trace-Id": "mine"})

    exchange = await request(serving(page, forge))
    assert exchange.headers["x-trace-id"] == "mine"
