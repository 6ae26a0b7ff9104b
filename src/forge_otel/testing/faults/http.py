"""Canned HTTP/1.1 responses of a `FaultProxy`, and the parser of the requests that they respond to.

Bodies with `Content-Length` and chunked bodies are read completely, `Expect: 100-continue` is supported, and
connections are kept alive. TLS is not supported: the client needs an `http://` URL.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from forge_otel.errors import ConfigurationError

__all__ = ["CONTINUE", "HttpAnswer", "HttpRequest", "NotHttp", "RequestReader"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# A client that never ends a line would otherwise fill the memory.
_MAX_LINE_BYTES: Final = 64 * 1024
_REQUEST_LINE: Final = re.compile(rb"([!-~]+) [!-~]+ HTTP/1\.([01])")
# These have no content (RFC 9110, 6.4.1): a client would read a body as the next response.
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class NotHttp(Exception):
    """The data of a client is not an HTTP/1.1 request."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One complete request.

    Args:
        method: the HTTP method.
        is_last: True if the client requests to close the connection after the response.
    """

    method: str
    is_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """The proxy itself responds to every HTTP request; the server does not receive it.

    The server still responds to a request that it had received completely before.

    Args:
        status: status code, 200 to 599.
        body: the body; omitted where HTTP allows none (HEAD, 204, 304).
        content_type: media type of the body.
        headers: further headers.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ConfigurationError([f"status of an HttpAnswer must be between 200 and 599, not {self.status}"])

    @classmethod
    def unauthorized(cls) -> "HttpAnswer":
        """Return a 401: the key is rejected."""
        body = _problem("invalid_api_key", "Incorrect API key provided.")
        # The challenge is required on a 401 (RFC 9110, 15.5.2).
        return cls(status=401, body=body, headers={"WWW-Authenticate": "Bearer"})

    @classmethod
    def too_many_requests(cls, *, retry_after_s: int = 1) -> "HttpAnswer":
        """Return a 429: the rate limit is reached.

        Args:
            retry_after_s: value of `Retry-After` in seconds.
        """
        body = _problem("rate_limit_exceeded", "Rate limit reached.")
        return cls(status=429, body=body, headers={"Retry-After": str(retry_after_s)})

    @classmethod
    def unavailable(cls, *, retry_after_s: int | None = None) -> "HttpAnswer":
        """Return a 503: the service is overloaded.

        Args:
            retry_after_s: value of `Retry-After` in seconds; None omits the header.
        """
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        return cls(status=503, body=_problem("overloaded", "The service is overloaded."), headers=headers)

    @classmethod
    def server_error(cls) -> "HttpAnswer":
        """Return a 500 with an HTML page, as a load balancer sends it in front of a JSON API."""
        page = b"<!doctype html><html><body><h1>500 Internal Server Error</h1></body></html>"
        return cls(status=500, body=page, content_type="text/html; charset=utf-8")

    @classmethod
    def nonsense(cls) -> "HttpAnswer":
        """Return a 200 with a JSON content type and a body that is truncated and not UTF-8."""
        return cls(status=200, body=b'{"id": "\xff\xfe')

    def encode(self, request: HttpRequest) -> bytes:
        """Return the bytes of the response to `request`."""
        lines = [f"HTTP/1.1 {self.status} {_reason(self.status)}"]
        if self.status not in _BODILESS:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if request.is_last:
            lines.append("Connection: close")
        has_body = request.method != "HEAD" and self.status not in _BODILESS
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body if has_body else b"")


class RequestReader:
    """Incremental parser of the requests of one connection; it buffers at most one line."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._read = self._read_request_line
        self._method = ""
        self._fields: dict[str, str] = {}
        self._is_last = False
        self._left_bytes = 0
        self._head_bytes = 0
        self._complete: list[HttpRequest] = []
        self.wants_continue = False
        """True if the client waits for `CONTINUE` before it sends the body of the current request."""

    @property
    def is_between_requests(self) -> bool:
        """Return whether no part of a further request has arrived."""
        return not self._bytes and self._read == self._read_request_line

    def feed(self, data: bytes) -> list[HttpRequest]:
        """Parse the next bytes and return the requests that they complete.

        Raises:
            NotHttp: the bytes are not HTTP/1.1; the parser cannot be used any more.
        """
        self._bytes += data
        self.wants_continue = False
        while self._read():
            pass
        complete, self._complete = self._complete, []
        return complete

    def _read_request_line(self) -> bool:
        line = self._take_line()
        if not line:
            # Empty lines before a request are ignored (RFC 9112, section 2.2).
            return line is not None
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise NotHttp(f"not a request line: {bytes(line[:80])!r}")
        self._method = match[1].decode("ascii")
        self._fields = {}
        # HTTP/1.0 closes after each response unless the client asks for keep-alive (RFC 9112, 9.3).
        self._is_last = match[2] == b"0"
        self._head_bytes = 0
        self._read = self._read_field
        return True

    def _read_field(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        if not line:
            self._begin_body()
            return True
        self._head_bytes += len(line)
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or self._head_bytes > _MAX_LINE_BYTES:
            raise NotHttp("a header is malformed or too long")
        self._fields[name.lower()] = value.strip().lower()
        return True

    def _begin_body(self) -> None:
        connection = self._fields.get("connection", "")
        self._is_last = "close" in connection or (self._is_last and "keep-alive" not in connection)
        # A chunked body takes precedence over a Content-Length (RFC 9112, 6.3).
        if "chunked" in self._fields.get("transfer-encoding", ""):
            self._read = self._read_chunk_size
        else:
            self._left_bytes = _number(self._fields.get("content-length", "0"), base=10)
            self._read = self._read_body
        has_body = self._read == self._read_chunk_size or self._left_bytes > 0
        # A client that sends its body without waiting needs no 100 (RFC 9110, 10.1.1).
        self.wants_continue = has_body and not self._bytes and self._fields.get("expect") == "100-continue"

    def _read_body(self) -> bool:
        if self._skip():
            self._end()
            return True
        return False

    def _read_chunk_size(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        # Chunk extensions follow a semicolon and are ignored (RFC 9112, 7.1.1).
        size = _number(line.partition(b";")[0].decode("latin-1").strip(), base=16)
        # The line end after the data is skipped with it; trailers and an empty line follow the last chunk.
        self._left_bytes = size + 2
        self._read = self._read_chunk if size else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        if self._skip():
            self._read = self._read_chunk_size
            return True
        return False

    def _read_trailer(self) -> bool:
        line = self._take_line()
        if line is not None and not line:
            self._end()
        return line is not None

    def _end(self) -> None:
        self._complete.append(HttpRequest(self._method, is_last=self._is_last))
        self._read = self._read_request_line

    def _skip(self) -> bool:
        taken = min(self._left_bytes, len(self._bytes))
        del self._bytes[:taken]
        self._left_bytes -= taken
        return self._left_bytes == 0

    def _take_line(self) -> bytearray | None:
        end = self._bytes.find(b"\n")
        if end < 0 and len(self._bytes) <= _MAX_LINE_BYTES:
            return None
        if not 0 <= end <= _MAX_LINE_BYTES:
            raise NotHttp("a line is too long")
        # A single LF ends a line as well (RFC 9112, 2.2).
        line = self._bytes[:end].removesuffix(b"\r")
        del self._bytes[: end + 1]
        return line


def _number(text: str, *, base: int) -> int:
    # `int` also accepts signs, underscores and spaces, which neither a Content-Length nor a chunk size has.
    if not re.fullmatch(r"[0-9a-f]{1,15}" if base == 16 else r"[0-9]{1,18}", text, re.IGNORECASE):
        raise NotHttp(f"not a length: {text[:80]!r}")
    return int(text, base)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _problem(code: str, message: str) -> bytes:
    """Return an error in the format of the OpenAI API."""
    return json.dumps({"error": {"code": code, "type": code, "message": message, "param": None}}).encode()
