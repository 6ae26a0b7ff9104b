"""Tests of tokens, cost and metrics of model calls, each counted once."""

import asyncio
import threading
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased
from opentelemetry.trace import Span, Status, StatusCode
from tests.unit.telemetry.recorder import Recorder, button_call

from forge_otel.context import Generation, current_call
from forge_otel.names import Attr, Metric
from forge_otel.pricing import ModelPrice
from forge_otel.settings import Settings
from forge_otel.telemetry.spans.decorators import Spans
from forge_otel.types import Usage

CHAT = {
    Attr.GEN_AI_OPERATION: "chat",
    Attr.GEN_AI_PROVIDER: "openai",
    Attr.GEN_AI_REQUEST_MODEL: "gpt-4o",
    Attr.GEN_AI_RESPONSE_MODEL: "gpt-4o-2024-08-06",
    Attr.GEN_AI_INPUT_TOKENS: 1000,
    Attr.GEN_AI_OUTPUT_TOKENS: 200,
    Attr.GEN_AI_CACHE_READ_TOKENS: 400,
    Attr.GEN_AI_REASONING_TOKENS: 50,
}
# 600 at 2.5, 400 cached at 1.25 and 200 at 10 USD per million tokens.
PRICE = Decimal("0.004")


def chat(recorder: Recorder, *, scope: str = "mine", **more: Any) -> None:
    """Record the span of a model call, like an instrumentation of `scope`."""
    attributes = {key: value for key, value in {**CHAT, **more}.items() if value is not None}
    recorder.tracers.get_tracer(scope).start_span("chat", attributes=attributes).end()


def test_a_call_is_priced_and_counted(recorder: Recorder, generation: Generation) -> None:
    """On the generation with its agent, and in the metrics, by disjoint token types."""
    with recorder.spans.span("coder", kind="agent"):
        chat(recorder)
    (cost,) = generation.costs
    usage = Usage(input_uncached=600, cache_read=400, output=150, reasoning=50)
    assert (cost.api, cost.model, cost.agent, cost.usage, cost.amount_usd) == (
        "openai",
        "gpt-4o",
        "coder",
        usage,
        PRICE,
    )
    assert recorder.values(Metric.TOKENS) == {
        ("gpt-4o", "input_uncached"): 600,
        ("gpt-4o", "cache_read"): 400,
        ("gpt-4o", "output"): 150,
        ("gpt-4o", "reasoning"): 50,
    }
    assert recorder.values(Metric.COST) == {("openai", "gpt-4o", None): pytest.approx(0.004)}


def test_cost_is_counted_by_component_type(recorder: Recorder) -> None:
    """Of the current call."""
    token = current_call.set(button_call())
    chat(recorder)
    current_call.reset(token)
    assert list(recorder.values(Metric.COST)) == [("openai", "gpt-4o", "button")]


def test_an_unknown_price_is_counted_and_never_zero(recorder: Recorder, generation: Generation) -> None:
    """The cost is unknown and not 0."""
    chat(recorder, **{Attr.GEN_AI_REQUEST_MODEL: "mystery", Attr.GEN_AI_RESPONSE_MODEL: None})
    assert generation.costs[0].amount_usd is None
    assert recorder.values(Metric.UNPRICED) == {("mystery",): 1}
    assert recorder.values(Metric.COST) == {}


def test_a_reported_cost_takes_precedence(recorder: Recorder, generation: Generation) -> None:
    """Also for a model without a price."""
    chat(recorder, **{Attr.GEN_AI_COST_USD: 0.25, Attr.GEN_AI_REQUEST_MODEL: "mystery"})
    assert generation.costs[0].amount_usd == Decimal("0.25")


def test_a_price_in_the_settings_takes_precedence(generation: Generation) -> None:
    """By the requested model, although the response names another."""
    price = ModelPrice(input_usd=Decimal(1), output_usd=Decimal(1))
    recorder = Recorder(Settings(prices={"gpt-4o": price}))
    chat(recorder)
    recorder.close()
    assert generation.costs[0].amount_usd == Decimal("0.0012")


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_usage_on_nested_spans_is_counted_once(depth: int, recorder: Recorder, generation: Generation) -> None:
    """On the innermost span; parents that repeat it or its sum are ignored."""
    tracer = recorder.tracers.get_tracer("framework")
    repeated = {**CHAT, Attr.GEN_AI_INPUT_TOKENS: 2000}

    def nest(level: int) -> None:
        if level == 0:
            chat(recorder)
            chat(recorder)
            return
        with tracer.start_as_current_span("chain", attributes=repeated):
            nest(level - 1)

    nest(depth)
    assert [cost.usage.input_tokens for cost in generation.costs] == [1000, 1000]


def test_a_parent_of_another_model_is_counted(recorder: Recorder, generation: Generation) -> None:
    """An agent with an embedding on its span and a chat below has made two calls."""
    attributes = {Attr.GEN_AI_REQUEST_MODEL: "text-embedding-3-small", Attr.GEN_AI_INPUT_TOKENS: 7}
    with recorder.tracers.get_tracer("framework").start_as_current_span("agent", attributes=attributes):
        chat(recorder)
    assert [cost.model for cost in generation.costs] == ["gpt-4o", "text-embedding-3-small"]


def test_a_reported_call_is_counted_once(recorder: Recorder, generation: Generation) -> None:
    """It is set on the current span, whose end adds nothing."""
    with recorder.spans.span("coder", kind="agent"):
        recorder.spans.record_usage(1000, 200, model="gpt-4o", provider="openai", cache_read_tokens=400)
        recorder.spans.record_usage(10, 2, model="gpt-4o", provider="openai")
    attributes = recorder.span("invoke_agent coder").attributes or {}
    assert (attributes[Attr.GEN_AI_INPUT_TOKENS], attributes[Attr.GEN_AI_OUTPUT_TOKENS]) == (1010, 202)
    assert [(cost.agent, cost.usage.input_tokens) for cost in generation.costs] == [("coder", 1000), ("coder", 10)]


def test_a_report_of_an_instrumented_call_is_ignored(recorder: Recorder, generation: Generation) -> None:
    """An instrumentation has recorded it on the span below."""
    with recorder.spans.span("coder", kind="agent") as coder:
        chat(recorder)
        coder.record_usage(1000, 200, model="gpt-4o", provider="openai")
    assert len(generation.costs) == 1
    assert Attr.GEN_AI_INPUT_TOKENS not in (recorder.span("invoke_agent coder").attributes or {})


def test_a_report_after_a_reported_call_of_an_agent_is_counted(recorder: Recorder, generation: Generation) -> None:
    """With the same model and the same counts."""
    with recorder.spans.span("pipeline", kind="chain") as pipeline:
        with recorder.spans.span("coder", kind="agent"):
            recorder.spans.record_usage(1000, 200, model="gpt-4o", provider="openai")
        pipeline.record_usage(1000, 200, model="gpt-4o", provider="openai")
    assert [(cost.agent, cost.usage.input_tokens) for cost in generation.costs] == [("coder", 1000), ("", 1000)]


def test_two_forges_count_a_call_once(recorder: Recorder, generation: Generation) -> None:
    """The report of one repeats the call that the other has read from a span, also of another provider."""
    other = recorder.another()
    other.start()
    second = Recorder()
    for reporting, tracing in ((other, recorder), (second.telemetry, recorder), (recorder.telemetry, second)):
        generation.costs.clear()
        with recorder.spans.span("coder", kind="agent"):
            chat(tracing)
            spans = Spans(lambda reporting=reporting: reporting.span_recorder)
            spans.record_usage(1000, 200, model="gpt-4o", provider="openai", cache_read_tokens=400)
        assert len(generation.costs) == 1
    second.close()
    other.shutdown()


def test_a_report_with_other_counts_is_counted(recorder: Recorder, generation: Generation) -> None:
    """Next to an instrumented call of the same model."""
    with recorder.spans.span("coder", kind="agent") as coder:
        chat(recorder)
        coder.record_usage(77, 7, model="gpt-4o", provider="openai")
    assert [cost.usage.input_tokens for cost in generation.costs] == [1000, 77]


def test_a_report_of_a_sum_is_ignored_once(recorder: Recorder, generation: Generation) -> None:
    """A second report of the sum is another call."""
    with recorder.spans.span("coder", kind="agent") as coder:
        chat(recorder)
        chat(recorder)
        coder.record_usage(2000, 400, model="gpt-4o", provider="openai")
        assert len(generation.costs) == 2
        coder.record_usage(2000, 400, model="gpt-4o", provider="openai")
    assert [cost.usage.input_tokens for cost in generation.costs] == [1000, 1000, 2000]


def test_a_report_without_a_span_is_counted(recorder: Recorder, generation: Generation) -> None:
    """Sampled out, or outside of any span."""
    recorder.spans.record_usage(1000, 0, model="gpt-4o", provider="openai", cost_usd=Decimal("0.5"))
    assert generation.spent_usd == Decimal("0.5")


def test_a_stream_belongs_to_the_generation_of_its_start(recorder: Recorder, generation: Generation) -> None:
    """Although its span ends in a thread with an empty context."""
    with recorder.spans.span("coder", kind="agent"):
        span = recorder.tracers.get_tracer("mine").start_span("chat", attributes=CHAT)
    thread = threading.Thread(target=span.end)
    thread.start()
    thread.join()
    assert [(cost.agent, cost.amount_usd) for cost in generation.costs] == [("coder", PRICE)]


def test_a_span_of_a_thread_has_the_generation_of_its_parent(recorder: Recorder, generation: Generation) -> None:
    """The parent is given explicitly."""

    def work(parent: Span) -> None:
        context = trace.set_span_in_context(parent)
        recorder.tracers.get_tracer("mine").start_span("chat", context=context, attributes=CHAT).end()

    with recorder.spans.span("coder", kind="agent"):
        thread = threading.Thread(target=work, args=[trace.get_current_span()])
        thread.start()
        thread.join()
    assert [(cost.agent, cost.amount_usd) for cost in generation.costs] == [("coder", PRICE)]


@pytest.mark.parametrize(
    ("scope", "recorded"),
    [
        ("mine", True),
        ("opentelemetry.instrumentation.openai_v2", False),
        ("opentelemetry.instrumentation.genai.openai", False),
        ("opentelemetry.util.genai.handler", False),
    ],
)
def test_client_metrics_leave_out_instrumentations_that_record_them(
    scope: str, recorded: bool, recorder: Recorder
) -> None:
    """No call is in `gen_ai.client.*` twice; every call is in `forge.genai.*`."""
    chat(recorder, scope=scope)
    labels = ("chat", "openai", "gpt-4o")
    usage = {key: point.sum for key, point in recorder.points(Metric.TOKEN_USAGE).items()}
    assert usage == ({(*labels, "input"): 1000, (*labels, "output"): 200} if recorded else {})
    assert list(recorder.points(Metric.LLM_DURATION)) == ([(*labels, None)] if recorded else [])
    assert sum(recorder.values(Metric.TOKENS).values()) == 1200


def test_a_failed_call_has_a_duration_and_no_cost(recorder: Recorder, generation: Generation) -> None:
    """With its error type."""
    tracer = recorder.tracers.get_tracer("mine")
    attributes = {Attr.GEN_AI_OPERATION: "chat", Attr.GEN_AI_SYSTEM: "openai", Attr.GEN_AI_REQUEST_MODEL: "gpt-4o"}
    span: Span = tracer.start_span("chat", attributes={**attributes, Attr.ERROR_TYPE: "APITimeoutError"})
    span.set_status(Status(StatusCode.ERROR))
    span.end()
    assert list(recorder.points(Metric.LLM_DURATION)) == [("chat", "openai", "gpt-4o", "APITimeoutError")]
    assert generation.costs == []


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], 7, True])
def test_attributes_of_any_type_are_accepted(value: Any, recorder: Recorder) -> None:
    """Any library can set them."""
    chat(recorder, **dict.fromkeys(CHAT, value))
    assert len(recorder.ended) == 1


def test_spans_that_never_end_are_evicted(recorder: Recorder) -> None:
    """The table of open spans is limited, and recent spans still work."""
    tracer = recorder.tracers.get_tracer("leak")
    leaked = [tracer.start_span("never") for _ in range(25_000)]
    chat(recorder)
    assert sum(recorder.values(Metric.TOKENS).values()) == 1200
    leaked[0].end()


async def test_pricing_does_not_block_the_event_loop(recorder: Recorder) -> None:
    """The price table is loaded at the start."""
    longest = 0.0
    loop = asyncio.get_running_loop()
    for _ in range(20):
        started = loop.time()
        chat(recorder)
        longest = max(longest, loop.time() - started)
        await asyncio.sleep(0)
    assert longest < 0.1


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, TraceIdRatioBased(0.0)])
def test_sampled_out_agents_are_timed(sampler: Any, generation: Generation) -> None:
    """Metrics, steps and reported usage do not depend on sampling."""
    recorder = Recorder(sampler=sampler)
    with recorder.spans.span("coder", kind="agent") as coder:
        coder.record_usage(1000, 0, model="gpt-4o", provider="openai")
    assert recorder.ended == ()
    assert recorder.points(Metric.AGENT_DURATION)["coder", "agent", None].count == 1
    assert ([step.name for step in generation.steps], len(generation.costs)) == (["coder"], 1)
    recorder.close()


@pytest.mark.parametrize("name", [Attr.GEN_AI_FIRST_CHUNK_S, Attr.FIRST_CHUNK_S])
def test_the_output_rate_of_a_stream(name: str, recorder: Recorder) -> None:
    """Time to the first chunk, and tokens per second from there."""
    span = recorder.tracers.get_tracer("mine").start_span("chat", attributes={**CHAT, name: 1.0}, start_time=10**9)
    span.end(6 * 10**9)
    (first,) = recorder.points(Metric.FIRST_CHUNK).values()
    (rate,) = recorder.points(Metric.TOKEN_RATE).values()
    assert (first.sum, rate.sum) == (1.0, 200 / 4.0)


@pytest.mark.parametrize("value", [True, -1.0, "soon"])
def test_an_invalid_time_to_first_chunk_is_ignored(value: Any, recorder: Recorder) -> None:
    """The rate is then that of the whole call."""
    attributes = {**CHAT, Attr.GEN_AI_FIRST_CHUNK_S: value}
    recorder.tracers.get_tracer("mine").start_span("chat", attributes=attributes, start_time=10**9).end(5 * 10**9)
    assert recorder.points(Metric.FIRST_CHUNK) == {}
    assert recorder.points(Metric.TOKEN_RATE)["gpt-4o",].sum == 50.0
