"""Traces over OTLP, configured by the ``OTEL_EXPORTER_OTLP_*`` variables that the exporter itself reads."""

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from forge_otel.errors import needs

with needs("otlp"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

__all__ = ["span_processor"]


def span_processor() -> SpanProcessor:
    """Return a processor that sends spans in batches from its own thread."""
    return BatchSpanProcessor(OTLPSpanExporter())
