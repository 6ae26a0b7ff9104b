"""Posting over HTTP from an export thread.

By the standard library, on purpose: OpenTelemetry instruments every other client, and an export that is traced is
exported, which is traced.
"""

import base64
import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["HttpResponse", "HttpTransport"]

_MAX_RETRY_AFTER_S: Final = 300.0
_MAX_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """What came back.

    Args:
        status: None where there was no answer.
        fault: what went wrong, in a few words without contents.
        retry_after_s: how long the server wants to be left alone.
    """

    status: int | None = None
    fault: str = ""
    retry_after_s: float = 0.0


class HttpTransport:
    """Posts bodies to one URL over a connection that is kept open; for one thread at a time.

    Args:
        url: `http://` or `https://`; the proxies of the environment are used.
        headers: sent with each body.
        tls: for `https://`; that of the system where it is left out.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, tls: ssl.SSLContext | None = None) -> None:
        self._url = urlsplit(url)
        self._tls = tls
        self._headers = {name: value.encode() for name, value in headers.items()}
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, body: bytes, timeout_s: float) -> HttpResponse:
        """Post `body` once; whatever goes wrong is in the answer.

        Args:
            timeout_s: for connecting, and for each piece that is sent or received.
        """
        try:
            answer = self._post(body, timeout_s)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self.close()
            return HttpResponse(fault=type(exc).__name__)
        return answer

    def close(self) -> None:
        """Close the connection; the next body opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes, timeout_s: float) -> HttpResponse:
        if self._connection is None:
            self._connection = _connection(self._url, timeout_s, self._tls)
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        target = f"{self._url.path}?{self._url.query}" if self._url.query else self._url.path
        self._connection.request("POST", target, body, self._headers)
        response = self._connection.getresponse()
        response.read(_MAX_ANSWER_BYTES)
        if not response.isclosed():
            self.close()
        return HttpResponse(
            status=response.status,
            fault="" if response.status < 300 else f"HTTP {response.status}",
            retry_after_s=_retry_after_s(response.getheader("Retry-After")),
        )


def _connection(url: SplitResult, timeout_s: float, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    def to(host: str, port: int | None) -> http.client.HTTPConnection:
        if url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    proxy = getproxies().get(url.scheme)
    host = url.hostname or ""
    if not proxy or proxy_bypass(host):
        return to(host, url.port)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = to(through.hostname or "", through.port)
    connection.set_tunnel(host, url.port, _proxy_headers(through))
    return connection


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    who = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(who.encode()).decode()}"}


def _retry_after_s(value: str | None) -> float:
    """Read seconds or a date (RFC 9110, 10.2.3)."""
    if not value:
        return 0.0
    try:
        wanted_s = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(wanted_s, 0.0), _MAX_RETRY_AFTER_S)
