"""Tail sampling: a trace is exported as a whole or not at all, decided when its local root span ends.

A local root is a span without a parent in this process: a request or a job. Traces with errors or fallbacks, slow and
expensive ones, and those that the calling service keeps are always kept; of ordinary traces a fraction is kept, the
same traces in every service (see `probability`). The reason is an attribute of the root. Spans that end after their
root follow its decision.

Undecided traces are limited in spans, bytes and age; the oldest one is decided early if a limit is exceeded. Metrics
are not sampled.
"""

import os
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanContext, StatusCode

from forge_otel._internal.bounded import BoundedMap
from forge_otel.names import Attr, Instrument, Metric
from forge_otel.telemetry.export.processor import ExportProcessor
from forge_otel.telemetry.metrics.instruments import Observe
from forge_otel.telemetry.processor_hub import ForwardingProcessor, attributes_of
from forge_otel.telemetry.sampling.probability import is_kept_upstream, randomness, threshold

__all__ = ["SamplingRules", "TailSampler", "TailStats", "sampling_instruments"]

_MAX_SPANS: Final = 50_000
_MAX_DECISIONS: Final = 20_000
_MAX_OPEN: Final = 100_000
_FALLBACKS: Final = frozenset({Attr.DEGRADED, Attr.FALLBACK})
# Memory of a span without its texts, and of an event; measured with tracemalloc on spans of 10 attributes.
_SPAN_BYTES: Final = 2_000
_EVENT_BYTES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRules:
    """Rules for keeping traces, and limits of the undecided ones.

    Args:
        rate: fraction (0-1) of ordinary traces to keep.
        slow_s: duration in seconds from which a local root is kept; None switches the rule off.
        expensive_usd: cost of its model calls from which a trace is kept; None switches the rule off.
        max_bytes: estimated size of the undecided spans.
        max_age_s: seconds that a trace may wait for the end of its root.
        max_spans: number of undecided spans.
    """

    rate: float = 1.0
    slow_s: float | None = None
    expensive_usd: float | None = None
    max_bytes: int = 64 * 2**20
    max_age_s: float = 900.0
    max_spans: int = _MAX_SPANS


@dataclass(frozen=True, slots=True, kw_only=True)
class TailStats:
    """Counts of decided traces, and the size of the undecided ones.

    Args:
        decided: number of traces by whether they were kept, and the reason.
    """

    decided: Mapping[tuple[bool, str], int]
    waiting_spans: int
    waiting_bytes: int


class _LocalTrace:
    """A local root with the spans that have ended below it."""

    __slots__ = ("cost_usd", "ended", "is_kept", "reason", "root_id", "since_s", "size_bytes", "state", "trace_id")

    def __init__(self, root: SpanContext) -> None:
        self.trace_id = root.trace_id
        self.root_id = root.span_id
        self.state = root.trace_state
        self.since_s = time.monotonic()
        self.ended: list[ReadableSpan] = []
        self.size_bytes = 0
        self.cost_usd = Decimal(0)
        # The reason to keep it, "" until there is one.
        self.reason = ""
        # None until it is decided.
        self.is_kept: bool | None = None


class TailSampler(ForwardingProcessor):
    """Buffers ended spans until their local root ends, and forwards those of kept traces.

    Args:
        rules: rules for keeping traces, and limits of the buffer.
    """

    def __init__(self, rules: SamplingRules) -> None:
        super().__init__()
        self._rules = rules
        self._threshold = threshold(rules.rate)
        self.reset()
        _reset_in_forked_child(self)

    def stats(self) -> TailStats:
        """Return the counts of decisions and the size of the buffer."""
        with self._lock:
            decided = MappingProxyType(dict(self._counts))
            return TailStats(decided=decided, waiting_spans=self._waiting, waiting_bytes=self._waiting_bytes)

    def note_cost(self, trace_id: int, amount_usd: Decimal) -> None:
        """Add the cost of a model call to its trace."""
        with self._lock:
            if (local := self._latest.get(trace_id)) is not None:
                local.cost_usd += amount_usd

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Assign the span to its local root."""
        context = span.get_span_context()
        if not context.trace_flags.sampled:
            return
        self.downstream.on_start(span, parent_context)
        with self._lock:
            local = self._local_trace(span, context)
            if local is None:
                return
            self._open[context.span_id] = local
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            released = self._expire() if local.root_id == context.span_id else ()
        self._forward(released)

    def on_end(self, span: ReadableSpan) -> None:
        """Buffer the span, or apply the decision about its trace; the end of the local root decides."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        released: list[ReadableSpan] = []
        with self._lock:
            local = self._open.pop(context.span_id, None)
            is_kept = self._decisions.get(context.trace_id) if local is None else local.is_kept
            if is_kept is None and local is not None:
                self._buffer(local, span)
                if context.span_id == local.root_id:
                    released = self._decide(local, root=span)
                elif self._waiting > self._rules.max_spans or self._waiting_bytes > self._rules.max_bytes:
                    released = self._decide(next(iter(self._undecided.values())), early="evicted")
            elif is_kept is False:
                self._count_sampled_out(1)
            elif local is not None and context.span_id == local.root_id:
                released = [_with_reason(span, local.reason)]
            else:
                # Kept, or of a trace that began before this sampler was attached, so that no decision will follow.
                released = [span]
        self._forward(released)

    def drain(self) -> None:
        """Decide every undecided trace on the spans received so far, before the exporters are shut down."""
        with self._lock:
            waiting = list(self._undecided.values())
            released = [span for local in waiting for span in self._decide(local, early="shutdown")]
        self._forward(released)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the exporters; undecided traces stay in the buffer."""
        return self.downstream.force_flush(timeout_millis)

    def _local_trace(self, span: Span, context: SpanContext) -> _LocalTrace | None:
        """Return the local trace of a started span; None if the trace was decided, which then applies to the span."""
        if span.parent is not None and not span.parent.is_remote:
            local = self._open.get(span.parent.span_id) or self._latest.get(context.trace_id)
            if local is not None or context.trace_id in self._decisions:
                return local
        local = _LocalTrace(context)
        self._undecided[context.span_id] = self._latest[context.trace_id] = local
        return local

    def _forward(self, spans: Sequence[ReadableSpan]) -> None:
        # Called without the lock, because an exporter may block or end spans.
        for span in spans:
            self.downstream.on_end(span)

    def _buffer(self, local: _LocalTrace, span: ReadableSpan) -> None:
        attributes = attributes_of(span)
        size = _size(span, attributes)
        local.ended.append(span)
        local.size_bytes += size
        self._waiting += 1
        self._waiting_bytes += size
        if span.status.status_code is StatusCode.ERROR:
            local.reason = "error"
        elif not local.reason and not _FALLBACKS.isdisjoint(attributes):
            local.reason = "fallback"

    def _decide(self, local: _LocalTrace, *, root: ReadableSpan | None = None, early: str = "") -> list[ReadableSpan]:
        """Decide `local` and return the spans to forward.

        Args:
            root: the ended root; None if the decision is early.
            early: the reason of an early decision.
        """
        self._undecided.pop(local.root_id, None)
        if self._latest.get(local.trace_id) is local:
            del self._latest[local.trace_id]
        local.reason = local.reason or self._reason(local, root)
        local.is_kept = bool(local.reason)
        self._counts[local.is_kept, local.reason or early or "rate"] += 1
        # Late spans of a trace with several local roots are forwarded if one of them was kept.
        self._decisions[local.trace_id] = local.is_kept or self._decisions.get(local.trace_id, False)
        self._waiting -= len(local.ended)
        self._waiting_bytes -= local.size_bytes
        ended, local.ended = local.ended, []
        if not local.is_kept:
            self._count_sampled_out(len(ended))
            return []
        return [_with_reason(span, local.reason) if span is root else span for span in ended]

    def _reason(self, local: _LocalTrace, root: ReadableSpan | None) -> str:
        rules = self._rules
        if rules.expensive_usd is not None and float(local.cost_usd) >= rules.expensive_usd:
            return "expensive"
        if root is not None and rules.slow_s is not None and _duration_s(root) >= rules.slow_s:
            return "slow"
        if self._decisions.get(local.trace_id):
            return "trace"
        if randomness(local.trace_id, local.state) >= self._threshold:
            return "rate"
        return "upstream" if is_kept_upstream(local.trace_id, local.state) else ""

    def _count_sampled_out(self, count: int) -> None:
        for exporter in self.downstream.running:
            if isinstance(exporter, ExportProcessor):
                exporter.sampled_out(count)

    def _expire(self) -> list[ReadableSpan]:
        released: list[ReadableSpan] = []
        oldest_s = time.monotonic() - self._rules.max_age_s
        while (local := next(iter(self._undecided.values()), None)) is not None and local.since_s < oldest_s:
            released += self._decide(local, early="expired")
        return released

    def reset(self) -> None:
        """Discard every trace and count."""
        # Reentrant, because the garbage collector may end a span inside the lock.
        self._lock = threading.RLock()
        # By the span id of the local root, oldest first.
        self._undecided: OrderedDict[int, _LocalTrace] = OrderedDict()
        # By trace id, the local trace that began last.
        self._latest: dict[int, _LocalTrace] = {}
        # By the ids of spans that have not ended. No BoundedMap, which is slower by about 1 µs a span.
        self._open: OrderedDict[int, _LocalTrace] = OrderedDict()
        # By trace id.
        self._decisions: BoundedMap[int, bool] = BoundedMap(_MAX_DECISIONS)
        self._counts: Counter[tuple[bool, str]] = Counter()
        self._waiting = self._waiting_bytes = 0


def sampling_instruments(stats: Callable[[], TailStats]) -> Iterator[tuple[Instrument, Observe]]:
    """Yield the instruments that show `stats`, each with the callback for its values."""
    yield Metric.TRACES_WAITING, lambda: [(stats().waiting_bytes, {})]

    def decided() -> list[tuple[float, dict[str, str | bool | int | float]]]:
        return [
            (count, {Attr.OUTCOME: "kept" if is_kept else "sampled_out", Attr.REASON: reason})
            for (is_kept, reason), count in stats().decided.items()
        ]

    yield Metric.TRACES_DECIDED, decided


def _size(span: ReadableSpan, attributes: Mapping[str, Any]) -> int:
    texts = sum(len(value) for value in attributes.values() if isinstance(value, str))
    events = sum(
        _EVENT_BYTES + sum(len(value) for value in (event.attributes or {}).values() if isinstance(value, str))
        for event in span.events
    )
    return _SPAN_BYTES + texts + events


def _duration_s(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def _with_reason(span: ReadableSpan, reason: str) -> ReadableSpan:
    """Return a copy of `span` with the reason for keeping its trace."""
    # A copy, because an ended span accepts no more attributes.
    return ReadableSpan(
        name=span.name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes={**attributes_of(span), Attr.SAMPLING_REASON: reason},
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _reset_in_forked_child(sampler: TailSampler) -> None:
    # The parent exports its buffered spans itself, and its lock may be held by a thread that the child does not have.
    # Windows has no fork.
    if not hasattr(os, "register_at_fork"):
        return
    # A handler cannot be unregistered, so it must not keep the sampler alive.
    reference = weakref.ref(sampler)

    def reset() -> None:
        if (found := reference()) is not None:
            found.reset()

    os.register_at_fork(after_in_child=reset)
