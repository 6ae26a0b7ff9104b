"""What makes requests of spans gives way to who serves, a few spans at a time, and changes nothing by it."""

import gzip
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from forge_otel.telemetry.export.http import HttpResponse
from forge_otel.telemetry.export.otlp_body import encode, split
from forge_otel.telemetry.export.processor import ExportProcessor

COUNT = 100
FEW = 16
REST = 0


class Server:
    """Keeps the bodies that it gets."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, body: bytes, timeout_s: float) -> HttpResponse:
        """Take it."""
        self.bodies.append(gzip.decompress(body))
        return HttpResponse(status=200)

    def close(self) -> None:
        """Nothing is open."""

    def names(self) -> Counter[str]:
        """Names of the spans that came, and how often."""
        return Counter(name for body in self.bodies for name in names_of(body))


def names_of(body: bytes) -> list[str]:
    """Names of the spans in a body, in their order."""
    request = ExportTraceServiceRequest.FromString(body)
    scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
    return [span.name for scope in scopes for span in scope.spans]


class Log:
    """Says in which order spans were selected, encoded and rested from."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.steps: list[int] = []
        self._is_broken = is_broken

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        """Encode, but for one span, if asked to be broken."""
        self.steps.append(len(spans))
        if self._is_broken and any(span.name == "50" for span in spans):
            raise ValueError
        return encode(spans)

    def rest(self, seconds: float) -> None:
        """Be told to rest."""
        assert seconds >= 0
        self.steps.append(REST)


class Everything(ExportProcessor):
    """Sends what ends."""

    log: Log

    def select(self, spans: Sequence[ReadableSpan], *, is_last: bool) -> Sequence[ReadableSpan]:
        """Take all."""
        self.log.steps += [len(spans)] if spans else []
        return spans


@contextmanager
def queue(log: Log, server: Server) -> Iterator[Callable[[int], None]]:
    """A queue that is closed in the end; yields what ends spans and waits until they are sent."""
    Everything.log = log
    processor = Everything(log.encode, split, server, rest=log.rest)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)

    def end(count: int) -> None:
        for number in range(count):
            provider.get_tracer("test").start_span(str(number)).end()
        assert processor.force_flush(20_000)

    try:
        yield end
    finally:
        provider.shutdown()


def test_it_rests_after_every_few_spans() -> None:
    """Neither what is made of spans nor their encoding goes on for more than a few of them."""
    log, server = Log(), Server()
    with queue(log, server) as end:
        end(COUNT)
    work: list[int] = [0]
    for step in log.steps:
        if step == REST:
            work.append(0)
        else:
            work[-1] += step
    longest = max(work)
    assert longest == FEW
    assert server.names() == {str(number): 1 for number in range(COUNT)}
    assert len(server.bodies) < COUNT / FEW


@pytest.mark.parametrize("size", [FEW, FEW + 1, COUNT])
def test_a_body_of_several_parts_is_split_like_any_other(size: int) -> None:
    """The halves of a body have its spans in their order, the first half rounded down."""
    log, server = Log(), Server()
    with queue(log, server) as end:
        end(size)
    for body in server.bodies:
        first, second = (names_of(half) for half in split(body))
        assert first + second == names_of(body)
        assert len(second) - len(first) in {0, 1}


def test_one_span_that_cannot_be_encoded_costs_no_other() -> None:
    """Also where it is one of several parts of a body."""
    log, server = Log(is_broken=True), Server()
    with queue(log, server) as end:
        end(COUNT)
    assert server.names() == {str(number): 1 for number in range(COUNT) if number != 50}
