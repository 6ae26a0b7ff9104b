"""Encoding of spans as the body of an OTLP request, and splitting of such a body."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan

from forge_otel.errors import needs

with needs("otlp"):
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["encode", "split"]


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Return the protobuf body of a request with `spans`."""
    body: bytes = encode_spans(spans).SerializeToString()
    return body


def split(body: bytes) -> tuple[bytes, bytes]:
    """Split a body in two, in the order of its spans; the first part has half of them, rounded down."""
    whole = ExportTraceServiceRequest.FromString(body)
    scopes = [(resource, scope) for resource in whole.resource_spans for scope in resource.scope_spans]
    half = sum(len(scope.spans) for _, scope in scopes) // 2
    parts = ExportTraceServiceRequest(), ExportTraceServiceRequest()
    copied = 0
    for resource, scope in scopes:
        in_first = max(min(half - copied, len(scope.spans)), 0)
        copied += len(scope.spans)
        for target, spans in zip(parts, (scope.spans[:in_first], scope.spans[in_first:]), strict=True):
            if spans:
                copy = target.resource_spans.add(resource=resource.resource, schema_url=resource.schema_url)
                copy.scope_spans.add(scope=scope.scope, schema_url=scope.schema_url, spans=spans)
    first, second = (part.SerializeToString() for part in parts)
    return first, second
