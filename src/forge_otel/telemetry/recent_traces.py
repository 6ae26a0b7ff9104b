"""The latest traces of this process, in memory, for the dashboard and for printing one as a tree."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, StatusCode, format_span_id, format_trace_id

from forge_otel.names import Attr
from forge_otel.telemetry.processor_hub import attributes_of

__all__ = ["RecentTraces", "SpanRow", "render_tree"]

# Attributes kept of a span; captured contents are not, because they are large.
_SHOWN: Final = (
    Attr.SPAN_KIND,
    Attr.COMPONENT_TYPE,
    Attr.GENERATION_ID,
    Attr.CACHE_LAYER,
    Attr.HTTP_ROUTE,
    Attr.HTTP_STATUS,
    Attr.GEN_AI_REQUEST_MODEL,
    Attr.GEN_AI_INPUT_TOKENS,
    Attr.GEN_AI_OUTPUT_TOKENS,
    Attr.COST_USD,
    Attr.ERROR_TYPE,
)
_MAX_VALUE_CHARS: Final = 128
_MAX_INDENT: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRow:
    """One ended span.

    Args:
        kind: `agent`, `tool` …, or OpenTelemetry's span kind for spans of other instrumentations.
        parent_id: id of the parent, which may be in another process; "" at the root.
        started_s: seconds since the epoch.
        error_type: None if the span did not fail.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    started_s: float
    duration_s: float
    error_type: str | None = None
    attributes: Mapping[str, str | bool | int | float] = field(default_factory=lambda: MappingProxyType({}))


class _KeptSpan:
    """The kept parts of an ended span, converted to a `SpanRow` on request."""

    __slots__ = ("_context", "_ended_ns", "_kind", "_name", "_parent", "_shown", "_started_ns", "_status")

    def __init__(self, span: ReadableSpan, context: SpanContext) -> None:
        self._context = context
        self._parent = span.parent
        self._name = span.name
        self._kind = span.kind
        self._status = span.status
        self._started_ns = span.start_time or 0
        self._ended_ns = span.end_time or 0
        self._shown = _shown_attributes(span)

    def row(self) -> SpanRow:
        """Return the span as a row."""
        failed = self._status.status_code is StatusCode.ERROR
        return SpanRow(
            trace_id=format_trace_id(self._context.trace_id),
            span_id=format_span_id(self._context.span_id),
            parent_id="" if self._parent is None else format_span_id(self._parent.span_id),
            name=self._name[:_MAX_VALUE_CHARS],
            kind=str(self._shown.get(Attr.SPAN_KIND) or self._kind.name.lower()),
            started_s=self._started_ns / 1e9,
            duration_s=max(self._ended_ns - self._started_ns, 0) / 1e9,
            error_type=str(self._shown.get(Attr.ERROR_TYPE) or "error") if failed else None,
            attributes=MappingProxyType(dict(self._shown)),
        )


class _RecentTrace:
    """The ended spans of one trace."""

    __slots__ = ("ended", "root", "seen_s")

    def __init__(self, seen_s: float) -> None:
        self.seen_s = seen_s
        self.ended: list[_KeptSpan] = []
        self.root: _KeptSpan | None = None


class RecentTraces(SpanProcessor):
    """Span processor that keeps the latest traces of this process.

    Ended spans are queued, and assigned to their traces when the traces are read.

    Args:
        max_traces: number of complete traces, and of incomplete ones.
        max_spans: number of spans of one trace; those that end first are kept.
        max_age_s: age in seconds at which a trace is removed.
        max_queued: number of queued spans, with their contents; the oldest are dropped.
    """

    def __init__(
        self, *, max_traces: int = 200, max_spans: int = 500, max_age_s: float = 3600.0, max_queued: int = 4000
    ) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._max_age_s = max_age_s
        # `on_end` only appends, because it runs inside of the call that ends the span; reading does the rest.
        self._queue: deque[ReadableSpan] = deque(maxlen=max_queued)
        self._open: OrderedDict[int, _RecentTrace] = OrderedDict()
        self._complete: OrderedDict[int, _RecentTrace] = OrderedDict()
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span."""
        self._queue.append(span)

    def trace(self, trace_id: str) -> list[SpanRow]:
        """Return the spans of a trace in the order of their start, or none if the trace is unknown.

        Args:
            trace_id: 32 hex digits.
        """
        try:
            number = int(trace_id, 16)
        except ValueError:
            return []
        with self._lock:
            self._process_queue()
            kept = self._complete.get(number) or self._open.get(number)
            ended = [] if kept is None else list(kept.ended)
        return sorted((item.row() for item in ended), key=lambda row: row.started_s)

    def latest(self, limit: int = 50) -> list[SpanRow]:
        """Return the local root spans of the latest complete traces, newest first."""
        with self._lock:
            self._process_queue()
            roots = [kept.root for kept in self._complete.values() if kept.root is not None]
        return [root.row() for root in roots[: -limit - 1 : -1]]

    def _process_queue(self) -> None:
        while self._queue:
            span = self._queue.popleft()
            context = span.get_span_context()
            # Spans that are not sampled are recorded for metrics only, and their traces are incomplete.
            if context is not None and context.trace_flags.sampled:
                self._keep(span, context)
        oldest_s = time.time() - self._max_age_s
        for traces in (self._open, self._complete):
            while traces and (len(traces) > self._max_traces or next(iter(traces.values())).seen_s < oldest_s):
                traces.popitem(last=False)

    def _keep(self, span: ReadableSpan, context: SpanContext) -> None:
        kept = self._complete.get(context.trace_id) or self._open.get(context.trace_id)
        if kept is None:
            kept = self._open[context.trace_id] = _RecentTrace((span.end_time or 0) / 1e9)
        is_root = span.parent is None or span.parent.is_remote
        if len(kept.ended) < self._max_spans or is_root:
            kept.ended.append(_KeptSpan(span, context))
        if is_root:
            kept.root = kept.ended[-1]
            self._open.pop(context.trace_id, None)
            self._complete[context.trace_id] = kept


def render_tree(rows: Iterable[SpanRow]) -> str:
    """Return the spans of one trace as a text tree with durations and errors.

    Args:
        rows: in any order; a span without its parent is at the top level.
    """
    ordered = sorted(rows, key=lambda row: (row.started_s, row.span_id))
    known = {row.span_id for row in ordered}
    children: dict[str, list[SpanRow]] = {}
    for row in ordered:
        parent = row.parent_id if row.parent_id in known and row.parent_id != row.span_id else ""
        children.setdefault(parent, []).append(row)
    lines = list(_lines(children))
    width = max((len(title) for title, _ in lines), default=0)
    return "\n".join(f"{title:<{width}}  {_duration(row)}".rstrip() for title, row in lines)


def _lines(children_of: Mapping[str, Sequence[SpanRow]]) -> Iterable[tuple[str, SpanRow]]:
    # A stack instead of recursion, because the depth of a trace is unlimited.
    pending = [(row, "", "", "") for row in reversed(children_of.get("", ()))]
    while pending:
        row, indent, branch, continuation = pending.pop()
        yield f"{indent}{branch}{row.name}", row
        children = children_of.get(row.span_id, ())
        inner = indent + continuation if len(indent) < _MAX_INDENT else indent
        last = len(children) - 1
        pending.extend(
            (child, inner, "└─ " if index == last else "├─ ", "   " if index == last else "│  ")
            for index, child in reversed(list(enumerate(children)))
        )


def _duration(row: SpanRow) -> str:
    seconds = row.duration_s
    shown = f"{seconds:8.2f} s " if seconds >= 1 else f"{seconds * 1e3:8.1f} ms"
    return shown if row.error_type is None else f"{shown}  ✗ {row.error_type}"


def _shown_attributes(span: ReadableSpan) -> dict[str, str | bool | int | float]:
    found = attributes_of(span)
    shown: dict[str, str | bool | int | float] = {}
    for name in _SHOWN:
        value = found.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            shown[name] = value[:_MAX_VALUE_CHARS]
        elif isinstance(value, bool | int | float):
            shown[name] = value
    return shown
