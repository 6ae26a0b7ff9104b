"""A stand-in for LangSmith's API: a real HTTP server that keeps what it gets, and fails on demand.

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
    """What the server does in place of taking spans.

    Args:
        kind: answer with `status`, say nothing, or reset the connection after the body has come.
        retry_after_s: sent as `Retry-After` where it is not None.
        times: for how many posts; None until `LangSmithStandIn.recover`.
        about: only posts whose body has these bytes, once decompressed.
    """

    kind: Literal["status", "hang", "reset"] = "status"
    status: int = 503
    retry_after_s: int | None = None
    times: int | None = None
    about: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it came.

    Args:
        body: after decompression.
        raw: before it.
        answer: `200`, another status, `hang` or `reset`.
    """

    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    raw: bytes = field(repr=False)
    answer: str

    @property
    def spans(self) -> list[Span]:
        """The spans of a traces request."""
        request = ExportTraceServiceRequest.FromString(self.body)
        return [span for item in request.resource_spans for scope in item.scope_spans for span in scope.spans]


class LangSmithStandIn:
    """Serves LangSmith's API on a free port while it is entered.

    `GET /info` and `/sessions`; `POST /otel/v1/traces`, `/feedback`, and what the `langsmith` client itself
    sends: `/runs/multipart`, `/runs/batch`, `/runs`.

    Args:
        api_key: other keys get 401; None takes every key.
        max_bytes: larger bodies, as sent, get 413; None takes any size.
        port: of 127.0.0.1; 0 takes a free one.
    """

    def __init__(self, *, api_key: str | None = None, max_bytes: int | None = None, port: int = 0) -> None:
        self.api_key = api_key
        self.max_bytes = max_bytes
        self.feedback: list[dict[str, Any]] = []
        self.answers: Counter[str] = Counter()
        self._received: list[ReceivedRequest] = []
        self._sdk = SdkRuns()
        self._faults: deque[tuple[LangSmithFault, int | None]] = deque()
        self._outage: LangSmithFault | None = None
        self._recovered = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self, port)
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
        """What `LANGSMITH_ENDPOINT` is to be set to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""
        return int(self._server.server_address[1])

    @property
    def received(self) -> list[ReceivedRequest]:
        """Every request with a body, refused ones included, in the order of their end."""
        with self._lock:
            return list(self._received)

    @property
    def spans(self) -> list[Span]:
        """The spans that were taken, each as often as it was."""
        return [span for item in self._taken() for span in item.spans]

    def runs(self) -> list[LangSmithRun]:
        """Return the runs that LangSmith would show, in the order of their start; those of its client come first."""
        with self._lock:
            of_client = self._sdk.runs()
        return of_client + reduce_to_runs(
            (span, item.headers.get("langsmith-project", "")) for item in self._taken() for span in item.spans
        )

    def holds(self, text: str) -> bool:
        """Return whether `text` is in any byte that came, refused requests and headers included."""
        wanted = text.encode()
        return any(
            wanted in part
            for item in self.received
            for part in (item.body, item.raw, item.path.encode(), repr(item.headers).encode())
        )

    def fail(self, fault: LangSmithFault) -> None:
        """Answer the next posts of spans with `fault`, after the faults that were asked for before."""
        with self._lock:
            self._recovered.clear()
            self._faults.append((fault, fault.times))

    def fail_everything(self, fault: LangSmithFault) -> None:
        """Answer every request with `fault`, scores and questions included, until `recover`."""
        with self._lock:
            self._recovered.clear()
            self._outage = fault

    def recover(self) -> None:
        """Take spans again, and let go of the requests that hang."""
        with self._lock:
            self._faults.clear()
            self._outage = None
            self._recovered.set()

    def _projects(self, name: str) -> list[dict[str, Any]]:
        """Return the projects of that name, all without one; a project is there when its first run has come."""
        names = {run.project for run in self.runs()}
        return [
            {"id": str(uuid5(NAMESPACE_URL, one)), "name": one, "tenant_id": str(_TENANT), "reference_dataset_id": None}
            for one in sorted(names)
            if name in {"", one}
        ]

    def _taken(self) -> list[ReceivedRequest]:
        return [item for item in self.received if item.path == _TRACES and item.answer == "200"]

    def _next_fault(self, body: bytes) -> LangSmithFault | None:
        with self._lock:
            if not self._faults or self._faults[0][0].about not in body:
                return None
            fault, left = self._faults.popleft()
            if left is None or left > 1:
                self._faults.appendleft((fault, None if left is None else left - 1))
            return fault

    def _judge(self, path: str, headers: dict[str, str], raw: bytes) -> LangSmithFault | None:
        """Decide on a request and keep it; return what is wrong, None where nothing is."""
        fault, body = self._look(path, headers, raw)
        answer = _named(fault)
        with self._lock:
            self._received.append(ReceivedRequest(path, headers, body, raw, answer))
            self.answers[answer] += 1
            if fault is None and path == "/feedback":
                self.feedback.append(json.loads(body))
            elif fault is None and path.startswith(_RUNS):
                self._sdk.take(path, headers, body)
                self.feedback += self._sdk.feedback
                self._sdk.feedback.clear()
        return fault

    def _look(self, path: str, headers: dict[str, str], raw: bytes) -> tuple[LangSmithFault | None, bytes]:
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
            # Each decoder has errors of its own, and what comes is whatever a client sends.
            return LangSmithFault(status=400), b""
        if self.api_key is not None and headers.get("x-api-key") != self.api_key:
            return LangSmithFault(status=401), body
        if self._outage is not None:
            return self._outage, body
        if self.max_bytes is not None and len(raw) > self.max_bytes:
            return LangSmithFault(status=413), body
        return (self._next_fault(body) if path == _TRACES else None), body


def _named(fault: LangSmithFault | None) -> str:
    if fault is None:
        return "200"
    return str(fault.status) if fault.kind == "status" else fault.kind


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, stand_in: LangSmithStandIn, port: int) -> None:
        self.judge = stand_in._judge  # noqa: SLF001 - one class in two parts
        self.projects = stand_in._projects  # noqa: SLF001
        self.outage: Callable[[], LangSmithFault | None] = lambda: stand_in._outage  # noqa: SLF001
        self.recovered = stand_in._recovered  # noqa: SLF001
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer `/info`, and `/sessions`, which are LangSmith's projects."""
        path, _, query = self.path.partition("?")
        fault = self.server.outage()
        if fault is not None:
            self._fail(fault)
        elif path == "/info":
            self._answer(200, _INFO)
        elif path == "/sessions":
            self._answer(200, self.server.projects(parse_qs(query).get("name", [""])[0]))
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        """Take spans, runs or feedback, or fail as scripted."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.server.judge(self.path, headers, raw)
        if fault is None:
            self._answer(200, {})
        else:
            self._fail(fault)

    do_PATCH = do_POST  # noqa: N815 - the name in http.server

    def _fail(self, fault: LangSmithFault) -> None:
        if fault.kind == "hang":
            self.server.recovered.wait()
            self.close_connection = True
        elif fault.kind == "reset":
            # Closing with a linger time of 0 sends RST in place of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            self._answer(fault.status, {"detail": "scripted"}, fault.retry_after_s)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Keep the output of tests clean."""

    def _answer(self, status: int, body: Any, retry_after_s: int | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(content)
