"""The sampler of the tracer providers created here.

Cost is counted independently of sampling: spans that may have usage are recorded even if they are not exported.
"""

from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from forge_otel.telemetry.sampling.probability import is_kept_upstream, randomness, threshold, with_threshold

__all__ = ["RecordingSampler"]

_ENTRANCES: Final = frozenset({SpanKind.SERVER, SpanKind.CONSUMER, SpanKind.PRODUCER})
# A span that starts with any of these belongs to an instrumentation without model calls.
_OTHER_INSTRUMENTATIONS: Final = frozenset(
    {"http.request.method", "http.method", "http.url", "url.full", "db.system", "db.system.name"}
    | {"messaging.system", "rpc.system", "rpc.system.name"}
)


class RecordingSampler(Sampler):
    """Records spans that may have usage, where the inner sampler would drop them.

    Args:
        inner: decides which spans are sampled.
        rate: fraction (0-1) of traces that the tail sampler keeps, announced to downstream services.
    """

    def __init__(self, inner: Sampler, *, rate: float = 1.0) -> None:
        self._inner = inner
        self._threshold = None if rate >= 1 else threshold(rate)

    def should_sample(  # noqa: PLR0917 - OpenTelemetry's signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return the inner sampler's decision, with `RECORD_ONLY` in place of `DROP`."""
        result = self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is Decision.DROP:
            if kind in _ENTRANCES or (attributes and not _OTHER_INSTRUMENTATIONS.isdisjoint(attributes)):
                return result
            # Spans of model calls and of the agents around them are among these, and their usage is read when they end.
            return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)
        if self._threshold is None or result.decision is not Decision.RECORD_AND_SAMPLE:
            return result
        parent = get_current_span(parent_context).get_span_context()
        # The local parent has set the threshold, and its children inherit the tracestate.
        if parent.is_valid and not parent.is_remote:
            return result
        return SamplingResult(result.decision, result.attributes, self._state(trace_id, result.trace_state))

    def get_description(self) -> str:
        """Return the name of this sampler and of the inner one."""
        return f"RecordingSampler{{{self._inner.get_description()}}}"

    def _state(self, trace_id: int, state: TraceState | None) -> TraceState | None:
        if is_kept_upstream(trace_id, state):
            # The caller's rate is higher, or equal: its traces include those that our rate keeps.
            return state
        is_kept = self._threshold is not None and randomness(trace_id, state) >= self._threshold
        return with_threshold(state, self._threshold if is_kept else None)
