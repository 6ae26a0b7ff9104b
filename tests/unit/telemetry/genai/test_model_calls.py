"""Model calls become tokens, cost and metrics, each once."""

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
    """Make the span of a model call, as an instrumentation of `scope` does."""
    attributes = {key: value for key, value in {**CHAT, **more}.items() if value is not None}
    recorder.tracers.get_tracer(scope).start_span("chat", attributes=attributes).end()


def test_a_call_is_noted_priced_and_counted(recorder: Recorder, generation: Generation) -> None:
    """Usage as a partition, the agent that asked, the price of what answered; the same in the metrics."""
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
    """The call that is running gives the label."""
    token = current_call.set(button_call())
    chat(recorder)
    current_call.reset(token)
    assert list(recorder.values(Metric.COST)) == [("openai", "gpt-4o", "button")]


def test_an_unknown_price_is_counted_and_never_zero(recorder: Recorder, generation: Generation) -> None:
    """No price is a state of its own."""
    chat(recorder, **{Attr.GEN_AI_REQUEST_MODEL: "mystery", Attr.GEN_AI_RESPONSE_MODEL: None})
    assert generation.costs[0].amount_usd is None
    assert recorder.values(Metric.UNPRICED) == {("mystery",): 1}
    assert recorder.values(Metric.COST) == {}


def test_what_the_provider_charged_wins(recorder: Recorder, generation: Generation) -> None:
    """A reported cost is not recomputed, also for a model without a price."""
    chat(recorder, **{Attr.GEN_AI_COST_USD: 0.25, Attr.GEN_AI_REQUEST_MODEL: "mystery"})
    assert generation.costs[0].amount_usd == Decimal("0.25")


def test_a_price_of_the_settings_wins_over_the_list(generation: Generation) -> None:
    """Under the name that was asked for, though another answered."""
    price = ModelPrice(input_usd=Decimal(1), output_usd=Decimal(1))
    recorder = Recorder(Settings(prices={"gpt-4o": price}))
    chat(recorder)
    recorder.close()
    assert generation.costs[0].amount_usd == Decimal("0.0012")


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_usage_on_nested_spans_is_counted_once(depth: int, recorder: Recorder, generation: Generation) -> None:
    """The innermost span counts, parents that repeat it or its sum do not."""
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
    """An agent that embeds on its own span and chats below has made two calls."""
    attributes = {Attr.GEN_AI_REQUEST_MODEL: "text-embedding-3-small", Attr.GEN_AI_INPUT_TOKENS: 7}
    with recorder.tracers.get_tracer("framework").start_as_current_span("agent", attributes=attributes):
        chat(recorder)
    assert [cost.model for cost in generation.costs] == ["gpt-4o", "text-embedding-3-small"]


def test_what_the_program_tells_is_counted_once(recorder: Recorder, generation: Generation) -> None:
    """It is written on the current span, and reading that span adds nothing."""
    with recorder.spans.span("coder", kind="agent"):
        recorder.spans.record_usage(1000, 200, model="gpt-4o", provider="openai", cache_read_tokens=400)
        recorder.spans.record_usage(10, 2, model="gpt-4o", provider="openai")
    attributes = recorder.span("invoke_agent coder").attributes or {}
    assert (attributes[Attr.GEN_AI_INPUT_TOKENS], attributes[Attr.GEN_AI_OUTPUT_TOKENS]) == (1010, 202)
    assert [(cost.agent, cost.usage.input_tokens) for cost in generation.costs] == [("coder", 1000), ("coder", 10)]


def test_what_the_program_repeats_is_ignored(recorder: Recorder, generation: Generation) -> None:
    """The instrumentation has told already, on the span below."""
    with recorder.spans.span("coder", kind="agent") as coder:
        chat(recorder)
        coder.record_usage(1000, 200, model="gpt-4o", provider="openai")
    assert len(generation.costs) == 1
    assert Attr.GEN_AI_INPUT_TOKENS not in (recorder.span("invoke_agent coder").attributes or {})


def test_a_program_tells_of_its_own_call_after_an_agents(recorder: Recorder, generation: Generation) -> None:
    """The agent has told of its call to the same model, perhaps of as many tokens: this one is another call."""
    with recorder.spans.span("pipeline", kind="chain") as pipeline:
        with recorder.spans.span("coder", kind="agent"):
            recorder.spans.record_usage(1000, 200, model="gpt-4o", provider="openai")
        pipeline.record_usage(1000, 200, model="gpt-4o", provider="openai")
    assert [(cost.agent, cost.usage.input_tokens) for cost in generation.costs] == [("coder", 1000), ("", 1000)]


def test_a_program_tells_of_a_call_that_no_instrumentation_saw(recorder: Recorder, generation: Generation) -> None:
    """One call of the model was instrumented, another was not: its figures are others."""
    with recorder.spans.span("coder", kind="agent") as coder:
        chat(recorder)
        coder.record_usage(77, 7, model="gpt-4o", provider="openai")
    assert [cost.usage.input_tokens for cost in generation.costs] == [1000, 77]


def test_a_program_repeats_a_sum_and_each_repetition_is_one(recorder: Recorder, generation: Generation) -> None:
    """The sum over two instrumented calls is no third call; telling of it again is."""
    with recorder.spans.span("coder", kind="agent") as coder:
        chat(recorder)
        chat(recorder)
        coder.record_usage(2000, 400, model="gpt-4o", provider="openai")
        assert len(generation.costs) == 2
        coder.record_usage(2000, 400, model="gpt-4o", provider="openai")
    assert [cost.usage.input_tokens for cost in generation.costs] == [1000, 1000, 2000]


def test_what_the_program_tells_counts_without_a_span(recorder: Recorder, generation: Generation) -> None:
    """Sampled out or with no span at all, money is money."""
    recorder.spans.record_usage(1000, 0, model="gpt-4o", provider="openai", cost_usd=Decimal("0.5"))
    assert generation.spent_usd == Decimal("0.5")


def test_a_stream_that_ends_elsewhere_finds_its_generation(recorder: Recorder, generation: Generation) -> None:
    """What was running at the start counts, though the span ends in a thread that knows of nothing."""
    with recorder.spans.span("coder", kind="agent"):
        span = recorder.tracers.get_tracer("mine").start_span("chat", attributes=CHAT)
    thread = threading.Thread(target=span.end)
    thread.start()
    thread.join()
    assert [(cost.agent, cost.amount_usd) for cost in generation.costs] == [("coder", PRICE)]


def test_a_thread_without_context_inherits_from_its_parent_span(recorder: Recorder, generation: Generation) -> None:
    """A span that names its parent finds the generation through it."""

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
def test_client_metrics_are_left_to_those_who_record_them(scope: str, recorded: bool, recorder: Recorder) -> None:
    """No call is in gen_ai.client.* twice; every call is in our own counters."""
    chat(recorder, scope=scope)
    labels = ("chat", "openai", "gpt-4o")
    usage = {key: point.sum for key, point in recorder.points(Metric.TOKEN_USAGE).items()}
    assert usage == ({(*labels, "input"): 1000, (*labels, "output"): 200} if recorded else {})
    assert list(recorder.points(Metric.LLM_DURATION)) == ([(*labels, None)] if recorded else [])
    assert sum(recorder.values(Metric.TOKENS).values()) == 1200


def test_a_failed_call_has_a_duration_and_no_cost(recorder: Recorder, generation: Generation) -> None:
    """Errors are in the client metrics by type."""
    tracer = recorder.tracers.get_tracer("mine")
    attributes = {Attr.GEN_AI_OPERATION: "chat", Attr.GEN_AI_SYSTEM: "openai", Attr.GEN_AI_REQUEST_MODEL: "gpt-4o"}
    span: Span = tracer.start_span("chat", attributes={**attributes, Attr.ERROR_TYPE: "APITimeoutError"})
    span.set_status(Status(StatusCode.ERROR))
    span.end()
    assert list(recorder.points(Metric.LLM_DURATION)) == [("chat", "openai", "gpt-4o", "APITimeoutError")]
    assert generation.costs == []


@pytest.mark.parametrize("value", [{"a": 1}, ["x"], 7, True])
def test_strange_attributes_harm_nobody(value: Any, recorder: Recorder) -> None:
    """Attributes may be of any type and come from anybody."""
    chat(recorder, **dict.fromkeys(CHAT, value))
    assert len(recorder.ended) == 1


def test_spans_that_never_end_are_forgotten(recorder: Recorder) -> None:
    """The table of running spans is bounded, and the newest still work."""
    tracer = recorder.tracers.get_tracer("leak")
    leaked = [tracer.start_span("never") for _ in range(25_000)]
    chat(recorder)
    assert sum(recorder.values(Metric.TOKENS).values()) == 1200
    leaked[0].end()


async def test_pricing_does_not_stall_the_loop(recorder: Recorder) -> None:
    """The price table is loaded at the start, so that the first model call is as quick as the next."""
    longest = 0.0
    loop = asyncio.get_running_loop()
    for _ in range(20):
        started = loop.time()
        chat(recorder)
        longest = max(longest, loop.time() - started)
        await asyncio.sleep(0)
    assert longest < 0.1


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, TraceIdRatioBased(0.0)])
def test_agents_that_are_sampled_out_are_still_timed(sampler: Any, generation: Generation) -> None:
    """Metrics, steps and told usage do not depend on sampling."""
    recorder = Recorder(sampler=sampler)
    with recorder.spans.span("coder", kind="agent") as coder:
        coder.record_usage(1000, 0, model="gpt-4o", provider="openai")
    assert recorder.ended == ()
    assert recorder.points(Metric.AGENT_DURATION)["coder", "agent", None].count == 1
    assert ([step.name for step in generation.steps], len(generation.costs)) == (["coder"], 1)
    recorder.close()


@pytest.mark.parametrize("name", [Attr.GEN_AI_FIRST_CHUNK_S, Attr.FIRST_CHUNK_S])
def test_the_pace_of_a_stream(name: str, recorder: Recorder) -> None:
    """The time to the first chunk, and the tokens a second from there on."""
    span = recorder.tracers.get_tracer("mine").start_span("chat", attributes={**CHAT, name: 1.0}, start_time=10**9)
    span.end(6 * 10**9)
    (first,) = recorder.points(Metric.FIRST_CHUNK).values()
    (rate,) = recorder.points(Metric.TOKEN_RATE).values()
    assert (first.sum, rate.sum) == (1.0, 200 / 4.0)


@pytest.mark.parametrize("said", [True, -1.0, "soon"])
def test_a_first_chunk_that_is_no_time(said: Any, recorder: Recorder) -> None:
    """Attributes come from anybody; the rate is then that of the whole call."""
    attributes = {**CHAT, Attr.GEN_AI_FIRST_CHUNK_S: said}
    recorder.tracers.get_tracer("mine").start_span("chat", attributes=attributes, start_time=10**9).end(5 * 10**9)
    assert recorder.points(Metric.FIRST_CHUNK) == {}
    assert recorder.points(Metric.TOKEN_RATE)["gpt-4o",].sum == 50.0
