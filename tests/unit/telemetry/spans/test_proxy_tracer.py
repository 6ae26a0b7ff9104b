"""Tests of the tracer that delegates to a tracer bound later."""

from opentelemetry.trace import INVALID_SPAN
from tests.unit.telemetry.recorder import Recorder

from forge_otel.telemetry.spans.proxy_tracer import ProxyTracer


def test_spans_are_recorded_while_a_tracer_is_bound(recorder: Recorder) -> None:
    """Before and after, spans are without effect."""
    tracer = ProxyTracer()
    tracer.start_span("before").end()
    tracer.bind(recorder.tracers.get_tracer("t"))
    tracer.start_span("while bound").end()
    with tracer.start_as_current_span("block"):
        pass
    tracer.bind(None)
    assert tracer.start_span("after").get_span_context() == INVALID_SPAN.get_span_context()
    assert [span.name for span in recorder.ended] == ["while bound", "block"]
