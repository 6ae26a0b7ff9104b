"""Decorators and context managers as users write them."""

import asyncio
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from tests.unit.telemetry.recorder import Recorder, button_call

from forge_otel.context import Generation, Identity, bind_identity, current_call
from forge_otel.names import Attr, Metric
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
def test_each_kind_is_named_by_the_conventions(
    kind: SpanType, name: str, span_kind: SpanKind, recorder: Recorder
) -> None:
    """The name of the span, its kind for OpenTelemetry and its kind for us."""

    def work() -> None: ...

    getattr(recorder.spans, kind)(work)()
    span = recorder.span(name)
    assert (span.kind, (span.attributes or {})[Attr.SPAN_KIND]) == (span_kind, kind)


def test_all_spellings_of_a_decorator_work(recorder: Recorder) -> None:
    """Bare, called, named, with options."""
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
def test_what_is_no_function_is_refused(subject: Any, recorder: Recorder) -> None:
    """A class or a value is a mistake that is told at once."""
    with pytest.raises(TypeError, match="decorate a function"):
        recorder.spans.agent(subject)


async def test_a_block_gets_a_span(recorder: Recorder) -> None:
    """With and async with, nested, with attributes."""
    with recorder.spans.span("outer", attributes={"a": 1}) as outer:
        outer.set("b", 2)
        async with recorder.spans.span("inner", kind="tool") as inner:
            assert inner.trace_id == outer.trace_id
    attributes = recorder.span("outer").attributes or {}
    assert (attributes["a"], attributes["b"]) == (1, 2)
    assert recorder.span("execute_tool inner").parent == recorder.span("outer").context


async def test_a_cancelled_block_is_an_error(recorder: Recorder) -> None:
    """A block that is cancelled inside ends its span as one that failed."""

    async def work() -> None:
        async with recorder.spans.span("block"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.span("block").status.status_code is StatusCode.ERROR


def test_a_handle_is_harmless_after_the_end(recorder: Recorder, caplog: Any) -> None:
    """Setting what comes too late does nothing and says nothing."""
    with recorder.spans.span("block") as block:
        pass
    block.set("late", 1)
    assert (caplog.text, "late" in (recorder.span("block").attributes or {})) == ("", False)


def test_nothing_open_costs_nothing_and_breaks_nothing() -> None:
    """Blocks and usage without a telemetry."""
    spans = Spans(lambda: None)
    with spans.span("block") as block:
        block.set("a", 1)
        block.record_usage(1, 1, model="m")
    spans.record_usage(1, 1)
    assert block.trace_id == "0" * 32


def test_agents_tools_and_steps_are_noted_on_the_generation(recorder: Recorder, generation: Generation) -> None:
    """The table of timings has them in the order of their end, relative to the start of the generation."""

    @recorder.spans.tool
    def fetch() -> None:
        raise KeyError("x")

    with recorder.spans.span("read"), pytest.raises(KeyError):
        fetch()
    recorder.spans.chain(lambda: None)()
    steps = [(step.name, step.kind, step.error_type) for step in generation.steps]
    assert steps == [("fetch", "tool", "KeyError"), ("read", "step", None)]
    assert 0 <= generation.steps[1].started_s <= generation.steps[0].started_s < 5


def test_identity_and_component_type_are_on_every_span(recorder: Recorder) -> None:
    """Also on spans of instrumentations that know nothing of us."""
    token = current_call.set(button_call())
    try:
        with bind_identity(Identity(user_id="u", session_id="s", tenant="t")):
            recorder.tracers.get_tracer("httpx").start_span("GET").end()
    finally:
        current_call.reset(token)
    wanted = {Attr.USER_ID: "u", Attr.SESSION_ID: "s", Attr.TENANT: "t", Attr.COMPONENT_TYPE: "button"}
    assert dict(recorder.span("GET").attributes or {}) == wanted


def test_durations_carry_only_the_labels_of_the_catalog(recorder: Recorder) -> None:
    """Nothing that users choose freely becomes a label."""
    with bind_identity(Identity(user_id="u")), recorder.spans.span("block", attributes={"item": "17"}):
        pass
    (metric,) = [item for item in recorder.metrics() if item.name == Metric.AGENT_DURATION.name]
    assert {key for point in metric.data.data_points for key in point.attributes} == {
        Attr.GEN_AI_AGENT_NAME,
        Attr.SPAN_KIND,
    }


def test_a_duration_points_to_its_trace(recorder: Recorder) -> None:
    """The exemplar of a point, recorded later, is the span that it measures."""
    recorder.spans.agent("a")(lambda: None)()
    (point,) = recorder.points(Metric.AGENT_DURATION).values()
    assert [exemplar.span_id for exemplar in point.exemplars] == [recorder.span("invoke_agent a").context.span_id]
