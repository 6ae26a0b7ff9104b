"""One span per generation, with the layer that answered, the cost, and the error."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from opentelemetry.trace import StatusCode, format_trace_id
from tests.unit.telemetry.recorder import Recorder, button_call

from forge_otel.context import Generation, current_generation
from forge_otel.layers.tracing import TracingLayer
from forge_otel.names import Attr
from forge_otel.types import Call, Cost, GenerationResult, Reply


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A recorder with default settings."""
    opened = Recorder()
    yield opened
    opened.close()


@pytest.fixture
def generation() -> Iterator[Generation]:
    """The running generation."""
    running = Generation(id="g", started_at=datetime.now(UTC), started_s=0.0)
    token = current_generation.set(running)
    yield running
    current_generation.reset(token)


async def test_the_span_has_the_answer_and_the_cost(recorder: Recorder, generation: Generation) -> None:
    """It also has miss reasons and fallbacks, and the generation gets its trace id."""

    async def answer(_call: Call) -> Reply:
        generation.record_cost(Cost(api="openai", amount_usd=Decimal("0.42")))
        generation.record_miss("L1", "cold")
        generation.record_degraded("redis:uncached")
        return Reply(result=GenerationResult(code="x"), origin_id="g")

    await TracingLayer(recorder.telemetry)(button_call(), answer)
    span = recorder.span("invoke_workflow p")
    attributes = span.attributes or {}
    assert (attributes[Attr.CACHE_LAYER], attributes[Attr.COST_USD], attributes[Attr.GENERATION_ID]) == (
        "L4",
        0.42,
        "g",
    )
    assert attributes[f"{Attr.CACHE_MISS_REASON}.L1"] == "cold"
    assert attributes[Attr.DEGRADED] == ("redis:uncached",)
    assert generation.trace_id == format_trace_id(span.context.trace_id)


@pytest.mark.parametrize("error", [ValueError("secret"), asyncio.CancelledError()])
async def test_errors_and_cancellations_fail_the_span(recorder: Recorder, error: BaseException) -> None:
    """The type is recorded; the message is not, unless contents may be captured."""

    async def fail(_call: Call) -> Reply:
        raise error

    with pytest.raises(type(error)):
        await TracingLayer(recorder.telemetry)(button_call(), fail)
    span = recorder.span("invoke_workflow p")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})[Attr.ERROR_TYPE] == type(error).__name__
    assert "secret" not in span.to_json()
