"""Tail sampling: what is exported of a trace is decided when its local root ends, and then it is all or nothing.

A local root is a span whose parent is in another process, or that has none: a request, a job. Errors, fallbacks, slow
and expensive work are kept always, of the rest a share that is the same in every service (`consistent`), and what a
service above says that it keeps. The reason stands on the root. A span that ends after its root follows it.

What waits is bounded in spans, bytes and age: over a bound the oldest trace is decided early, with what is known of it.
Metrics see every span, because nothing of this stands before them.
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
from typing import Any, Final, Protocol, runtime_checkable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanContext, StatusCode

from forge_otel.names import Attr, Instrument, Metric
from forge_otel.telemetry.metrics.instruments import Observe
from forge_otel.telemetry.processor_hub import ForwardingProcessor, attributes_of
from forge_otel.telemetry.sampling.probability import is_kept_upstream, randomness, threshold

__all__ = ["CountsSampledOut", "SamplingRules", "TailSampler", "TailStats", "sampling_figures"]

_MAX_SPANS: Final = 50_000
_MAX_FATES: Final = 20_000
_MAX_OPEN: Final = 100_000
_FALLBACKS: Final = frozenset({Attr.DEGRADED, Attr.FALLBACK})
# What a span takes beside its texts; measured with tracemalloc on spans of 10 attributes.
_SPAN_BYTES: Final = 2_000
_EVENT_BYTES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRules:
    """Which traces are kept, and how much may wait for its decision.

    Args:
        rate: share of the traces that nothing speaks for, 0 to 1.
        slow_s: a local root that took as long is kept; None for no such rule.
        expensive_usd: a trace whose model calls cost as much is kept; None for no such rule.
        max_bytes: what waits, estimated.
        max_age_s: how long a trace may wait for its root.
        max_spans: how many spans may wait.
    """

    rate: float = 1.0
    slow_s: float | None = None
    expensive_usd: float | None = None
    max_bytes: int = 64 * 2**20
    max_age_s: float = 900.0
    max_spans: int = _MAX_SPANS


@dataclass(frozen=True, slots=True, kw_only=True)
class TailStats:
    """What was decided so far, and what waits.

    Args:
        decided: traces by whether they were kept, and why.
    """

    decided: Mapping[tuple[bool, str], int]
    waiting_spans: int
    waiting_bytes: int


@runtime_checkable
class CountsSampledOut(Protocol):
    """An exporter that accounts for the spans that it is not given."""

    def sampled_out(self, count: int, /) -> None:
        """Count spans of traces that were not kept."""
        ...


class _Local:
    """A local root, and what has ended below it."""

    __slots__ = ("cost_usd", "ended", "is_kept", "reason", "root_id", "since_s", "size_bytes", "state", "trace_id")

    def __init__(self, root: SpanContext) -> None:
        self.trace_id = root.trace_id
        self.root_id = root.span_id
        self.state = root.trace_state
        self.since_s = time.monotonic()
        self.ended: list[ReadableSpan] = []
        self.size_bytes = 0
        self.cost_usd = Decimal(0)
        # Why it is kept, as far as is known.
        self.reason = ""
        # None until it is decided.
        self.is_kept: bool | None = None


class TailSampler(ForwardingProcessor):
    """Holds ended spans until their local root has ended, and passes those of kept traces on.

    Args:
        rules: which are kept.
    """

    def __init__(self, rules: SamplingRules) -> None:
        super().__init__()
        self._rules = rules
        self._threshold = threshold(rules.rate)
        self.reset()
        _reset_after_fork(self)

    def stats(self) -> TailStats:
        """Return what was decided so far."""
        with self._lock:
            decided = MappingProxyType(dict(self._decided))
            return TailStats(decided=decided, waiting_spans=self._waiting, waiting_bytes=self._waiting_bytes)

    def note_cost(self, trace_id: int, amount_usd: Decimal) -> None:
        """Add what a model call of a trace has cost."""
        with self._lock:
            if (local := self._last.get(trace_id)) is not None:
                local.cost_usd += amount_usd

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember to which local root the span belongs."""
        context = span.get_span_context()
        if not context.trace_flags.sampled:
            return
        self.behind.on_start(span, parent_context)
        with self._lock:
            local = self._above(span, context)
            if local is None:
                return
            self._open[context.span_id] = local
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            released = self._expire() if local.root_id == context.span_id else ()
        self._release(released)

    def on_end(self, span: ReadableSpan) -> None:
        """Hold the span, or let it share the fate of its trace; the end of the local root decides."""
        context = span.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        released: list[ReadableSpan] = []
        with self._lock:
            local = self._open.pop(context.span_id, None)
            is_kept = self._fates.get(context.trace_id) if local is None else local.is_kept
            if is_kept is None and local is not None:
                self._hold(local, span)
                if context.span_id == local.root_id:
                    released = self._decide(local, root=span)
                elif self._waiting > self._rules.max_spans or self._waiting_bytes > self._rules.max_bytes:
                    released = self._decide(next(iter(self._undecided.values())), early="evicted")
            elif is_kept is False:
                self._leave_out(1)
            elif local is not None and context.span_id == local.root_id:
                released = [_marked(span, local.reason)]
            else:
                # Kept, or of a trace that began before us: nobody else will judge it.
                released = [span]
        self._release(released)

    def drain(self) -> None:
        """Decide what waits with what is known of it: nothing comes after this."""
        with self._lock:
            waiting = list(self._undecided.values())
            released = [span for local in waiting for span in self._decide(local, early="shutdown")]
        self._release(released)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush what is behind; what is not decided goes on waiting."""
        return self.behind.force_flush(timeout_millis)

    def _above(self, span: Span, context: SpanContext) -> _Local | None:
        """Return the local root that a started span belongs to; None where its trace is over, whose fate it shares."""
        if span.parent is not None and not span.parent.is_remote:
            local = self._open.get(span.parent.span_id) or self._last.get(context.trace_id)
            if local is not None or context.trace_id in self._fates:
                return local
        local = _Local(context)
        self._undecided[context.span_id] = self._last[context.trace_id] = local
        return local

    def _release(self, spans: Sequence[ReadableSpan]) -> None:
        # Outside of the lock: what an exporter does is its affair.
        for span in spans:
            self.behind.on_end(span)

    def _hold(self, local: _Local, span: ReadableSpan) -> None:
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

    def _decide(self, local: _Local, *, root: ReadableSpan | None = None, early: str = "") -> list[ReadableSpan]:
        """Settle the fate of `local` and return what can be passed on.

        Args:
            root: as it ended; None where it is decided before that.
            early: why it is.
        """
        self._undecided.pop(local.root_id, None)
        if self._last.get(local.trace_id) is local:
            del self._last[local.trace_id]
        local.reason = local.reason or self._reason(local, root)
        local.is_kept = bool(local.reason)
        self._decided[local.is_kept, local.reason or early or "rate"] += 1
        # Another local root of the trace may have been kept, and then late spans go with that one.
        self._fates[local.trace_id] = local.is_kept or self._fates.pop(local.trace_id, False)
        if len(self._fates) > _MAX_FATES:
            self._fates.popitem(last=False)
        self._waiting -= len(local.ended)
        self._waiting_bytes -= local.size_bytes
        ended, local.ended = local.ended, []
        if not local.is_kept:
            self._leave_out(len(ended))
            return []
        return [_marked(span, local.reason) if span is root else span for span in ended]

    def _reason(self, local: _Local, root: ReadableSpan | None) -> str:
        rules = self._rules
        if rules.expensive_usd is not None and float(local.cost_usd) >= rules.expensive_usd:
            return "expensive"
        if root is not None and rules.slow_s is not None and _duration_s(root) >= rules.slow_s:
            return "slow"
        if self._fates.get(local.trace_id):
            return "trace"
        if randomness(local.trace_id, local.state) >= self._threshold:
            return "rate"
        return "upstream" if is_kept_upstream(local.trace_id, local.state) else ""

    def _leave_out(self, count: int) -> None:
        for exporter in self.behind.running:
            if isinstance(exporter, CountsSampledOut):
                exporter.sampled_out(count)

    def _expire(self) -> list[ReadableSpan]:
        released: list[ReadableSpan] = []
        oldest_s = time.monotonic() - self._rules.max_age_s
        while (local := next(iter(self._undecided.values()), None)) is not None and local.since_s < oldest_s:
            released += self._decide(local, early="expired")
        return released

    def reset(self) -> None:
        """Begin anew: in a forked child, where the lock may be held for ever and the spans are the parent's."""
        # Reentrant, because the garbage collector may end a span inside the lock.
        self._lock = threading.RLock()
        self._undecided: OrderedDict[int, _Local] = OrderedDict()
        self._last: dict[int, _Local] = {}
        self._open: OrderedDict[int, _Local] = OrderedDict()
        self._fates: OrderedDict[int, bool] = OrderedDict()
        self._decided: Counter[tuple[bool, str]] = Counter()
        self._waiting = self._waiting_bytes = 0


def sampling_figures(stats: Callable[[], TailStats]) -> Iterator[tuple[Instrument, Observe]]:
    """Yield the instruments that show what `stats` says, each with the callback for its values."""
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


def _marked(span: ReadableSpan, reason: str) -> ReadableSpan:
    """Return the span with the reason why its trace is kept; it has ended, so that only a copy can say it."""
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


def _reset_after_fork(sampler: TailSampler) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    held = weakref.ref(sampler)

    def in_child() -> None:
        if (found := held()) is not None:
            found.reset()

    os.register_at_fork(after_in_child=in_child)
