"""Tests of span decorators and context managers."""

from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from tests.unit.telemetry.recorder import Recorder

from forge_otel.names import Attr
from forge_otel.telemetry.spans.decorators import Spans
from forge_otel.telemetry.spans.span_handle import SpanType


@pytest.mark.parametrize(
    ("kind", "name", "span_kind"),
    [
        ("agent", "invoke_agent work", SpanKind.INTERNAL),
        ("tool", "execute_tool work", SpanKind.INTERNAL),
        ("step", "work", SpanKind.INTERNAL),
        ("chain", "work", SpanKind.INTERNAL),
        ("retriever", "work", SpanKind.CLIENT),
        ("embedding", "work", SpanKind.CLIENT),
        ("llm", "work", SpanKind.CLIENT),
    ],
)
def test_each_type_is_named_by_the_conventions(
    kind: SpanType, name: str, span_kind: SpanKind, recorder: Recorder
) -> None:
    """The name of the span, its OpenTelemetry kind and its type attribute."""

    def work() -> None: ...

    getattr(recorder.spans, kind)(work)()
    span = recorder.span(name)
    assert (span.kind, (span.attributes or {})[Attr.SPAN_KIND]) == (span_kind, kind)


def test_all_spellings_of_a_decorator_work(recorder: Recorder) -> None:
    """Bare, called, with a name, with options."""
    agent = recorder.spans.agent

    @agent
    def one() -> None: ...

    @agent()
    def two() -> None: ...

    @agent("three", attributes={"team": "design"})
    def other() -> None: ...

    for function in (one, two, other):
        function()
    assert [span.name for span in recorder.ended] == ["invoke_agent one", "invoke_agent two", "invoke_agent three"]
    assert (recorder.ended[2].attributes or {})["team"] == "design"


@pytest.mark.parametrize("subject", [int, 7])
def test_only_functions_can_be_decorated(subject: Any, recorder: Recorder) -> None:
    """A class or a value raises at decoration."""
    with pytest.raises(TypeError, match="decorate a function"):
        recorder.spans.agent(subject)


async def test_a_block_has_a_span(recorder: Recorder) -> None:
    """With `with` and `async with`, nested, with attributes."""
    with recorder.spans.span("outer", attributes={"a": 1}) as outer:
        outer.set("b", 2)
        async with recorder.spans.span("inner", kind="tool") as inner:
            assert inner.trace_id == outer.trace_id
    attributes = recorder.span("outer").attributes or {}
    assert (attributes["a"], attributes["b"]) == (1, 2)
    assert recorder.span("execute_tool inner").parent == recorder.span("outer").context


def test_without_telemetry_nothing_is_recorded() -> None:
    """Blocks and usage have no effect."""
    spans = Spans(lambda: None)
    with spans.span("block") as block:
        block.set("a", 1)
        block.record_usage(1, 1, model="m")
    spans.record_usage(1, 1)
    assert block.trace_id == "0" * 32
