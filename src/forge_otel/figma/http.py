"""Figma's REST API over HTTP: requests, their limits, and the meaning of error responses."""

import math
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind, Tracer

from forge_otel._internal.backoff import parse_retry_after
from forge_otel._internal.checks import require
from forge_otel.errors import BadRequest, NotFound, needs
from forge_otel.figma.request import FigmaRequest
from forge_otel.figma.response import FigmaRejected, FigmaThrottled
from forge_otel.names import Attr

with needs("figma"):
    import httpx

__all__ = ["FigmaHttp"]

_TIMEOUT_S: Final = 5.0
# Above the guard's own limit, which decides. Figma computes a large file for a minute before it sends the first byte.
_READ_TIMEOUT_S: Final = 120.0
_RETRY_AFTER_S: Final = 60.0
_MAX_ERROR_BYTES: Final = 64 * 1024
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


class FigmaHttp:
    """Sends requests to Figma.

    Args:
        base_url: URL of the API; https, except on a loopback address.
        token: a personal access token, or an OAuth token with `is_oauth`.
        is_oauth: whether the token is sent as a bearer token.
        max_response_bytes: larger responses are rejected.
        tracer: creates a client span for each request.

    Raises:
        ConfigurationError: the token would be sent unencrypted, or is malformed.
    """

    def __init__(self, *, base_url: str, token: str, is_oauth: bool, max_response_bytes: int, tracer: Tracer) -> None:
        self._max_response_bytes = max_response_bytes
        self._tracer = tracer
        url = urlsplit(base_url)
        is_private = url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)
        is_valid = bool(token) and token.isascii() and token.isprintable()
        require(
            (is_private, "the URL of Figma must begin with https://, or the token would be sent unencrypted"),
            (is_valid, "the Figma token must be printable ASCII; create one in Figma's settings"),
        )
        headers = {"Authorization": f"Bearer {token}"} if is_oauth else {"X-Figma-Token": token}
        # httpx follows no redirects by default, which would send the token to another host.
        timeout = httpx.Timeout(_TIMEOUT_S, read=_READ_TIMEOUT_S)
        self._open = partial(httpx.AsyncClient, base_url=base_url, headers=headers, timeout=timeout)
        self._http = self._open()

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        closing, self._http = self._http, self._open()
        await closing.aclose()

    async def fetch(self, request: FigmaRequest) -> bytes:
        """Send a request and return the body of the response.

        Raises:
            NotFound: the file does not exist, or the token has no access to it.
            BadRequest: Figma does not accept the request, or the response is too large.
            FigmaThrottled: Figma rate-limits the token.
            FigmaRejected: Figma rejects the token.
            httpx.HTTPError: any other failure.
        """
        with self._tracer.start_as_current_span(
            f"GET {request.route}",
            kind=SpanKind.CLIENT,
            attributes={Attr.HTTP_METHOD: "GET", Attr.HTTP_ROUTE: request.route},
        ) as span:
            async with self._http.stream("GET", request.path, params=dict(request.params)) as response:
                span.set_attribute(Attr.HTTP_STATUS, response.status_code)
                limit = self._max_response_bytes if response.is_success else _MAX_ERROR_BYTES
                body = await _read(response, limit)
            span.set_attribute(Attr.HTTP_RESPONSE_SIZE, len(body))
        _check(response, body, request)
        return body


async def _read(response: httpx.Response, limit: int) -> bytes:
    parts, size_bytes = [], 0
    async for part in response.aiter_bytes():
        size_bytes += len(part)
        if size_bytes > limit:
            raise BadRequest(f"Figma's response has more than {limit} bytes; request nodes, or a smaller depth")
        parts.append(part)
    return b"".join(parts)


def _check(response: httpx.Response, body: bytes, request: FigmaRequest) -> None:
    status = response.status_code
    if status == 404:
        raise NotFound(f"there is no Figma file {request.file_key!r}, or the token may not see it")
    if status == 400:
        raise BadRequest(f"Figma does not accept the request for the file {request.file_key!r}")
    if status == 429:
        raise FigmaThrottled(_pause_s(response.headers.get("retry-after")))
    if status == 401 or (status == 403 and _is_about_token(body)):
        raise FigmaRejected(f"Figma rejects the token ({status}); give the service a valid one")
    if status == 403:
        raise NotFound(f"the token may not see the Figma file {request.file_key!r}")
    response.raise_for_status()
    if status != 200:
        raise httpx.HTTPStatusError(f"Figma answered {status}", request=response.request, response=response)


def _is_about_token(body: bytes) -> bool:
    # "Invalid token", "Token expired", "Invalid scope: …". The 403 of a file without access names neither.
    text = body.lower()
    return b"token" in text or b"scope" in text


def _pause_s(header: str | None) -> float:
    """Return the pause of a `Retry-After` header in seconds.

    A number of seconds is trusted beyond the hour at which `parse_retry_after` caps dates: Figma requests days.
    """
    try:
        seconds = float(header or "")
    except ValueError:
        return parse_retry_after(header) or _RETRY_AFTER_S
    return max(0.0, seconds) if math.isfinite(seconds) else _RETRY_AFTER_S
