"""Spans as the body of an OTLP request, and such a body in halves."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan

from forge_otel.errors import needs

with needs("otlp"):
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["encode", "split"]


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Return a protobuf body with `spans`."""
    body: bytes = encode_spans(spans).SerializeToString()
    return body


def split(body: bytes) -> tuple[bytes, bytes]:
    """Split an encoded batch, in the order of its spans."""
    whole = ExportTraceServiceRequest.FromString(body)
    scopes = [(resource, scope) for resource in whole.resource_spans for scope in resource.scope_spans]
    half = sum(len(scope.spans) for _, scope in scopes) // 2
    halves = ExportTraceServiceRequest(), ExportTraceServiceRequest()
    number = 0
    for resource, scope in scopes:
        here = max(min(half - number, len(scope.spans)), 0)
        number += len(scope.spans)
        for target, spans in zip(halves, (scope.spans[:here], scope.spans[here:]), strict=True):
            if spans:
                kept = target.resource_spans.add(resource=resource.resource, schema_url=resource.schema_url)
                kept.scope_spans.add(scope=scope.scope, schema_url=scope.schema_url, spans=spans)
    first, second = (part.SerializeToString() for part in halves)
    return first, second
