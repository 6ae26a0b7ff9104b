"""Selection of the spans that become runs, and the parent run of each.

LangSmith drops a run whose parent never arrives. A span is therefore held until its local parent has ended and it is
known whether the parent becomes a run or is skipped in favour of its own parent. Not thread-safe.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind

from forge_otel._internal.bounded import BoundedMap
from forge_otel.names import Attr
from forge_otel.telemetry.langsmith.names import LangSmithAttr
from forge_otel.telemetry.processor_hub import attributes_of

__all__ = ["ResolvedSpan", "RunFilter", "RunTreeBuilder", "default_run_filter"]

_logger = logging.getLogger(__name__)

RunFilter = Callable[[ReadableSpan], bool | None]
"""Returns whether an ended span becomes a run; None: only if it has a run below it."""

_RUN_ATTRIBUTES: Final = frozenset({Attr.SPAN_KIND, Attr.GEN_AI_OPERATION, LangSmithAttr.RUN_TYPE})
_ENTRY_KINDS: Final = frozenset({SpanKind.SERVER, SpanKind.CONSUMER})
_IDENTITY: Final = (Attr.SESSION_ID, Attr.USER_ID)


def default_run_filter(span: ReadableSpan) -> bool | None:
    """Keep agents, tools, steps, model calls and workflows of any instrumentation.

    A request is kept as the root of its runs, so that its workflows are one tree. A request without runs is not kept,
    because LangSmith bills every root as a trace.
    """
    if not _RUN_ATTRIBUTES.isdisjoint(attributes_of(span)):
        return True
    return None if span.kind in _ENTRY_KINDS else False


@dataclass(frozen=True, slots=True)
class ResolvedSpan:
    """A span whose parent run is known.

    Args:
        parent: context of the parent run; None at the root.
        remote_parent: context of the caller in another process, at a root.
        session_id: session of the span or of its trace; "" if unknown.
        user_id: user of the span or of its trace; "" if unknown.
    """

    span: ReadableSpan
    parent: SpanContext | None = None
    remote_parent: SpanContext | None = None
    session_id: str = ""
    user_id: str = ""


_SpanKey = tuple[int, int]


@dataclass(slots=True)
class _EndedSpan:
    """The run that an ended span became, or the parent in favour of which it is skipped."""

    run: SpanContext | None
    parent: SpanContext | None = None


@dataclass(slots=True)
class _WaitingChildren:
    """Spans whose parent has not ended."""

    spans: list[ReadableSpan]
    since_s: float


class RunTreeBuilder:
    """Holds ended spans until their parent run is known.

    Args:
        run_filter: selects the spans that become runs.
        max_age_s: seconds after which a span whose parent has not ended becomes a root.
        max_ended_spans: ended spans that are remembered for children that end after them.
    """

    def __init__(
        self, run_filter: RunFilter = default_run_filter, *, max_age_s: float = 900.0, max_ended_spans: int = 50_000
    ) -> None:
        self._run_filter = run_filter
        self._max_age_s = max_age_s
        self._waiting: OrderedDict[_SpanKey, _WaitingChildren] = OrderedDict()
        self._ended: BoundedMap[_SpanKey, _EndedSpan] = BoundedMap(max_ended_spans)
        self._identities: BoundedMap[int, dict[str, str]] = BoundedMap(max_ended_spans)

    def add(self, span: ReadableSpan, now_s: float) -> list[ResolvedSpan]:
        """Add an ended span and return the spans that are resolved by it.

        Args:
            now_s: time of the monotonic clock.
        """
        context = span.get_span_context()
        if context is None:
            return []
        key = (context.trace_id, context.span_id)
        self._remember_identity(span, context.trace_id)
        waiting = self._waiting.pop(key, None)
        children = waiting.spans if waiting is not None else []
        is_run = self._is_run(span, has_runs_below=bool(children))
        self._ended[key] = _EndedSpan(context) if is_run else _EndedSpan(None, span.parent)
        resolved = [found for child in children for found in self._resolve(child, context, now_s)]
        if is_run:
            return [*resolved, *self._resolve(span, span.parent, now_s)]
        return resolved

    def is_run(self, span: ReadableSpan) -> bool:
        """Return whether an added span that is still remembered becomes a run."""
        context = span.get_span_context()
        ended = None if context is None else self._ended.get((context.trace_id, context.span_id))
        return ended is not None and ended.run is not None

    def expire(self, now_s: float, *, is_last: bool = False) -> list[ResolvedSpan]:
        """Return, as roots, the spans that waited longer than `max_age_s` for their parent.

        Args:
            now_s: time of the monotonic clock.
            is_last: return all waiting spans.
        """
        resolved = []
        while self._waiting:
            # In the order in which they began to wait, so the first one is the oldest.
            key, waiting = next(iter(self._waiting.items()))
            if not is_last and now_s - waiting.since_s < self._max_age_s:
                break
            del self._waiting[key]
            self._ended[key] = _EndedSpan(None)
            resolved += [self._resolved(span, None, None) for span in waiting.spans]
        return resolved

    def _is_run(self, span: ReadableSpan, *, has_runs_below: bool) -> bool:
        try:
            is_run = self._run_filter(span)
        except Exception:
            # Fail closed: a span that the filter could not check is not published.
            _logger.exception("run filter of LangSmith failed, span %r is not sent", span.name)
            return False
        return has_runs_below if is_run is None else is_run

    def _resolve(self, span: ReadableSpan, parent: SpanContext | None, now_s: float) -> Iterable[ResolvedSpan]:
        """Resolve `span` below the nearest run from `parent` upwards, or hold it for a parent that has not ended."""
        context = span.get_span_context()
        while parent is not None and context is not None:
            if parent.is_remote or parent.trace_id != context.trace_id:
                return (self._resolved(span, None, parent),)
            key = (parent.trace_id, parent.span_id)
            ended = self._ended.get(key)
            if ended is None:
                self._waiting.setdefault(key, _WaitingChildren([], now_s)).spans.append(span)
                return ()
            if ended.run is not None:
                return (self._resolved(span, ended.run, None),)
            parent = ended.parent
        return (self._resolved(span, None, None),)

    def _resolved(self, span: ReadableSpan, parent: SpanContext | None, remote: SpanContext | None) -> ResolvedSpan:
        context = span.get_span_context()
        identity = self._identities.get(context.trace_id, {}) if context is not None else {}
        own = attributes_of(span)
        session_id, user_id = (str(own.get(name) or identity.get(name) or "") for name in _IDENTITY)
        return ResolvedSpan(span, parent, remote, session_id, user_id)

    def _remember_identity(self, span: ReadableSpan, trace_id: int) -> None:
        # The first spans of a trace may start before its session and user are known.
        attributes = attributes_of(span)
        for name in _IDENTITY:
            if isinstance(value := attributes.get(name), str):
                self._identities.setdefault(trace_id, {}).setdefault(name, value)
