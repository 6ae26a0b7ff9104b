"""Figma's REST API over HTTP: one request, its limits, and what each refusal means."""

import math
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind, Tracer

from forge_otel._internal.backoff import parse_retry_after
from forge_otel.errors import BadRequest, ConfigurationError, NotFound, needs
from forge_otel.figma.request import FigmaRequest
from forge_otel.figma.response import FigmaRejected, Throttled
from forge_otel.names import Attr

with needs("figma"):
    import httpx

__all__ = ["FigmaHttp"]

# Above the guard's own bound, so that the guard decides and the socket is only the net below it.
_TIMEOUT_S: Final = 5.0
_RETRY_AFTER_S: Final = 60.0
_MAX_ERROR_BYTES: Final = 64 * 1024
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


class FigmaHttp:
    """Sends requests.

    Args:
        base_url: of the API; https, unless it is on this machine.
        token: a personal access token, or an OAuth token where `is_oauth`.
        is_oauth: how the token is sent.
        max_response_bytes: a larger answer is refused.
        tracer: opens a span around each request.

    Raises:
        ConfigurationError: the token would be sent in the open, or cannot be sent.
    """

    def __init__(self, *, base_url: str, token: str, is_oauth: bool, max_response_bytes: int, tracer: Tracer) -> None:
        self._max_response_bytes = max_response_bytes
        self._tracer = tracer
        place = urlsplit(base_url)
        faults = []
        if place.scheme != "https" and not (place.scheme == "http" and place.hostname in _LOOPBACK):
            faults.append("the address of Figma begins with https://, or the token would be sent in the open")
        if not token or not token.isascii() or not token.isprintable():
            faults.append("the Figma token must be printable ASCII; make one in Figma's settings")
        if faults:
            raise ConfigurationError(faults)
        headers = {"Authorization": f"Bearer {token}"} if is_oauth else {"X-Figma-Token": token}
        # Redirects are not followed: they would carry the token to somebody else.
        self._open = partial(httpx.AsyncClient, base_url=base_url, headers=headers, timeout=_TIMEOUT_S)
        self._http = self._open()

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        closing, self._http = self._http, self._open()
        await closing.aclose()

    async def fetch(self, asked: FigmaRequest) -> bytes:
        """Send the request and return the body of its answer.

        Raises:
            NotFound: there is no such file, or the token may not see it.
            BadRequest: Figma does not understand the request.
            Throttled: Figma asks to be left alone.
            Rejected: the token is refused.
            httpx.HTTPError: anything else.
        """
        with self._tracer.start_as_current_span(
            f"GET {asked.route}",
            kind=SpanKind.CLIENT,
            attributes={Attr.HTTP_METHOD: "GET", Attr.HTTP_ROUTE: asked.route},
        ) as span:
            async with self._http.stream("GET", asked.path, params=dict(asked.params)) as response:
                span.set_attribute(Attr.HTTP_STATUS, response.status_code)
                limit = self._max_response_bytes if response.is_success else _MAX_ERROR_BYTES
                body = await _read(response, limit)
            span.set_attribute(Attr.HTTP_RESPONSE_SIZE, len(body))
        _check(response, body, asked)
        return body


async def _read(response: httpx.Response, limit: int) -> bytes:
    parts, size_bytes = [], 0
    async for part in response.aiter_bytes():
        size_bytes += len(part)
        if size_bytes > limit:
            raise BadRequest(f"Figma's answer has more than {limit} bytes; ask for nodes, or for less depth")
        parts.append(part)
    return b"".join(parts)


def _check(response: httpx.Response, body: bytes, asked: FigmaRequest) -> None:
    status = response.status_code
    if status == 404:
        raise NotFound(f"there is no Figma file {asked.file_key!r}, or the token may not see it")
    if status == 400:
        raise BadRequest(f"Figma does not accept the request for the file {asked.file_key!r}")
    if status == 429:
        raise Throttled(_pause_s(response.headers.get("retry-after")))
    if status == 401 or (status == 403 and _is_about_the_token(body)):
        raise FigmaRejected(f"Figma refuses the token ({status}); give the service a valid one")
    if status == 403:
        raise NotFound(f"the token may not see the Figma file {asked.file_key!r}")
    response.raise_for_status()
    if status != 200:
        raise httpx.HTTPStatusError(f"Figma answered {status}", request=response.request, response=response)


def _is_about_the_token(body: bytes) -> bool:
    # "Invalid token", "Token expired", "Invalid scope: …"; of a file that is closed to it, Figma says something else.
    text = body.lower()
    return b"token" in text or b"scope" in text


def _pause_s(header: str | None) -> float:
    """Read `Retry-After`; in seconds it may be days, which is more than a date is believed for."""
    try:
        seconds = float(header or "")
    except ValueError:
        return parse_retry_after(header) or _RETRY_AFTER_S
    return max(0.0, seconds) if math.isfinite(seconds) else _RETRY_AFTER_S
