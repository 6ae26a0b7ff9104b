"""Which ended spans become runs, and below which run each stands.

LangSmith drops a run whose parent never comes. So a span waits until its parent, where that is a span of this process,
has ended: then it is known whether the parent is sent, or passed over and its own parent asked in turn. What is
released has a parent that is sent too, or none. Used by one thread only.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind

from forge_otel.names import Attr
from forge_otel.telemetry.langsmith.names import LangSmithAttr
from forge_otel.telemetry.processor_hub import attributes_of

__all__ = ["ResolvedSpan", "RunFilter", "RunTreeBuilder", "default_run_filter"]

logger = logging.getLogger(__name__)

RunFilter = Callable[[ReadableSpan], bool | None]
"""Whether an ended span becomes a run; None: only if one stands below it."""

_RUNS: Final = frozenset({Attr.SPAN_KIND, Attr.GEN_AI_OPERATION, LangSmithAttr.RUN_TYPE})
_ENTRANCES: Final = frozenset({SpanKind.SERVER, SpanKind.CONSUMER})
_WHO: Final = (Attr.SESSION_ID, Attr.USER_ID)


def default_run_filter(span: ReadableSpan) -> bool | None:
    """Keep agents, tools, steps, model calls and workflows of any instrumentation, and no other spans.

    A request that ran some is kept as their root, so that several workflows of one request are one tree; a request that
    ran none is not, because every root is a trace that LangSmith bills.
    """
    if not _RUNS.isdisjoint(attributes_of(span)):
        return True
    return None if span.kind in _ENTRANCES else False


@dataclass(frozen=True, slots=True)
class ResolvedSpan:
    """A span that can be sent.

    Args:
        parent: the run above it; None at the root.
        remote_parent: what called it from another process, where it is a root.
        session_id: its own, or the one that its trace is known by; "" where there is none.
        user_id: the same.
    """

    span: ReadableSpan
    parent: SpanContext | None = None
    remote_parent: SpanContext | None = None
    session_id: str = ""
    user_id: str = ""


_Key = tuple[int, int]


@dataclass(slots=True)
class _Fate:
    """What became of an ended span: kept, or passed over in favour of `above`."""

    kept: SpanContext | None
    above: SpanContext | None = None


@dataclass(slots=True)
class _Group:
    """Spans that wait for one span to end."""

    spans: list[ReadableSpan]
    since_s: float


class RunTreeBuilder:
    """Holds ended spans until it is known below which run they stand.

    Args:
        keep: says which spans become runs.
        max_age_s: after so long a span whose parent has not ended becomes a root.
        max_known: ended spans that are remembered for children that end after them.
    """

    def __init__(
        self, keep: RunFilter = default_run_filter, *, max_age_s: float = 900.0, max_known: int = 50_000
    ) -> None:
        self._keep = keep
        self._max_age_s = max_age_s
        self._max_known = max_known
        self._waiting: OrderedDict[_Key, _Group] = OrderedDict()
        self._fates: OrderedDict[_Key, _Fate] = OrderedDict()
        self._who: OrderedDict[int, dict[str, str]] = OrderedDict()

    def add(self, span: ReadableSpan, now_s: float) -> list[ResolvedSpan]:
        """Take an ended span; return what can be sent now.

        Args:
            now_s: monotonic clock.
        """
        context = span.get_span_context()
        if context is None:
            return []
        key = (context.trace_id, context.span_id)
        self._note_who(span, context.trace_id)
        group = self._waiting.pop(key, None)
        below = group.spans if group is not None else []
        is_kept = self._is_kept(span, has_runs_below=bool(below))
        self._remember(key, _Fate(context) if is_kept else _Fate(None, span.parent))
        released = [release for child in below for release in self._place(child, context, now_s)]
        if is_kept:
            return [*released, *self._place(span, span.parent, now_s)]
        return released

    def is_kept(self, span: ReadableSpan) -> bool:
        """Return whether a span that was added, and is still remembered, becomes a run."""
        context = span.get_span_context()
        fate = None if context is None else self._fates.get((context.trace_id, context.span_id))
        return fate is not None and fate.kept is not None

    def expire(self, now_s: float, *, everything: bool = False) -> list[ResolvedSpan]:
        """Return the spans that have waited too long, as roots.

        Args:
            now_s: monotonic clock.
            everything: wait for none of them any longer, because this is the end.
        """
        released = []
        while self._waiting:
            key, group = next(iter(self._waiting.items()))
            if not everything and now_s - group.since_s < self._max_age_s:
                break
            del self._waiting[key]
            self._remember(key, _Fate(None))
            released += [self._release(span, None, None) for span in group.spans]
        return released

    def _is_kept(self, span: ReadableSpan, *, has_runs_below: bool) -> bool:
        try:
            kept = self._keep(span)
        except Exception:
            # Fail closed: what the filter could not look at is not published.
            logger.exception("The filter of LangSmith runs failed on %r, which is left out", span.name)
            return False
        return has_runs_below if kept is None else kept

    def _place(self, span: ReadableSpan, above: SpanContext | None, now_s: float) -> Iterable[ResolvedSpan]:
        """Release `span` below the nearest kept span from `above` on, or let it wait for one that has not ended."""
        context = span.get_span_context()
        while above is not None and context is not None:
            if above.is_remote or above.trace_id != context.trace_id:
                return (self._release(span, None, above),)
            key = (above.trace_id, above.span_id)
            fate = self._fates.get(key)
            if fate is None:
                self._waiting.setdefault(key, _Group([], now_s)).spans.append(span)
                return ()
            if fate.kept is not None:
                return (self._release(span, fate.kept, None),)
            above = fate.above
        return (self._release(span, None, None),)

    def _release(self, span: ReadableSpan, parent: SpanContext | None, remote: SpanContext | None) -> ResolvedSpan:
        context = span.get_span_context()
        who = self._who.get(context.trace_id, {}) if context is not None else {}
        own = attributes_of(span)
        session_id, user_id = (str(own.get(name) or who.get(name) or "") for name in _WHO)
        return ResolvedSpan(span, parent, remote, session_id, user_id)

    def _note_who(self, span: ReadableSpan, trace_id: int) -> None:
        """Remember on whose behalf a trace runs: its first spans may start before that is known."""
        attributes = attributes_of(span)
        for name in _WHO:
            if isinstance(value := attributes.get(name), str):
                self._who.setdefault(trace_id, {}).setdefault(name, value)
        while len(self._who) > self._max_known:
            self._who.popitem(last=False)

    def _remember(self, key: _Key, fate: _Fate) -> None:
        self._fates[key] = fate
        while len(self._fates) > self._max_known:
            self._fates.popitem(last=False)
