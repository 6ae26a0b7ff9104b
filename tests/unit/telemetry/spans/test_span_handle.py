"""Tests of running spans: end, duration metric, steps of the generation."""

import asyncio
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from tests.unit.telemetry.recorder import Recorder

from forge_otel.context import Generation, Identity, bind_identity
from forge_otel.names import Attr, Metric


async def test_a_cancelled_block_is_an_error(recorder: Recorder) -> None:
    """Its span ends with an error status."""

    async def work() -> None:
        async with recorder.spans.span("block"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.span("block").status.status_code is StatusCode.ERROR


def test_an_ended_span_ignores_attributes(recorder: Recorder, caplog: Any) -> None:
    """Nothing is logged either."""
    with recorder.spans.span("block") as block:
        pass
    block.set("late", 1)
    assert (caplog.text, "late" in (recorder.span("block").attributes or {})) == ("", False)


def test_agents_tools_and_steps_are_steps_of_the_generation(recorder: Recorder, generation: Generation) -> None:
    """In the order of their end, with times relative to the start of the generation."""

    @recorder.spans.tool
    def fetch() -> None:
        raise KeyError("x")

    with recorder.spans.span("read"), pytest.raises(KeyError):
        fetch()
    recorder.spans.chain(lambda: None)()
    steps = [(step.name, step.kind, step.error_type) for step in generation.steps]
    assert steps == [("fetch", "tool", "KeyError"), ("read", "step", None)]
    assert 0 <= generation.steps[1].started_s <= generation.steps[0].started_s < 5


def test_a_duration_has_the_labels_of_the_catalog_only(recorder: Recorder) -> None:
    """Attributes and identities of users do not become labels."""
    with bind_identity(Identity(user_id="u")), recorder.spans.span("block", attributes={"item": "17"}):
        pass
    (metric,) = [item for item in recorder.metrics() if item.name == Metric.STEP_DURATION.name]
    assert {key for point in metric.data.data_points for key in point.attributes} == {Attr.STEP_NAME}


def test_only_agents_have_the_duration_of_agents(recorder: Recorder) -> None:
    """Tools and steps have metrics of their own."""
    recorder.spans.agent("coder")(lambda: None)()
    recorder.spans.tool("search")(lambda: None)()
    recorder.spans.step("read")(lambda: None)()
    assert list(recorder.points(Metric.AGENT_DURATION)) == [("coder", "agent", None)]
    assert list(recorder.points(Metric.TOOL_DURATION)) == [("search", None)]
    assert list(recorder.points(Metric.STEP_DURATION)) == [("read", None)]


def test_the_exemplar_of_a_duration_is_its_span(recorder: Recorder) -> None:
    """Although the point is recorded later."""
    recorder.spans.agent("a")(lambda: None)()
    (point,) = recorder.points(Metric.AGENT_DURATION).values()
    assert [exemplar.span_id for exemplar in point.exemplars] == [recorder.span("invoke_agent a").context.span_id]
