"""Tests of the span processor that stays in a provider, and of the processors attached to it."""

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import NoOpTracerProvider

from forge_otel.telemetry.processor_hub import ForwardingProcessor, ProcessorHub, SingletonProcessor, attributes_of


class Ended(SpanProcessor):
    """Keeps the names of ended spans."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.names.append(span.name)


class Single(SingletonProcessor):
    """A singleton that keeps the names of ended spans."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.names.append(span.name)


class Failing(SpanProcessor):
    """Raises at the start and at the end of every span."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise ZeroDivisionError

    def on_end(self, span: ReadableSpan) -> None:
        raise ZeroDivisionError


def hub_of(provider: TracerProvider) -> ProcessorHub:
    """Return the hub of a provider that accepts processors."""
    hub = ProcessorHub.of(provider)
    assert hub is not None
    return hub


def end_span(provider: TracerProvider, name: str) -> None:
    """Start and end a span."""
    provider.get_tracer("t").start_span(name).end()


def test_a_provider_has_one_hub() -> None:
    """A second call finds the hub of the first; a provider without processors has none."""
    provider = TracerProvider(shutdown_on_exit=False)
    assert hub_of(provider) is hub_of(provider)
    assert hub_of(provider) is not hub_of(TracerProvider(shutdown_on_exit=False))
    assert ProcessorHub.of(NoOpTracerProvider()) is None


def test_processors_receive_spans_while_attached() -> None:
    """Detaching is what the SDK's providers cannot do."""
    provider = TracerProvider(shutdown_on_exit=False)
    hub, processor = hub_of(provider), Ended()
    end_span(provider, "before")
    hub.attach(processor)
    end_span(provider, "attached")
    hub.detach(processor)
    end_span(provider, "after")
    assert (processor.names, hub.running) == (["attached"], ())


def test_an_error_in_a_processor_reaches_neither_caller_nor_neighbor(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next processor runs."""
    provider = TracerProvider(shutdown_on_exit=False)
    hub, processor = hub_of(provider), Ended()
    hub.attach(Failing())
    hub.attach(processor)
    end_span(provider, "work")
    assert processor.names == ["work"]
    assert caplog.text.count("span processor Failing failed") == 2


def test_of_a_singleton_the_oldest_runs() -> None:
    """The next one takes over when it is detached."""
    provider = TracerProvider(shutdown_on_exit=False)
    hub, first, second = hub_of(provider), Single(), Single()
    hub.attach(first)
    hub.attach(second)
    end_span(provider, "one")
    hub.detach(first)
    end_span(provider, "two")
    assert (first.names, second.names) == (["one"], ["two"])


def test_singletons_behind_forwarding_processors_count_together() -> None:
    """A sampler in front of an exporter does not make a second exporter run."""
    hub, first, second = ProcessorHub(), ForwardingProcessor(), ForwardingProcessor()
    exporters = Single(), Single()
    first.downstream.attach(exporters[0])
    second.downstream.attach(exporters[1])
    hub.attach(first)
    hub.attach(second)
    assert (first.downstream.running, second.downstream.running) == ((exporters[0],), ())


def test_attributes_are_a_copy() -> None:
    """Of ended spans, whose attributes are read-only, and of spans without any."""
    span = ReadableSpan("s", attributes={"a": 1})
    copy = attributes_of(span)
    assert isinstance(copy, dict)
    copy["a"] = 2
    assert (attributes_of(span), attributes_of(ReadableSpan("s"))) == ({"a": 1}, {})
