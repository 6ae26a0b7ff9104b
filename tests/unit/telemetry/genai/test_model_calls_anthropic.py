"""The real anthropic client with either of its OpenTelemetry instrumentations, against a small stand-in over HTTP.

Its own counts leave out cached tokens; the instrumentations add them, and name them differently.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anthropic
import pytest
from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor as FormerInstrumentor
from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor
from tests.unit.telemetry.provider import Provider, serving
from tests.unit.telemetry.recorder import Recorder

from forge_otel.context import Generation
from forge_otel.names import Metric
from forge_otel.types import Cost, Usage

MODEL = "claude-sonnet-4-6"
USAGE = {
    "input_tokens": 600,
    "cache_read_input_tokens": 4000,
    "cache_creation_input_tokens": 1000,
    "output_tokens": 200,
}
QUESTION: Any = {"model": MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": "a button"}]}
# 600 tokens at 3, 4000 read at 0.30, 1000 written at 3.75 and 200 at 15 USD per million.
COST = Cost(
    api="anthropic",
    model=MODEL,
    agent="coder",
    usage=Usage(input_uncached=600, cache_read=4000, cache_write=1000, output=200),
    amount_usd=Decimal("0.00975"),
)


class Anthropic(Provider):
    """Answers messages, streamed on request; refuses the model "broken"."""

    def respond(self, request: dict[str, Any]) -> None:
        """Answer."""
        if request["model"] == "broken":
            error = {"type": "not_found_error", "message": "no such model"}
            self.reply(404, "application/json", json.dumps({"type": "error", "error": error}))
        elif request.get("stream"):
            lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in self.events()]
            self.reply(200, "text/event-stream", "".join(lines))
        else:
            content = [{"type": "text", "text": "<button/>"}]
            message = {**self.message(), "content": content, "stop_reason": "end_turn", "usage": USAGE}
            self.reply(200, "application/json", json.dumps(message))

    def message(self) -> dict[str, Any]:
        """Return a message without contents."""
        return {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [],
            "stop_sequence": None,
        }

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream consists of."""
        begun = {**self.message(), "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
        yield {"type": "message_start", "message": begun}
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        for text in ("<but", "ton/>"):
            yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        yield {"type": "content_block_stop", "index": 0}
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": USAGE["output_tokens"]}}
        yield {"type": "message_stop"}


@pytest.fixture
def base_url() -> Iterator[str]:
    """The address of the stand-in."""
    with serving(Anthropic) as url:
        yield url


@pytest.fixture(params=[AnthropicInstrumentor, FormerInstrumentor], ids=["present", "former"])
def instrumented(request: pytest.FixtureRequest, recorder: Recorder) -> Iterator[Recorder]:
    """A recorder that the instrumented client writes to."""
    instrumentor = request.param()
    instrumentor.instrument(tracer_provider=recorder.tracers, meter_provider=recorder.meters)
    yield recorder
    instrumentor.uninstrument()


def test_a_plain_call_is_counted_once(instrumented: Recorder, generation: Generation, base_url: str) -> None:
    """Below its agent, its cached tokens at their own price, all of them in the metric once."""
    with (
        instrumented.spans.span("coder", kind="agent"),
        anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0) as client,
    ):
        assert client.messages.create(**QUESTION).content[0].text == "<button/>"
    assert generation.costs == [COST]
    assert sum(instrumented.values(Metric.TOKENS).values()) == 5800


async def test_a_stream_is_counted_at_its_end(instrumented: Recorder, generation: Generation, base_url: str) -> None:
    """Its first event has the tokens that were sent, its last but one those that came."""
    async with (
        instrumented.spans.span("coder", kind="agent"),
        anthropic.AsyncAnthropic(api_key="k", base_url=base_url, max_retries=0) as client,
    ):
        stream = await client.messages.create(**QUESTION, stream=True)
        assert generation.costs == []
        text = "".join([event.delta.text async for event in stream if event.type == "content_block_delta"])
    assert text == "<button/>"
    # The former one adds the token of the first event to the total that is in the last one.
    former = replace(COST, usage=replace(COST.usage, output=201), amount_usd=COST.amount_usd + Decimal("0.000015"))
    assert generation.costs in ([COST], [former])


def test_a_refused_call_costs_nothing(instrumented: Recorder, generation: Generation, base_url: str) -> None:
    """The error reaches the caller and the spans, no cost reaches the generation."""

    @instrumented.spans.agent
    def coder() -> None:
        with anthropic.Anthropic(api_key="k", base_url=base_url, max_retries=0) as client:
            client.messages.create(**QUESTION | {"model": "broken"})

    with pytest.raises(anthropic.NotFoundError):
        coder()
    assert generation.costs == []
    assert instrumented.values(Metric.TOKENS) == {}
    assert generation.steps[0].error_type == "NotFoundError"
