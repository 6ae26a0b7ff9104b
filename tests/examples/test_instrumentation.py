"""Model calls become spans of OpenTelemetry's instrumentation, with token usage."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from componentforge.instrumentation import find_instrumentor, instrument_openai
from componentforge.llm import LanguageModel, Message, UnusableAnswer
from componentforge.offline_llm.wire import Completion
from componentforge.serving import serve
from componentforge.settings import ServiceSettings

QUESTION = Message(role="user", content="hello, what are you?")


class Endless:
    """A model whose answer never ends; `is_read` is set when more was sent than any socket buffer holds."""

    def __init__(self) -> None:
        self.is_read = asyncio.Event()
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, _request: Request) -> Response:
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        completion = Completion(id="chatcmpl-1", created_s=0, prompt="", text="")
        event = f"data: {json.dumps(completion.chunk({'content': 'x' * 2**18}))}\n\n"
        for number in itertools.count():
            if number * len(event) > 2**25:
                self.is_read.set()
            yield event
            await asyncio.sleep(0)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Instrument the client with a provider of the test."""
    instrumentor = find_instrumentor()
    if instrumentor is None:
        pytest.skip("no installed instrumentation of openai can be imported")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()
    provider.shutdown()


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    """Return the only span."""
    (span,) = spans.get_finished_spans()
    return span


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_call_is_a_span_with_usage(spans: InMemorySpanExporter, llm: LanguageModel, streamed: bool) -> None:
    """The span is a client span named after operation and model, with both token counts."""
    answer = await (llm.ask_streaming(QUESTION) if streamed else llm.ask_json(QUESTION))
    span = only(spans)
    attributes = dict(span.attributes or {})
    assert (span.name, span.kind) == ("chat forge-offline-1", SpanKind.CLIENT)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.response.model"] == "forge-offline-1"
    assert attributes["gen_ai.usage.input_tokens"] == 5
    assert attributes["gen_ai.usage.output_tokens"] == -(-len(answer) // 4)


async def test_a_failed_call_is_an_error(spans: InMemorySpanExporter, llm: LanguageModel) -> None:
    """The span of a rejected call has the error status."""
    llm.name = "no-such-model"
    with pytest.raises(UnusableAnswer):
        await llm.ask_streaming(QUESTION)
    assert only(spans).status.status_code is StatusCode.ERROR


async def test_a_cancelled_stream_ends_its_span(spans: InMemorySpanExporter) -> None:
    """Cancelling during a stream ends the span."""
    endless = Endless()
    async with serve(endless.app) as url:
        settings = ServiceSettings.from_env({}, offline_url=f"{url}/v1", figma_url="")
        async with LanguageModel(settings) as llm:
            asking = asyncio.create_task(llm.ask_streaming(QUESTION))
            await asyncio.wait_for(endless.is_read.wait(), timeout=10)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
    span = only(spans)
    assert span.name == "chat forge-offline-1"
    assert span.end_time is not None


def test_instrumenting_twice_has_no_effect(spans: InMemorySpanExporter) -> None:
    """A process may create several applications."""
    assert instrument_openai()
    assert spans.get_finished_spans() == ()
