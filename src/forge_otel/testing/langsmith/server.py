"""A stand-in for LangSmith's API: an HTTP server that records its requests and fails on demand.

::

    with LangSmithStandIn() as langsmith:
        monkeypatch.setenv("LANGSMITH_ENDPOINT", langsmith.url)
        monkeypatch.setenv("LANGSMITH_API_KEY", "test")
        ...
        assert [run.name for run in langsmith.runs()] == ["invoke_agent writer", "chat gpt-4o"]
"""

import gzip
import json
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qs
from uuid import NAMESPACE_URL, UUID, uuid5

from forge_otel.errors import needs
from forge_otel.testing.langsmith.runs import LangSmithRun, reduce_to_runs
from forge_otel.testing.langsmith.sdk import SdkRuns, decompressed

with needs("langsmith"):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["LangSmithFault", "LangSmithStandIn", "ReceivedRequest"]

_TRACES: Final = "/otel/v1/traces"
_RUNS: Final = "/runs"
_TENANT: Final = UUID(int=1)
# The `langsmith` client compresses with zstd and sends multipart requests because this response allows both.
_INFO: Final = {
    "version": "0.13.0",
    "instance_flags": {"zstd_compression_enabled": True},
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 100,
        "size_limit_bytes": 20 * 2**20,
        "scale_up_nthreads_limit": 4,
        "scale_up_qsize_trigger": 1000,
        "scale_down_nempty_trigger": 4,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LangSmithFault:
    """A scripted failure of the server.

    Args:
        kind: respond with `status`, never respond, or reset the connection after the body has arrived.
        status: HTTP status of the response.
        retry_after_s: value of `Retry-After`; None omits the header.
        times: number of requests that fail; None fails until `LangSmithStandIn.recover`.
        body_contains: only requests fail whose decompressed body contains these bytes.
    """

    kind: Literal["status", "hang", "reset"] = "status"
    status: int = 503
    retry_after_s: int | None = None
    times: int | None = None
    body_contains: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request with a body.

    Args:
        headers: with lower-case names.
        body: the decompressed body.
        raw: the body as sent.
        outcome: `200`, another status, `hang` or `reset`.
    """

    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    outcome: str

    @property
    def spans(self) -> list[Span]:
        """The spans in the body of a request to the traces endpoint."""
        request = ExportTraceServiceRequest.FromString(self.body)
        return [span for item in request.resource_spans for scope in item.scope_spans for span in scope.spans]


class LangSmithStandIn:
    """LangSmith's API on a port of 127.0.0.1 while it is entered.

    Endpoints: `GET /info` and `/sessions`; `POST /otel/v1/traces` and `/feedback`; and those of the `langsmith`
    client: `/runs/multipart`, `/runs/batch` and `/runs`.

    Args:
        api_key: the accepted key, others get 401; None accepts every key.
        max_bytes: limit of a body as sent, larger ones get 413; None accepts every size.
        port: the port; 0 takes a free one.
    """

    def __init__(self, *, api_key: str | None = None, max_bytes: int | None = None, port: int = 0) -> None:
        self.api_key = api_key
        self.max_bytes = max_bytes
        self.feedback: list[dict[str, Any]] = []
        """The accepted scores, as LangSmith's JSON objects."""
        self.outcomes: Counter[str] = Counter()
        """The number of requests by `ReceivedRequest.outcome`."""
        self._received: list[ReceivedRequest] = []
        self._sdk = SdkRuns()
        self._faults: deque[tuple[LangSmithFault, int | None]] = deque()
        self._outage: LangSmithFault | None = None
        self._recovered = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        # The poll interval in seconds; the default of 0.5 delays each shutdown.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.recover()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The value for `LANGSMITH_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port of 127.0.0.1."""
        return int(self._server.server_address[1])

    @property
    def received(self) -> list[ReceivedRequest]:
        """Every request with a body, failed ones included, in order of arrival."""
        with self._lock:
            return list(self._received)

    @property
    def spans(self) -> list[Span]:
        """The accepted spans; a span that was accepted twice is listed twice."""
        return [span for item in self._accepted() for span in item.spans]

    def runs(self) -> list[LangSmithRun]:
        """Return the runs that LangSmith would show: those of its client, then those of spans, by start time."""
        with self._lock:
            sdk_runs = self._sdk.runs()
        return sdk_runs + reduce_to_runs(
            (span, item.headers.get("langsmith-project", "")) for item in self._accepted() for span in item.spans
        )

    def has_received(self, text: str) -> bool:
        """Return whether `text` is in the path, headers or body of any request, failed ones included."""
        wanted = text.encode()
        return any(
            wanted in part
            for item in self.received
            for part in (item.body, item.raw, item.path.encode(), repr(item.headers).encode())
        )

    def fail(self, fault: LangSmithFault) -> None:
        """Fail the next requests with spans, after the faults that were added before."""
        with self._lock:
            self._recovered.clear()
            self._faults.append((fault, fault.times))

    def fail_all(self, fault: LangSmithFault) -> None:
        """Fail every request until `recover`, those for projects and scores included."""
        with self._lock:
            self._recovered.clear()
            self._outage = fault

    def recover(self) -> None:
        """End all faults, and the requests that hang."""
        with self._lock:
            self._faults.clear()
            self._outage = None
            self._recovered.set()

    def _projects(self, name: str) -> list[dict[str, Any]]:
        """Return the projects called `name`, all if it is empty; the first run creates its project."""
        names = {run.project for run in self.runs()}
        return [
            {"id": str(uuid5(NAMESPACE_URL, one)), "name": one, "tenant_id": str(_TENANT), "reference_dataset_id": None}
            for one in sorted(names)
            if name in {"", one}
        ]

    def _accepted(self) -> list[ReceivedRequest]:
        return [item for item in self.received if item.path == _TRACES and item.outcome == "200"]

    def _next_fault(self, body: bytes) -> LangSmithFault | None:
        with self._lock:
            if not self._faults or self._faults[0][0].body_contains not in body:
                return None
            fault, left = self._faults.popleft()
            if left is None or left > 1:
                self._faults.appendleft((fault, None if left is None else left - 1))
            return fault

    def _record(self, path: str, headers: dict[str, str], raw: bytes) -> LangSmithFault | None:
        """Record a request and return the fault with which it fails, None if it succeeds."""
        fault, body = self._check(path, headers, raw)
        outcome = _outcome(fault)
        with self._lock:
            self._received.append(ReceivedRequest(path, headers, body, raw, outcome))
            self.outcomes[outcome] += 1
            if fault is None and path == "/feedback":
                self.feedback.append(json.loads(body))
            elif fault is None and path.startswith(_RUNS):
                self._sdk.take(path, headers, body)
                self.feedback += self._sdk.feedback
                self._sdk.feedback.clear()
        return fault

    def _check(self, path: str, headers: dict[str, str], raw: bytes) -> tuple[LangSmithFault | None, bytes]:
        try:
            is_gzip = headers.get("content-encoding") == "gzip"
            body = gzip.decompress(raw) if is_gzip else decompressed(headers, raw)
            if path == _TRACES:
                ExportTraceServiceRequest.FromString(body)
            elif path == "/feedback":
                json.loads(body)
            elif path.startswith(_RUNS):
                SdkRuns().take(path, headers, body)
            else:
                return LangSmithFault(status=404), body
        except Exception:
            # Each decoder raises its own errors, and a client may send any bytes.
            return LangSmithFault(status=400), b""
        if self.api_key is not None and headers.get("x-api-key") != self.api_key:
            return LangSmithFault(status=401), body
        if self._outage is not None:
            return self._outage, body
        if self.max_bytes is not None and len(raw) > self.max_bytes:
            return LangSmithFault(status=413), body
        return (self._next_fault(body) if path == _TRACES else None), body


def _outcome(fault: LangSmithFault | None) -> str:
    if fault is None:
        return "200"
    return str(fault.status) if fault.kind == "status" else fault.kind


class _Server(ThreadingHTTPServer):
    # Requests that hang must not delay the end of a test.
    daemon_threads = True
    block_on_close = False

    def __init__(self, stand_in: LangSmithStandIn, port: int) -> None:
        self.record = stand_in._record  # noqa: SLF001 - one class in two parts
        self.projects = stand_in._projects  # noqa: SLF001
        self.outage: Callable[[], LangSmithFault | None] = lambda: stand_in._outage  # noqa: SLF001
        self.recovered = stand_in._recovered  # noqa: SLF001
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: tests disconnect clients on purpose."""


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0 would close the connection after each response, and leave keep-alive untested.
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Serve `/info` and `/sessions`, LangSmith's name for projects."""
        path, _, query = self.path.partition("?")
        fault = self.server.outage()
        if fault is not None:
            self._fail(fault)
        elif path == "/info":
            self._respond(200, _INFO)
        elif path == "/sessions":
            self._respond(200, self.server.projects(parse_qs(query).get("name", [""])[0]))
        else:
            self._respond(404, {})

    def do_POST(self) -> None:
        """Accept spans, runs or feedback, or fail as scripted."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.server.record(self.path, headers, raw)
        if fault is None:
            self._respond(200, {})
        else:
            self._fail(fault)

    do_PATCH = do_POST  # noqa: N815 - the name in http.server

    def _fail(self, fault: LangSmithFault) -> None:
        if fault.kind == "hang":
            self.server.recovered.wait()
            self.close_connection = True
        elif fault.kind == "reset":
            # Closing with a linger time of 0 sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            self._respond(fault.status, {"detail": "scripted"}, fault.retry_after_s)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Log nothing."""

    def _respond(self, status: int, body: Any, retry_after_s: int | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(content)
