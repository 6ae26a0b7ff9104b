"""HTTP transport of the exporters, against a real server."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from forge_otel.telemetry.export.http import HttpResponse, HttpTransport
from forge_otel.testing.langsmith.server import LangSmithFault, LangSmithStandIn

TRACES = "/otel/v1/traces"


@contextmanager
def transport(server: LangSmithStandIn) -> Iterator[HttpTransport]:
    """Open a transport to the traces endpoint of `server`."""
    client = HttpTransport(f"{server.url}{TRACES}", {"x-api-key": "key"})
    yield client
    client.close()


def test_a_body_is_posted_with_its_headers() -> None:
    """The response says that the server accepted it."""
    with LangSmithStandIn(api_key="key") as server, transport(server) as client:
        assert client.post(b"", timeout_s=5) == HttpResponse(status=200)
        assert client.post(b"", timeout_s=5) == HttpResponse(status=200)
        assert [item.path for item in server.received] == [TRACES, TRACES]


@pytest.mark.parametrize(("requested_s", "expected_s"), [(7, 7.0), (3600, 300.0), (None, 0.0)])
def test_the_requested_pause_is_read_and_bounded(requested_s: int | None, expected_s: float) -> None:
    """`Retry-After` is read from an error response, up to 5 minutes."""
    with LangSmithStandIn() as server, transport(server) as client:
        server.fail(LangSmithFault(status=429, retry_after_s=requested_s, times=1))
        response = client.post(b"", timeout_s=5)
    assert response == HttpResponse(status=429, error="HTTP 429", retry_after_s=expected_s)


def test_a_network_error_is_a_result_and_the_next_request_reconnects() -> None:
    """A reset and a timeout name the error; the transport can be used afterwards."""
    with LangSmithStandIn() as server, transport(server) as client:
        server.fail(LangSmithFault(kind="reset", times=1))
        assert client.post(b"", timeout_s=5) == HttpResponse(error="ConnectionResetError")
        server.fail(LangSmithFault(kind="hang", times=1))
        assert client.post(b"", timeout_s=0.1) == HttpResponse(error="TimeoutError")
        assert client.post(b"", timeout_s=5).status == 200


def test_an_unreachable_server_is_a_result() -> None:
    """A refused connection is no exception of the export thread."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert HttpTransport(url, {}).post(b"", timeout_s=5) == HttpResponse(error="ConnectionRefusedError")
