"""A tracer that can be handed out before it is known where its spans go."""

from typing import Any

from opentelemetry.trace import NoOpTracer, Span, Tracer

__all__ = ["ProxyTracer"]


class ProxyTracer(Tracer):
    """Passes everything on to the tracer that it is bound to; until then nothing is recorded.

    Layers are built before anything is opened, and the application may set its providers in between.
    """

    def __init__(self) -> None:
        self.bound: Tracer = NoOpTracer()
        """The tracer behind this one; for a hot path that can spare the detour."""

    def bind(self, tracer: Tracer | None) -> None:
        """Start spans with `tracer` from now on, None for none."""
        self.bound = tracer or NoOpTracer()

    def start_span(self, *args: Any, **options: Any) -> Span:
        """Start a span; see `opentelemetry.trace.Tracer`."""
        return self.bound.start_span(*args, **options)

    def start_as_current_span(self, *args: Any, **options: Any) -> Any:
        """Start a span for a block; see `opentelemetry.trace.Tracer`."""
        return self.bound.start_as_current_span(*args, **options)
