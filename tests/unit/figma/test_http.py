"""Requests to Figma keep the token secret, and errors of Figma become ours."""

import httpx
import pytest
from opentelemetry.trace import NoOpTracer

from forge_otel.errors import BadRequest, ConfigurationError, NotFound
from forge_otel.figma.http import FigmaHttp
from forge_otel.figma.request import FigmaRequest
from forge_otel.figma.response import FigmaRejected, FigmaThrottled
from forge_otel.testing.faults.proxy import FaultProxy, HttpAnswer

REQUEST = FigmaRequest(endpoint="file", file_key="key", scope="")


def client(base_url: str, *, token: str = "t", max_response_bytes: int = 1000) -> FigmaHttp:
    """Return a client without a cache."""
    return FigmaHttp(
        base_url=base_url, token=token, is_oauth=False, max_response_bytes=max_response_bytes, tracer=NoOpTracer()
    )


@pytest.mark.parametrize(
    ("base_url", "token"), [("http://figma.example", "t"), ("ftp://x", "t"), ("https://x", ""), ("https://x", "a\nb")]
)
def test_a_token_is_not_sent_unencrypted(base_url: str, token: str) -> None:
    """Plain HTTP is for loopback addresses only; the message does not repeat the token."""
    with pytest.raises(ConfigurationError) as caught:
        client(base_url, token=token)
    assert "a\nb" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (HttpAnswer(status=400), BadRequest),
        (HttpAnswer(status=401), FigmaRejected),
        (HttpAnswer(status=403, body=b'{"err":"Invalid token"}'), FigmaRejected),
        (HttpAnswer(status=403, body=b'{"err":"Not allowed"}'), NotFound),
        (HttpAnswer(status=404), NotFound),
        (HttpAnswer(status=204), httpx.HTTPStatusError),
        (HttpAnswer(status=500), httpx.HTTPStatusError),
        (HttpAnswer(status=200, body=b"x" * 1001), BadRequest),
    ],
)
async def test_error_responses_are_classified(answer: HttpAnswer, error: type[Exception]) -> None:
    """A 403 is about the token or about the file; a response above the size limit is an error too."""
    async with FaultProxy("127.0.0.1", 1) as proxy, proxy.fault(answer):
        http = client(proxy.url_for("http://127.0.0.1"))
        with pytest.raises(error):
            await http.fetch(REQUEST)
        await http.close()


async def test_a_requested_pause_may_last_for_days() -> None:
    """Figma's `Retry-After` is not capped at an hour."""
    throttled = HttpAnswer.too_many_requests(retry_after_s=396_749)
    async with FaultProxy("127.0.0.1", 1) as proxy, proxy.fault(throttled):
        http = client(proxy.url_for("http://127.0.0.1"))
        with pytest.raises(FigmaThrottled) as caught:
            await http.fetch(REQUEST)
        await http.close()
    assert caught.value.retry_after_s == 396_749
