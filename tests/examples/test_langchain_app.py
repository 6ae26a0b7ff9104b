"""LangChain inside an agent: one trace, and each model call counted once."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import langchain_app
from forge_otel import Forge, GenerationRequest, Settings
from forge_otel.context import Identity, bind_identity
from forge_otel.names import Attr
from forge_otel.telemetry.providers import Telemetry

ASKED = GenerationRequest(component_type="button", figma_key="k")


class Site:
    """A forge on the providers that LangChain uses."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers, self.meters = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        settings = Settings(
            archive_url=None, database_url=None, outbox_dir=None, trace_spool_dir=None, prices=langchain_app.PRICES
        )
        self.forge = Forge(
            settings, telemetry=Telemetry(settings, tracer_provider=self.tracers, meter_provider=self.meters)
        )

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """Return the ended spans by name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def site() -> Iterator[Site]:
    """A site with both LangChain and OpenAI instrumented, as is common in services."""
    made = Site()
    instrumentors: list[Any] = [LangChainInstrumentor(), OpenAIInstrumentor()]
    for instrumentor in instrumentors:
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
        instrumentor.instrument(tracer_provider=made.tracers, meter_provider=made.meters)
    yield made
    for instrumentor in instrumentors:
        instrumentor.uninstrument()
    made.meters.shutdown()
    made.tracers.shutdown()


async def test_the_chain_joins_the_trace_and_is_priced_once(site: Site, llm_url: str) -> None:
    """Every span is a descendant of the generation with user and component type, and the call is priced once."""
    chain = langchain_app.make_chain(f"{llm_url}/v1")
    with bind_identity(Identity(user_id="ann", session_id="s1")):
        async with site.forge:
            result = await langchain_app.states(ASKED, chain)
    assert "offline" in result.code
    root = site.spans["invoke_workflow states"]
    calls = [span for span in site.exporter.get_finished_spans() if Attr.GEN_AI_INPUT_TOKENS in (span.attributes or {})]
    assert calls
    for span in site.exporter.get_finished_spans():
        assert span.context.trace_id == root.context.trace_id
        assert (span.attributes or {})[Attr.USER_ID] == "ann"
        assert (span.attributes or {})[Attr.SESSION_ID] == "s1"
        assert (span.attributes or {})[Attr.COMPONENT_TYPE] == "button"
    innermost = calls[0].attributes or {}
    expected = innermost[Attr.GEN_AI_INPUT_TOKENS] * 2.5e-6 + innermost[Attr.GEN_AI_OUTPUT_TOKENS] * 1e-5  # type: ignore[operator]
    assert float(result.cost_usd) == pytest.approx(expected)
    assert expected > 0


async def test_a_cache_hit_makes_no_model_call(site: Site, llm_url: str) -> None:
    """The second answer has no cost, and LangChain is not called."""
    chain = langchain_app.make_chain(f"{llm_url}/v1")
    async with site.forge:
        first = await langchain_app.states(ASKED, chain)
        spans = len(site.exporter.get_finished_spans())
        second = await langchain_app.states(ASKED, chain)
    assert (second.source, second.code) == ("L1", first.code)
    assert len(site.exporter.get_finished_spans()) == spans + 1
    assert second.saved_usd == first.cost_usd
