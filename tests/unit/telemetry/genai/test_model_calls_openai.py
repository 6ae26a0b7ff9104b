"""Tests with the real OpenAI client and its OpenTelemetry instrumentation, against a local server."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from tests.unit.telemetry.provider import Provider, serving
from tests.unit.telemetry.recorder import Recorder

from forge_otel.context import Generation
from forge_otel.names import Metric
from forge_otel.types import Cost, Usage

USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "total_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 50},
}
QUESTION: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a button"}]}
# 600 tokens at 2.5, 400 cached at 1.25 and 200 at 10 USD per million.
COST = Cost(
    api="openai",
    model="gpt-4o",
    agent="coder",
    usage=Usage(input_uncached=600, cache_read=400, output=150, reasoning=50),
    amount_usd=Decimal("0.004"),
)


class OpenAI(Provider):
    """Serves chat completions, streamed on request; rejects the model `broken`."""

    def respond(self, request: dict[str, Any]) -> None:
        """Answer."""
        if request["model"] == "broken":
            self.reply(400, "application/json", json.dumps({"error": {"message": "no such model"}}))
        elif request.get("stream"):
            deltas: list[dict[str, Any]] = [{"content": "<but"}, {"content": "ton/>"}]
            chunks = [self.answer("chat.completion.chunk", "delta", delta) for delta in deltas]
            lines = [json.dumps(chunk) for chunk in [*chunks, {**chunks[0], "choices": [], "usage": USAGE}]]
            self.reply(200, "text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]))
        else:
            message = {"role": "assistant", "content": "<button/>"}
            body = {**self.answer("chat.completion", "message", message), "usage": USAGE}
            self.reply(200, "application/json", json.dumps(body))

    def answer(self, kind: str, part: str, value: dict[str, Any]) -> dict[str, Any]:
        """Return an answer or a chunk of one."""
        choice = {"index": 0, part: value, "finish_reason": "stop"}
        return {"id": "c1", "object": kind, "created": 1, "model": "gpt-4o-2024-08-06", "choices": [choice]}


@pytest.fixture
def base_url() -> Iterator[str]:
    """The address of the server."""
    with serving(OpenAI) as url:
        yield f"{url}/v1"


@pytest.fixture
def instrumented(recorder: Recorder) -> Iterator[Recorder]:
    """A recorder that the instrumented client records to."""
    instrumentor = OpenAIInstrumentor()
    # There is one instrumentation a process, and another test's application may have turned it on for good.
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    instrumentor.instrument(tracer_provider=recorder.tracers, meter_provider=recorder.meters)
    yield recorder
    instrumentor.uninstrument()


def ask(base_url: str, **options: Any) -> Any:
    """Send a blocking request with the real client."""
    with openai.OpenAI(api_key="k", base_url=base_url, max_retries=0) as client:
        return client.chat.completions.create(**{**QUESTION, **options})


def test_a_plain_call_is_counted_once(instrumented: Recorder, generation: Generation, base_url: str) -> None:
    """Under its agent, with its cost, once in each metric; a report of it adds nothing."""
    with instrumented.spans.span("coder", kind="agent") as agent:
        answer = ask(base_url)
        agent.record_usage(answer.usage.prompt_tokens, answer.usage.completion_tokens, model="gpt-4o")
    assert generation.costs == [COST]
    assert instrumented.span("chat gpt-4o").parent == instrumented.span("invoke_agent coder").context
    assert sum(instrumented.values(Metric.TOKENS).values()) == 1200
    calls = [metric.data.data_points for metric in instrumented.metrics() if metric.name == Metric.LLM_DURATION.name]
    assert [point.count for points in calls for point in points] == [1]


async def test_a_stream_is_counted_at_its_end(instrumented: Recorder, generation: Generation, base_url: str) -> None:
    """The last chunk has the usage."""
    async with (
        instrumented.spans.span("coder", kind="agent"),
        openai.AsyncOpenAI(api_key="k", base_url=base_url) as client,
    ):
        stream = await client.chat.completions.create(**QUESTION, stream=True, stream_options={"include_usage": True})
        assert generation.costs == []
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert (text, generation.costs) == ("<button/>", [COST])


def test_a_refused_call_costs_nothing(instrumented: Recorder, generation: Generation, base_url: str) -> None:
    """The caller and the spans have the error, the generation has no cost."""

    @instrumented.spans.agent
    def coder() -> None:
        ask(base_url, model="broken")

    with pytest.raises(openai.BadRequestError):
        coder()
    assert generation.costs == []
    assert instrumented.values(Metric.TOKENS) == {}
    assert generation.steps[0].error_type == "BadRequestError"


async def test_the_page_shows_both_scopes_as_one_family(instrumented: Recorder, base_url: str) -> None:
    """The instrumentation and forge-otel record the same token metric."""
    ask(base_url)
    instrumented.spans.record_usage(10, 2, model="local", provider="ours")
    text = (await instrumented.telemetry.prometheus.render())[0].decode()
    assert text.count("# TYPE gen_ai_client_token_usage histogram") == 1
    totals = [line for line in text.splitlines() if line.startswith("gen_ai_client_token_usage_sum")]
    assert sorted(float(line.rpartition(" ")[2]) for line in totals) == [2, 10, 200, 1000]
