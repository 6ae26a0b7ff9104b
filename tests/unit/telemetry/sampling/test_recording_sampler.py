"""Tests of the head sampler of own tracer providers."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tests.unit.telemetry.sampling.remote import ALWAYS_KEPT, NEVER_KEPT, remote_parent

from forge_otel.telemetry.sampling.recording_sampler import RecordingSampler


@pytest.mark.parametrize(
    ("trace_id", "tracestate"),
    [(ALWAYS_KEPT, "vendor=x,ot=th:f;p:1"), (NEVER_KEPT, "ot=p:1,vendor=x")],
)
def test_downstream_services_receive_the_threshold_of_kept_traces(trace_id: int, tracestate: str) -> None:
    """The threshold of the caller stays on a trace that it keeps, and is removed from one that it does not."""
    tracer = TracerProvider(RecordingSampler(ParentBased(ALWAYS_ON), rate=0.1)).get_tracer("test")
    parent = remote_parent(trace_id, state=TraceState([("vendor", "x"), ("ot", "th:f;p:1")]))
    with tracer.start_as_current_span("work", context=parent), tracer.start_as_current_span("child"):
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
    assert carrier["tracestate"] == tracestate


def test_a_kept_trace_has_the_threshold_of_the_rate() -> None:
    """Without a threshold of the caller."""
    tracer = TracerProvider(RecordingSampler(ParentBased(ALWAYS_ON), rate=0.1)).get_tracer("test")
    with tracer.start_as_current_span("work", context=remote_parent(ALWAYS_KEPT)) as span:
        assert dict(span.get_span_context().trace_state) == {"ot": "th:e6666666666666"}


def test_spans_that_may_have_usage_are_recorded_unsampled() -> None:
    """Spans of servers, HTTP clients and databases are dropped as the inner sampler decides."""
    tracer = TracerProvider(RecordingSampler(ALWAYS_OFF)).get_tracer("test")
    assert not tracer.start_span("GET /", kind=SpanKind.SERVER).is_recording()
    assert not tracer.start_span("GET", kind=SpanKind.CLIENT, attributes={"http.request.method": "GET"}).is_recording()
    assert not tracer.start_span("select", attributes={"db.system.name": "postgresql"}).is_recording()
    recorded = tracer.start_span("chat")
    assert recorded.is_recording()
    assert not recorded.get_span_context().trace_flags.sampled


def test_only_the_local_root_changes_the_tracestate() -> None:
    """A child inherits the tracestate of its parent."""
    tracer = TracerProvider(RecordingSampler(ParentBased(ALWAYS_ON), rate=0.1)).get_tracer("test")
    root = tracer.start_span("root", context=remote_parent(ALWAYS_KEPT))
    child = tracer.start_span("child", context=trace.set_span_in_context(root))
    assert child.get_span_context().trace_state == root.get_span_context().trace_state
