"""Conversion of OTLP spans to runs by LangSmith's documented mapping."""

import json
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from forge_otel.testing.langsmith.runs import reduce_to_runs


def otlp_span(number: int, parent: int = 0, **attributes: str) -> Span:
    """Return a span of one trace with a numbered id."""
    pairs = [
        KeyValue(key=name.replace("__", "."), value=AnyValue(string_value=text)) for name, text in attributes.items()
    ]
    return Span(
        name=str(number),
        trace_id=b"t" * 16,
        span_id=bytes([number]) * 8,
        parent_span_id=bytes([parent]) * 8 if parent else b"",
        start_time_unix_nano=number,
        attributes=pairs,
    )


def names(*spans: Span) -> list[Any]:
    """Return the names of the runs of `spans`."""
    return [run.name for run in reduce_to_runs((span, "p") for span in spans)]


def test_a_run_with_a_missing_ancestor_is_not_shown() -> None:
    """LangSmith drops it and its descendants."""
    assert names(otlp_span(1), otlp_span(3, 2), otlp_span(4, 3), otlp_span(5, 1)) == ["1", "5"]


def test_a_span_that_arrived_twice_is_one_run() -> None:
    """Runs are identified by their span id."""
    assert names(otlp_span(1), otlp_span(1)) == ["1"]


def test_attributes_are_mapped_to_the_fields_of_a_run() -> None:
    """Type, contents, usage, tags, thread and user have their documented attributes."""
    span = otlp_span(
        1,
        langsmith__span__kind="LLM",
        gen_ai__prompt='{"a": 1}',
        gen_ai__completion="text",
        langsmith__usage_metadata=json.dumps({"input_tokens": 3}),
        langsmith__span__tags="x,y",
        langsmith__metadata__session_id="s",
        langsmith__metadata__user_id="u",
    )
    span.events.add(name="exception").attributes.add(key="exception.message").value.string_value = "it broke"
    (run,) = reduce_to_runs([(span, "p")])
    assert (run.type, run.inputs, run.outputs, run.usage) == ("llm", {"a": 1}, "text", {"input_tokens": 3})
    assert (run.tags, run.thread, run.user, run.project) == (("x", "y"), "s", "u", "p")
    assert run.error == "it broke"
