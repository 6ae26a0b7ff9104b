"""A span processor that stays in a tracer provider, and forwards spans to processors that can be attached and detached.

OpenTelemetry can add a span processor to a provider but not remove one. A provider therefore gets one `ProcessorHub`;
after the last `Telemetry` is shut down, the hub has no processors and costs an empty loop.
"""

import logging
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.util.types import AnyValue

from forge_otel._internal.per_object import PerObject

__all__ = [
    "AcceptsProcessors",
    "ForwardingProcessor",
    "ProcessorHub",
    "SingletonProcessor",
    "attributes_of",
]

_logger = logging.getLogger(__name__)


# A Protocol and not the SDK's class: the providers of Logfire, and other wrappers, derive from the API's class only.
@runtime_checkable
class AcceptsProcessors(Protocol):
    """A tracer provider that accepts span processors."""

    def add_span_processor(self, span_processor: SpanProcessor, /) -> None:
        """Add a processor, which cannot be removed again."""
        ...


def attributes_of(span: ReadableSpan) -> Mapping[str, AnyValue]:
    """Return a copy of the attributes of `span`, as a dictionary where that is possible."""
    attributes = span.attributes
    # Each lookup in the original passes two wrappers, which take about ten times as long as a dictionary.
    if isinstance(attributes, MappingProxyType):
        return attributes.copy()
    return dict(attributes or {})


class SingletonProcessor(SpanProcessor):
    """A processor that runs once per provider: of several attached instances of a class, the oldest."""


class ProcessorHub(SpanProcessor):
    """Forwards spans to the attached processors; an error in one is logged and does not reach the application."""

    def __init__(self) -> None:
        self._attached: tuple[SpanProcessor, ...] = ()
        # Processors that override the callback; the hub runs for every span of the process.
        self._starting: tuple[SpanProcessor, ...] = ()
        self._ending: tuple[SpanProcessor, ...] = ()
        # Reentrant, because shutting down a processor may end spans, which come back here.
        self._lock = threading.RLock()

    @classmethod
    def of(cls, provider: trace.TracerProvider) -> "ProcessorHub | None":
        """Return the hub of `provider`, added on first use; None if the provider does not accept processors."""
        return _HUBS.get(provider) if isinstance(provider, AcceptsProcessors) else None

    @property
    def running(self) -> tuple[SpanProcessor, ...]:
        """The processors that receive ended spans."""
        return self._ending

    def attach(self, processor: SpanProcessor) -> None:
        """Start forwarding spans to `processor`."""
        with self._lock:
            self._attached = (*self._attached, processor)
            self.select(set())

    def detach(self, processor: SpanProcessor) -> None:
        """Stop forwarding spans to `processor`, without shutting it down."""
        with self._lock:
            self._attached = tuple(item for item in self._attached if item is not processor)
            self.select(set())

    def select(self, claimed: set[type]) -> None:
        """Choose the processors that run.

        Args:
            claimed: the singleton classes of which an instance runs already; those that run here are added.
        """
        running: list[SpanProcessor] = []
        for processor in self._attached:
            if isinstance(processor, ForwardingProcessor):
                processor.downstream.select(claimed)
            if isinstance(processor, SingletonProcessor):
                # Two Telemetry objects on the application's provider would count each model call twice.
                if type(processor) in claimed:
                    continue
                claimed.add(type(processor))
            running.append(processor)
        self._starting = tuple(item for item in running if type(item).on_start is not SpanProcessor.on_start)
        self._ending = tuple(item for item in running if type(item).on_end is not SpanProcessor.on_end)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Forward a started span."""
        for processor in self._starting:
            try:
                processor.on_start(span, parent_context)
            except Exception:
                _log_failure(processor)

    def on_end(self, span: ReadableSpan) -> None:
        """Forward an ended span."""
        for processor in self._ending:
            try:
                processor.on_end(span)
            except Exception:
                _log_failure(processor)

    def shutdown(self) -> None:
        """Shut down the attached processors, as the provider is shut down."""
        for processor in self._attached:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the attached processors and return whether all succeeded."""
        flushed = [processor.force_flush(timeout_millis) for processor in self._attached]
        return all(flushed)


class ForwardingProcessor(SpanProcessor):
    """A processor that forwards some spans, perhaps later, to a hub of its own."""

    def __init__(self) -> None:
        self.downstream = ProcessorHub()
        """Its singleton processors count together with those of the hub around this processor."""


def _log_failure(processor: SpanProcessor) -> None:
    # The SDK would let the exception reach the code that ended the span.
    _logger.exception("span processor %s failed and was skipped", type(processor).__name__)


def _add_hub(provider: AcceptsProcessors) -> ProcessorHub:
    hub = ProcessorHub()
    provider.add_span_processor(hub)
    return hub


# Shared by every Telemetry of the process: a provider neither lists nor removes its processors, so that a second
# Telemetry could not find the hub there, and would add one more each time it is opened.
_HUBS: Final[PerObject[AcceptsProcessors, ProcessorHub]] = PerObject(_add_hub)
