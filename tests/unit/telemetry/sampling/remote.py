"""Parents in other processes, and trace ids on both sides of every sampling rate."""

from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

# The lowest 56 bits of a trace id are its randomness: kept at any rate above 0, and at none below 1.
ALWAYS_KEPT: Final = (7 << 100) | (2**56 - 1)
NEVER_KEPT: Final = 7 << 100


def remote_parent(trace_id: int, *, state: TraceState | None = None, flags: int = 1) -> Any:
    """Return a context whose current span is in another process."""
    context = SpanContext(trace_id, 99, is_remote=True, trace_flags=TraceFlags(flags), trace_state=state)
    return trace.set_span_in_context(NonRecordingSpan(context))
