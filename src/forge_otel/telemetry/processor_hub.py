"""One span processor a tracer provider, behind which ours come and go.

OpenTelemetry can add a span processor but not remove one. So a provider gets a `ProcessorHub` once, and what stands
behind it is exchanged: after the last `Telemetry` is shut down, an empty tuple is all that is left in the provider.
"""

import logging
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.util.types import AnyValue

__all__ = [
    "AcceptsProcessors",
    "ForwardingProcessor",
    "ProcessorHub",
    "SingletonProcessor",
    "attributes_of",
    "processor_hub",
]

logger = logging.getLogger(__name__)


@runtime_checkable
class AcceptsProcessors(Protocol):
    """A tracer provider that span processors can be added to."""

    def add_span_processor(self, span_processor: SpanProcessor, /) -> None:
        """Add a processor, for good."""
        ...


def attributes_of(span: ReadableSpan) -> Mapping[str, AnyValue]:
    """Return a copy of the attributes of `span`.

    A look into the attributes themselves goes through two wrappers, each some ten times as slow as a dictionary.
    """
    attributes = span.attributes
    if isinstance(attributes, MappingProxyType):
        return attributes.copy()
    return dict(attributes or {})


class SingletonProcessor(SpanProcessor):
    """A processor of which a provider runs only the oldest, so that what it does to a span happens once.

    Two `Telemetry` objects on the application's provider would otherwise count each model call twice.
    """


class ProcessorHub(SpanProcessor):
    """Passes spans on to the processors that are attached at the time."""

    def __init__(self) -> None:
        self._attached: tuple[SpanProcessor, ...] = ()
        # Only those that have something to do, because this is on the way of every span of the process.
        self._starting: tuple[SpanProcessor, ...] = ()
        self._ending: tuple[SpanProcessor, ...] = ()
        # Shutting down may end spans, which comes back here.
        self._lock = threading.RLock()

    def attach(self, processor: SpanProcessor) -> None:
        """Send spans to `processor` from now on."""
        with self._lock:
            self._attached = (*self._attached, processor)
            self.choose(set())

    def detach(self, processor: SpanProcessor) -> None:
        """Send `processor` nothing more; it is not shut down."""
        with self._lock:
            self._attached = tuple(item for item in self._attached if item is not processor)
            self.choose(set())

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Pass a started span on."""
        for processor in self._starting:
            try:
                processor.on_start(span, parent_context)
            except Exception:
                _report(processor)

    def on_end(self, span: ReadableSpan) -> None:
        """Pass an ended span on."""
        for processor in self._ending:
            try:
                processor.on_end(span)
            except Exception:
                _report(processor)

    @property
    def running(self) -> tuple[SpanProcessor, ...]:
        """Those that ended spans are passed on to."""
        return self._ending

    def shutdown(self) -> None:
        """Shut down what is attached; the provider is going away."""
        for processor in self._attached:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush what is attached."""
        flushed = [processor.force_flush(timeout_millis) for processor in self._attached]
        return all(flushed)

    def choose(self, taken: set[type]) -> None:
        """Settle which processors run.

        Args:
            taken: the exclusive ones of which another runs already; those that run here are added.
        """
        running: list[SpanProcessor] = []
        for processor in self._attached:
            if isinstance(processor, ForwardingProcessor):
                processor.behind.choose(taken)
            if isinstance(processor, SingletonProcessor):
                if type(processor) in taken:
                    continue
                taken.add(type(processor))
            running.append(processor)
        self._starting = tuple(item for item in running if type(item).on_start is not SpanProcessor.on_start)
        self._ending = tuple(item for item in running if type(item).on_end is not SpanProcessor.on_end)


class ForwardingProcessor(SpanProcessor):
    """A processor that passes spans on, later or not at all, to a switchboard of its own."""

    def __init__(self) -> None:
        self.behind = ProcessorHub()
        """Whose exclusive processors count with those around it."""


def _report(processor: SpanProcessor) -> None:
    # OpenTelemetry lets what a processor raises reach the application's code.
    logger.exception("%s failed and was passed over", type(processor).__name__)


_switchboards: WeakKeyDictionary[trace.TracerProvider, ProcessorHub] = WeakKeyDictionary()
_lock = threading.Lock()


def processor_hub(provider: trace.TracerProvider) -> ProcessorHub | None:
    """Return the switchboard of `provider`, None where the provider takes no processors."""
    with _lock:
        board = _switchboards.get(provider)
        if board is None and isinstance(provider, AcceptsProcessors):
            board = _switchboards[provider] = ProcessorHub()
            provider.add_span_processor(board)
        return board
