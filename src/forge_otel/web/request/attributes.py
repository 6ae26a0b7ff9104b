"""Request attributes of the stable HTTP semantic conventions, from one pass over the raw headers.

Deliberate divergences from the conventions: query values that look like secrets are replaced, not only the signatures
of four cloud providers; and strings from callers are truncated, because spans have no length limit of their own.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_plus, urlsplit

from opentelemetry.propagators.textmap import Getter
from starlette.types import Scope

from forge_otel.names import Attr
from forge_otel.telemetry.redaction import scrub

__all__ = [
    "CARRIER",
    "OTHER_METHOD",
    "HeaderFacts",
    "known_method",
    "read_headers",
    "redact_query",
    "request_attributes",
]

Carrier = dict[str, list[str]]

OTHER_METHOD: Final = "_OTHER"
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_READ_HEADERS: Final = frozenset({b"host", b"user-agent", b"content-length"})
_MAX_CHARS: Final = 256
_MAX_QUERY_CHARS: Final = 2048
_MAX_METHOD_CHARS: Final = 32
# A query part without a name is recorded up to this length; a longer one may be a token.
_MAX_NAMELESS_CHARS: Final = 24
_SECRET_NAME: Final = re.compile(
    r"auth(?!or)|assertion|bearer|code$|cookie|credential|jwt|key$|otp|pass|pin$|pwd|secret|session|sig$|signature|ticket|token",
    re.IGNORECASE,
)
_REDACTED: Final = "REDACTED"


class HeaderFacts(NamedTuple):
    """Headers of a request that its span needs.

    Args:
        found: raw values of host, user-agent and content-length.
        carrier: headers with trace context, None if there are none.
    """

    found: dict[bytes, bytes]
    carrier: Carrier | None

    @property
    def content_length(self) -> int | None:
        """Declared size of the body in bytes, None if it is missing or malformed."""
        declared = self.found.get(b"content-length", b"")
        return int(declared) if declared.isdigit() else None


class _CarrierGetter(Getter[Carrier]):
    def get(self, carrier: Carrier, key: str) -> list[str] | None:
        values = carrier.get(key.lower())
        if values is not None and key == "baggage":
            # RFC 9110 allows a list to be split over several headers, and the propagator reads only the first value.
            return [",".join(values)]
        return values

    def keys(self, carrier: Carrier) -> list[str]:
        return list(carrier)


CARRIER: Final = _CarrierGetter()
"""Getter of OpenTelemetry's propagators for `HeaderFacts.carrier`."""


def read_headers(headers: Iterable[tuple[bytes, bytes]], carried: frozenset[bytes]) -> HeaderFacts:
    """Return the headers that a server span needs.

    Args:
        headers: headers of the ASGI scope, with lower-case names.
        carried: names of the headers that the propagators read.
    """
    found: dict[bytes, bytes] = {}
    carrier: Carrier | None = None
    for name, value in headers:
        if name in _READ_HEADERS:
            found[name] = value
        elif name in carried:
            carrier = {} if carrier is None else carrier
            carrier.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return HeaderFacts(found, carrier)


def known_method(method: str) -> str:
    """Return `method` if it is a known HTTP method, else `_OTHER`."""
    # An unknown method would be a metric series of its own.
    return method if method in _METHODS else OTHER_METHOD


def request_attributes(scope: Scope, found: dict[bytes, bytes]) -> dict[str, str | int]:
    """Return the attributes that are known before routing.

    Args:
        scope: an `http` or `websocket` scope.
        found: `HeaderFacts.found`.
    """
    scheme: str = scope.get("scheme", "http")
    original = scope.get("method", "GET")
    method = known_method(original)
    attributes: dict[str, str | int] = {
        Attr.HTTP_METHOD: method,
        Attr.URL_SCHEME: scheme,
        Attr.URL_PATH: scrub(scope["path"][:_MAX_QUERY_CHARS]),
    }
    if method is not original and method == OTHER_METHOD:
        attributes[Attr.HTTP_METHOD_ORIGINAL] = original[:_MAX_METHOD_CHARS]
    if scope.get("query_string"):
        attributes[Attr.URL_QUERY] = redact_query(scope["query_string"].decode("latin-1"))
    address, port = _server(scope, found.get(b"host"), scheme)
    if address:
        attributes[Attr.SERVER_ADDRESS] = address
        if port is not None:
            attributes[Attr.SERVER_PORT] = port
    if scope.get("client"):
        attributes[Attr.CLIENT_ADDRESS] = scope["client"][0]
    if b"user-agent" in found:
        attributes[Attr.USER_AGENT] = scrub(found[b"user-agent"][:_MAX_CHARS].decode("latin-1"))
    if scope.get("http_version"):
        attributes[Attr.NETWORK_PROTOCOL_VERSION] = scope["http_version"]
    return attributes


def redact_query(query: str) -> str:
    """Return the query string with `REDACTED` for values that are, or whose names suggest, secrets."""
    shown = "&".join(_redact_part(part) for part in query.split("&"))
    return shown[:_MAX_QUERY_CHARS]


def _redact_part(part: str) -> str:
    name, separator, value = part.partition("=")
    if not separator:
        return part if len(part) <= _MAX_NAMELESS_CHARS and not _holds_secret(part) else _REDACTED
    if value and (_SECRET_NAME.search(unquote_plus(name)) or _holds_secret(value)):
        value = _REDACTED
    return f"{_REDACTED if _holds_secret(name) else name}={value}"


def _holds_secret(part: str) -> bool:
    """Return whether redaction finds a secret in `part`: a token, JSON with credentials, a URL with a password."""
    shown = unquote_plus(part)
    return scrub(shown) != shown


def _server(scope: Scope, host: bytes | None, scheme: str) -> tuple[str | None, int | None]:
    if host is not None:
        return _split_host(host[:_MAX_CHARS], scheme)
    address, port = scope.get("server") or (None, None)
    return address, port


# Callers use few distinct Host headers, and urlsplit is a large part of a request's cost; bounded against forged ones.
@lru_cache(maxsize=256)
def _split_host(host: bytes, scheme: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit("//" + host.decode("latin-1"))
        return parts.hostname, parts.port if parts.port is not None else _PORTS.get(scheme)
    except ValueError:
        # A malformed Host header is left for the application to reject.
        return None, None
