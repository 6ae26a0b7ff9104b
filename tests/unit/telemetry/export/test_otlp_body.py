"""Encoding and splitting of OTLP bodies."""

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forge_otel.telemetry.export.otlp_body import encode, split


def ended(count: int) -> list[ReadableSpan]:
    """Return ended spans with numbers for names, of two resources and two scopes each."""
    exporter = InMemorySpanExporter()
    tracers = []
    for service in ("a", "b"):
        provider = TracerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracers += [provider.get_tracer(scope) for scope in ("x", "y")]
    for number in range(count):
        tracers[number * len(tracers) // count].start_span(str(number)).end()
    return list(exporter.get_finished_spans())


def names(body: bytes) -> list[tuple[str, str, str]]:
    """Return the service, scope and name of each span in a body, in order."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        (resource.resource.attributes[0].value.string_value, scope.scope.name, span.name)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


@pytest.mark.parametrize("count", [2, 3, 16, 17, 100])
def test_a_body_is_split_in_order(count: int) -> None:
    """Both parts keep the resource, scope and order of their spans; the first has half of them, rounded down."""
    body = encode(ended(count))
    first, second = (names(part) for part in split(body))
    assert first + second == names(body)
    assert len(first) == count // 2


def test_bodies_in_a_row_are_one_body() -> None:
    """Spans can be encoded a few at a time."""
    spans = ended(10)
    assert names(encode(spans[:3]) + encode(spans[3:])) == names(encode(spans))
