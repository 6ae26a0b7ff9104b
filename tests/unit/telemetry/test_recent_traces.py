"""Tests of the recent traces and of their text trees."""

import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, Tracer, format_trace_id

from forge_otel.names import Attr
from forge_otel.telemetry.recent_traces import RecentTraces, SpanRow, render_tree


def kept_by(recent: RecentTraces) -> Tracer:
    """Return a tracer whose spans `recent` receives."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(recent)
    return provider.get_tracer("test")


def make(tracer: Tracer, children: int = 0) -> str:
    """Record a trace of a root with children, and return its id."""
    with tracer.start_as_current_span("root") as root:
        for number in range(children):
            tracer.start_span(f"child {number}").end()
    return format_trace_id(root.get_span_context().trace_id)


def test_a_span_is_kept_without_its_contents() -> None:
    """Name, parent, type, error and some attributes."""
    recent = RecentTraces()
    tracer = kept_by(recent)
    with tracer.start_as_current_span("root") as root:
        child = tracer.start_span("child", attributes={Attr.SPAN_KIND: "agent", Attr.INPUT: "long"})
        child.set_attribute(Attr.ERROR_TYPE, "KeyError")
        child.set_status(StatusCode.ERROR)
        child.end()
    rows = recent.trace(format_trace_id(root.get_span_context().trace_id))
    assert [(row.name, row.kind, row.error_type) for row in rows] == [
        ("root", "internal", None),
        ("child", "agent", "KeyError"),
    ]
    assert rows[1].parent_id == rows[0].span_id
    assert Attr.INPUT not in rows[1].attributes


def test_the_number_of_traces_is_limited() -> None:
    """The newest are kept, newest first."""
    recent = RecentTraces(max_traces=3)
    ids = [make(kept_by(recent)) for _ in range(10)]
    assert [row.trace_id for row in recent.latest()] == ids[:-4:-1]
    assert recent.trace(ids[0]) == []


def test_the_number_of_spans_is_limited() -> None:
    """The spans that end first are kept, and the root."""
    recent = RecentTraces(max_spans=5)
    rows = recent.trace(make(kept_by(recent), children=50))
    assert len(rows) == 6
    assert rows[0].name == "root"


def test_the_queue_is_limited() -> None:
    """Between two reads."""
    recent = RecentTraces(max_queued=10)
    tracer = kept_by(recent)
    for _ in range(100):
        make(tracer)
    assert len(recent.latest(limit=1000)) == 10


def test_old_traces_are_removed() -> None:
    """Their age is limited."""
    recent = RecentTraces(max_age_s=0.0)
    trace_id = make(kept_by(recent))
    time.sleep(0.001)
    assert (recent.trace(trace_id), recent.latest()) == ([], [])


def test_a_remote_parent_makes_a_local_root() -> None:
    """A request from another service is complete when its server span ends."""
    recent = RecentTraces()
    remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
    context = trace.set_span_in_context(NonRecordingSpan(remote))
    kept_by(recent).start_span("GET", context=context).end()
    (row,) = recent.latest()
    assert (row.name, row.parent_id) == ("GET", "0000000000000002")


@pytest.mark.parametrize("trace_id", ["", "nonsense", "f" * 32])
def test_an_unknown_trace_is_empty(trace_id: str) -> None:
    """Trace ids come from URLs."""
    assert RecentTraces().trace(trace_id) == []


def row(name: str, place: str, started_s: float, duration_s: float, error: str | None = None) -> SpanRow:
    """Return a row at `parent/own`, the ids of its parent and itself."""
    parent_id, _, span_id = place.partition("/")
    return SpanRow(
        trace_id="t",
        span_id=span_id,
        parent_id=parent_id,
        name=name,
        kind="step",
        started_s=started_s,
        duration_s=duration_s,
        error_type=error,
    )


def test_a_trace_is_rendered_as_a_tree() -> None:
    """Children in the order of their start, durations in a column, errors marked."""
    rows = [
        row("chat gpt-4o", "b/c", 2.1, 0.0123),
        row("invoke_agent coder", "a/b", 2.0, 1.5),
        row("invoke_agent validator", "a/d", 4.0, 0.2, "KeyError"),
        row("POST /generate", "remote/a", 1.0, 3.25),
    ]
    assert render_tree(rows).splitlines() == [
        "POST /generate                 3.25 s",
        "├─ invoke_agent coder          1.50 s",
        "│  └─ chat gpt-4o              12.3 ms",
        "└─ invoke_agent validator     200.0 ms  ✗ KeyError",
    ]


def test_a_deep_trace_is_rendered() -> None:
    """The depth is unlimited."""
    rows = [row("step", f"{number - 1}/{number}", number, 1.0) for number in range(5000)]
    assert len(render_tree(rows).splitlines()) == 5000


def test_no_rows_are_an_empty_text() -> None:
    """No line."""
    assert render_tree([]) == ""
