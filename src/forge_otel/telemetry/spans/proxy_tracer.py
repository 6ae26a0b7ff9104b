"""A tracer that can be used before its provider is known."""

from typing import Any

from opentelemetry.trace import NoOpTracer, Span, Tracer

__all__ = ["ProxyTracer"]


class ProxyTracer(Tracer):
    """Delegates to the tracer that it is bound to, by default a no-op.

    Layers are built before the telemetry is started, and the application may set its provider in between.
    """

    def __init__(self) -> None:
        self.bound: Tracer = NoOpTracer()
        """The bound tracer; hot paths call it directly."""

    def bind(self, tracer: Tracer | None) -> None:
        """Delegate to `tracer`, or to a no-op for None."""
        self.bound = tracer or NoOpTracer()

    def start_span(self, *args: Any, **options: Any) -> Span:
        """Start a span; see `opentelemetry.trace.Tracer`."""
        return self.bound.start_span(*args, **options)

    def start_as_current_span(self, *args: Any, **options: Any) -> Any:
        """Start a span for a block; see `opentelemetry.trace.Tracer`."""
        return self.bound.start_as_current_span(*args, **options)
