"""The LangSmith stand-in over HTTP: accepted and rejected requests, and scripted faults."""

import gzip
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

TRACES = "/otel/v1/traces"


@pytest.fixture
def server() -> Iterator[LangSmithStandIn]:
    """A server that accepts one key."""
    with LangSmithStandIn(api_key="key", max_bytes=10_000) as started:
        yield started


def post(server: LangSmithStandIn, name: str = "span", *, key: str = "key", size: int = 0) -> httpx.Response:
    """Post one span."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.name, span.span_id, span.trace_id = name + "x" * size, b"12345678", b"1234567812345678"
    headers = {"x-api-key": key, "content-encoding": "gzip", "langsmith-project": "p"}
    body = gzip.compress(request.SerializeToString(), compresslevel=0)
    return httpx.post(f"{server.url}{TRACES}", content=body, headers=headers, timeout=5)


def test_accepted_spans_become_runs(server: LangSmithStandIn) -> None:
    """The first run creates its project."""
    assert httpx.get(f"{server.url}/sessions").json() == []
    assert post(server).status_code == 200
    assert [(run.name, run.project) for run in server.runs()] == [("span", "p")]
    assert [item["name"] for item in httpx.get(f"{server.url}/sessions?name=p").json()] == ["p"]


def test_rejected_requests_are_recorded_but_no_runs(server: LangSmithStandIn) -> None:
    """A wrong key, a large body, an invalid body and an unknown path have their statuses."""
    assert post(server, key="other").status_code == 401
    assert post(server, size=20_000).status_code == 413
    key = {"x-api-key": "key"}
    assert httpx.post(f"{server.url}{TRACES}", content=b"\xff\xff", headers=key).status_code == 400
    assert httpx.post(f"{server.url}/unknown", content=b"", headers=key).status_code == 404
    assert server.outcomes == {"401": 1, "413": 1, "400": 1, "404": 1}
    assert len(server.received) == 4
    assert server.runs() == []
    assert server.has_received("other")


def test_scripted_faults_happen_in_order_and_end(server: LangSmithStandIn) -> None:
    """Each fault applies to a number of matching requests, the last one until `recover`."""
    server.fail(LangSmithFault(status=429, retry_after_s=7, times=1))
    server.fail(LangSmithFault(kind="reset", times=1))
    server.fail(LangSmithFault(status=500, body_contains=b"bad"))
    refused = post(server)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    with pytest.raises(httpx.HTTPError):
        post(server)
    assert [post(server, name).status_code for name in ("good", "bad", "bad")] == [200, 500, 500]
    server.recover()
    assert post(server, "bad").status_code == 200


def test_an_outage_affects_every_endpoint(server: LangSmithStandIn) -> None:
    """Until `recover`, also requests for projects fail."""
    server.fail_all(LangSmithFault(status=503))
    assert (post(server).status_code, httpx.get(f"{server.url}/info").status_code) == (503, 503)
    server.recover()
    assert httpx.get(f"{server.url}/info").status_code == 200
