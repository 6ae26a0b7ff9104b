"""HTTP transport of the export threads, on the standard library."""

import base64

# Deliberate divergence: no HTTP client package. OpenTelemetry instruments each of them, and a traced export would
# produce a span that is exported, which produces a span.
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from forge_otel._internal.backoff import parse_retry_after

__all__ = ["HttpResponse", "HttpTransport"]

# Spans are kept for a day by default; a server that asks for a longer pause is tried after this one.
_MAX_RETRY_AFTER_S: Final = 300.0
_MAX_RESPONSE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """The result of one request.

    Args:
        status: HTTP status; None if no response came.
        error: error in a few words, without contents; "" on success.
        retry_after_s: pause that the server requested, in seconds.
    """

    status: int | None = None
    error: str = ""
    retry_after_s: float = 0.0


class HttpTransport:
    """Posts bodies to one URL over a keep-alive connection; not thread-safe.

    Args:
        url: `http://` or `https://`; the proxies of the environment are used.
        headers: sent with each request.
        tls: context for `https://`; None uses the system's.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, tls: ssl.SSLContext | None = None) -> None:
        self._url = urlsplit(url)
        self._tls = tls
        self._headers = {name: value.encode() for name, value in headers.items()}
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, *, timeout_s: float) -> HttpResponse:
        """Post `body` once and return the result; a network error is part of it and is not raised.

        Args:
            timeout_s: limit in seconds for connecting and for each read and write.
        """
        try:
            return self._post(body, timeout_s)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self.close()
            return HttpResponse(error=type(exc).__name__)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes, timeout_s: float) -> HttpResponse:
        if self._connection is None:
            self._connection = _connection(self._url, timeout_s, self._tls)
        # `timeout` applies when http.client reconnects, the socket's own to the open connection.
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        target = f"{self._url.path}?{self._url.query}" if self._url.query else self._url.path
        self._connection.request("POST", target, body, self._headers)
        response = self._connection.getresponse()
        # Read although it is ignored: the connection can be reused only after the end of the body.
        response.read(_MAX_RESPONSE_BYTES)
        if not response.isclosed():
            # The rest of an oversized body would be read as the next response.
            self.close()
        return HttpResponse(
            status=response.status,
            error="" if response.status < 300 else f"HTTP {response.status}",
            retry_after_s=min(parse_retry_after(response.getheader("Retry-After")) or 0.0, _MAX_RETRY_AFTER_S),
        )


def _connection(url: SplitResult, timeout_s: float, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    def connect_to(host: str, port: int | None) -> http.client.HTTPConnection:
        if url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    proxy = getproxies().get(url.scheme)
    host = url.hostname or ""
    if not proxy or proxy_bypass(host):
        return connect_to(host, url.port)
    proxy_url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = connect_to(proxy_url.hostname or "", proxy_url.port)
    connection.set_tunnel(host, url.port, _proxy_headers(proxy_url))
    return connection


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}
