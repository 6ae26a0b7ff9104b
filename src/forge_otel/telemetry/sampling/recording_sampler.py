"""The sampler of the tracer providers that are made here.

Money is counted whatever is sampled: a model call that nobody exports is still recorded (`RECORD_ONLY`), with the
agents around it, so that its usage can be read. What is plainly not about models (a request that came in, HTTP, a
database) is left to the sampler behind, and costs nothing where that says no.
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
# A span that starts with any of these is of an instrumentation that makes no model calls.
_OTHERS: Final = frozenset(
    {"http.request.method", "http.method", "http.url", "url.full", "db.system", "db.system.name"}
    | {"messaging.system", "rpc.system", "rpc.system.name"}
)


class RecordingSampler(Sampler):
    """Records what may tell of money, where the sampler behind would drop it.

    Args:
        behind: decides what is sampled.
        rate: of all traces that are certainly kept later; services further down are told.
    """

    def __init__(self, behind: Sampler, *, rate: float = 1.0) -> None:
        self._behind = behind
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
        """Decide as the sampler behind does, but record instead of dropping."""
        result = self._behind.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is Decision.DROP:
            if kind in _ENTRANCES or (attributes and not _OTHERS.isdisjoint(attributes)):
                return result
            return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)
        if self._threshold is None or result.decision is not Decision.RECORD_AND_SAMPLE:
            return result
        parent = get_current_span(parent_context).get_span_context()
        if parent.is_valid and not parent.is_remote:
            return result
        return SamplingResult(result.decision, result.attributes, self._state(trace_id, result.trace_state))

    def get_description(self) -> str:
        """Name it and what is behind it."""
        return f"RecordingSampler{{{self._behind.get_description()}}}"

    def _state(self, trace_id: int, state: TraceState | None) -> TraceState | None:
        if is_kept_upstream(trace_id, state):
            # A larger share than ours: all that we keep for our rate is in it.
            return state
        is_kept = self._threshold is not None and randomness(trace_id, state) >= self._threshold
        return with_threshold(state, self._threshold if is_kept else None)
