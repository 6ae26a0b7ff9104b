"""Assertions about trees of spans."""

from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forge_otel.testing.traces import assert_trace, outline, trace_trees

EXPECTED = """
    writer
      search
      chat gpt-4o
    critic !
"""


@pytest.fixture(scope="module")
def spans() -> Sequence[ReadableSpan]:
    """Two traces, the second of which fails."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("writer"):
        tracer.start_span("search", attributes={"tool": "search"}).end()
        tracer.start_span("chat gpt-4o").end()
    with pytest.raises(ValueError, match="no"), tracer.start_as_current_span("critic"):
        raise ValueError("no")
    return exporter.get_finished_spans()


def test_the_expected_outline_passes(spans: Sequence[ReadableSpan]) -> None:
    """It returns the roots, whose nodes lead to the spans."""
    writer, critic = assert_trace(spans, EXPECTED)
    assert writer.find("search").item.attributes == {"tool": "search"}
    assert critic.is_error
    assert outline(trace_trees(spans)) == "writer\n  search\n  chat gpt-4o\ncritic !"
    with pytest.raises(AssertionError, match="no node is called 'x' in\ncritic"):
        critic.find("x")


@pytest.mark.parametrize(
    ("wrong", "difference"),
    [
        (EXPECTED.replace("search", "look up"), r"-  look up\n\+  search"),
        (EXPECTED.replace(" !", ""), r"-critic\n\+critic !"),
        (EXPECTED.replace("      chat", "    chat"), r"-chat gpt-4o\n\+  chat gpt-4o"),
    ],
)
def test_another_outline_fails_with_the_difference(spans: Sequence[ReadableSpan], wrong: str, difference: str) -> None:
    """A different name, error or parent is in the message."""
    with pytest.raises(AssertionError, match=difference):
        assert_trace(spans, wrong)


def test_the_order_of_siblings_can_be_ignored(spans: Sequence[ReadableSpan]) -> None:
    """With `in_order=False` only names, errors and parents count."""
    swapped = EXPECTED.replace("      search\n      chat gpt-4o\n", "      chat gpt-4o\n      search\n")
    assert_trace(spans, swapped, in_order=False)
    with pytest.raises(AssertionError, match="the trace differs"):
        assert_trace(spans, swapped)
    with pytest.raises(AssertionError, match="the trace differs"):
        assert_trace(spans, swapped.replace("chat", "call"), in_order=False)
