"""The instruments of `forge_otel.names.CATALOG`, made on a meter, behind one `record` and one `observe`.

Deliberate divergences: an attribute that users fill (component type, agent, model) keeps a bounded number of values
and then becomes `_other`, because each value is a series for ever; and observable instruments are shared by all
users of a meter, because the SDK ignores the callbacks of a second registration.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from forge_otel.names import CATALOG, Attr, Instrument

__all__ = ["OTHER", "Instruments", "Observe"]

logger = logging.getLogger(__name__)

OTHER: Final = "_other"
"""The attribute value that stands for all values beyond the limit."""

Attributes = Mapping[str, str | bool | int | float]
Observe = Callable[[], Iterable[tuple[float, Attributes]]]
"""Returns the present values of an observable instrument with their attributes."""

_Recorder = Callable[[float, Attributes | None, Context | None], None]
_SYNCHRONOUS: Final = frozenset({"counter", "up_down_counter", "histogram"})

# Points that wait for a collection; without one, each further point pushes out the oldest.
_MAX_LATER: Final = 2000

# Distinct values that an attribute may take in the life of the process.
_LIMITS: Final[Mapping[str, int]] = {
    Attr.COMPONENT_TYPE: 20,
    Attr.GEN_AI_AGENT_NAME: 200,
    Attr.GEN_AI_REQUEST_MODEL: 100,
    Attr.GEN_AI_PROVIDER: 50,
    Attr.FIGMA_FILE: 50,
}


class Instruments:
    """Records points of the catalog's instruments; does nothing while it is not bound to a meter.

    Args:
        meter: where the instruments are made; `bind` gives it later.
        component_types: the component types that keep their name whatever else comes.
    """

    def __init__(self, meter: Meter | None = None, *, component_types: Iterable[str] = ()) -> None:
        self._recorders: Mapping[str, _Recorder] = {}
        self._leave: Callable[[], None] | None = None
        self._callbacks: dict[str, tuple[Observe, ...]] = {}
        self._lock = threading.Lock()
        self._fences = {key: _Fence(limit) for key, limit in _LIMITS.items()}
        for name in component_types:
            self._fences[Attr.COMPONENT_TYPE].bound(name)
        self._fenced = {item.name: tuple(key for key in item.attributes if key in _LIMITS) for item in CATALOG}
        self._sums: dict[tuple[Any, ...], float] = {}
        self._sums_lock = threading.Lock()
        self._later: deque[tuple[Instrument, float, Attributes, SpanContext | None]] = deque()
        if meter is not None:
            self.bind(meter)

    def bind(self, meter: Meter) -> None:
        """Make the instruments on `meter`, or share those that are there, and record from now on."""
        self.unbind()
        self._leave = _board(meter).join(self)
        self._recorders = {item.name: _recorder(meter, item) for item in CATALOG if item.kind in _SYNCHRONOUS}

    def unbind(self) -> None:
        """Stop recording and being observed."""
        self.flush()
        self._recorders = {}
        if self._leave is not None:
            self._leave()
            self._leave = None

    def add(self, instrument: Instrument, value: float, attributes: Attributes | None = None) -> None:
        """Add `value` to a counter.

        Args:
            instrument: a counter or up-down counter, for example `Metric.COST`.
            value: in the instrument's unit.
            attributes: only names that the instrument lists.
        """
        self.record(instrument, value, attributes)

    def record(
        self,
        instrument: Instrument,
        value: float,
        attributes: Attributes | None = None,
        *,
        context: Context | None = None,
    ) -> None:
        """Record `value` in a histogram.

        Args:
            instrument: a histogram, for example `Metric.AGENT_DURATION`.
            value: in the instrument's unit.
            attributes: only names that the instrument lists.
            context: whose span becomes the exemplar; the current one where it is left out.
        """
        if not self._recorders:
            return
        if attributes:
            attributes = self._fence(instrument, attributes)
        self._recorders[instrument.name](value, attributes, context)

    def record_later(
        self,
        instrument: Instrument,
        value: float,
        attributes: Attributes,
        *,
        exemplar: SpanContext | None = None,
        in_finalizer: bool = False,
    ) -> None:
        """Record when metrics are next collected: for the hot path, which it costs a twentieth of a point.

        Args:
            exemplar: the span that the point is of.
            in_finalizer: the garbage collector may be running, in the middle of the SDK, in this same thread, which
                then holds locks that are not reentrant: the point must wait, however many do.
        """
        self._later.append((instrument, value, attributes, exemplar))
        if not in_finalizer and len(self._later) > _MAX_LATER:
            self._record_oldest()

    def add_later(self, instrument: Instrument, value: float, attributes: Attributes) -> None:
        """Add to a counter when metrics are next collected, all that comes until then as one point."""
        key = (instrument, *attributes.items())
        with self._sums_lock:
            self._sums[key] = self._sums.get(key, 0) + value

    def flush(self) -> None:
        """Record what `record_later` and `add_later` have put aside; every collection does so first."""
        while self._record_oldest():
            pass
        with self._sums_lock:
            sums, self._sums = self._sums, {}
        for (instrument, *attributes), value in sums.items():
            self.record(instrument, value, dict(attributes))

    def _record_oldest(self) -> bool:
        try:
            instrument, value, attributes, exemplar = self._later.popleft()
        except IndexError:
            return False
        recorder = self._recorders.get(instrument.name)
        if recorder is not None:
            # Only the identity of the span is kept until now: a whole one weighs some kilobytes.
            context = set_span_in_context(NonRecordingSpan(exemplar), Context()) if exemplar is not None else None
            recorder(value, self._fence(instrument, attributes), context)
        return True

    def observe(self, instrument: Instrument, callback: Observe) -> Callable[[], None]:
        """Ask `callback` for the values of an observable instrument whenever metrics are collected.

        Returns:
            A function that ends it.
        """
        with self._lock:
            self._callbacks[instrument.name] = (*self._callbacks.get(instrument.name, ()), callback)

        def end() -> None:
            with self._lock:
                kept = tuple(item for item in self._callbacks[instrument.name] if item is not callback)
                self._callbacks[instrument.name] = kept

        return end

    def observations(self, instrument: Instrument) -> list[Observation]:
        """Return what the callbacks of an observable instrument say now."""
        found: list[Observation] = []
        for callback in self._callbacks.get(instrument.name, ()):
            try:
                found.extend([Observation(value, attributes) for value, attributes in callback()])
            except Exception:
                # One broken source must not hide the others, let alone the rest of the page.
                logger.exception("The values of %s could not be read", instrument.name)
        return found

    def _fence(self, instrument: Instrument, attributes: Attributes) -> Attributes:
        for key in self._fenced[instrument.name]:
            value = attributes.get(key)
            if value is None:
                continue
            bounded = self._fences[key].bound(str(value))
            if bounded != value:
                attributes = {**attributes, key: bounded}
        return attributes


class _Fence:
    """Lets a bounded number of distinct values pass."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()

    def bound(self, value: str) -> str:
        known = self._seen.get(value)
        if known is not None:
            return known
        with self._lock:
            if len(self._seen) >= self._limit:
                return OTHER
            return self._seen.setdefault(value, value)


class _Board:
    """The observable instruments of one meter, and whose callbacks give their values."""

    def __init__(self, meter: Meter) -> None:
        self._sources: tuple[Instruments, ...] = ()
        self._lock = threading.Lock()
        for item in CATALOG:
            if item.kind == "observable_gauge":
                meter.create_observable_gauge(item.name, [self._collector(item)], item.unit, item.description)
            elif item.kind == "observable_counter":
                meter.create_observable_counter(item.name, [self._collector(item)], item.unit, item.description)

    def join(self, source: Instruments) -> Callable[[], None]:
        with self._lock:
            self._sources = (*self._sources, source)

        def leave() -> None:
            with self._lock:
                self._sources = tuple(item for item in self._sources if item is not source)

        return leave

    def _collector(self, instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def collect(_options: CallbackOptions) -> Iterable[Observation]:
            for source in self._sources:
                source.flush()
                yield from source.observations(instrument)

        return collect


_boards: WeakKeyDictionary[Meter, _Board] = WeakKeyDictionary()
_boards_lock = threading.Lock()


def _board(meter: Meter) -> _Board:
    with _boards_lock:
        board = _boards.get(meter)
        if board is None:
            board = _boards[meter] = _Board(meter)
        return board


def _recorder(meter: Meter, item: Instrument) -> _Recorder:
    if item.kind == "counter":
        return meter.create_counter(item.name, item.unit, item.description).add
    if item.kind == "up_down_counter":
        return meter.create_up_down_counter(item.name, item.unit, item.description).add
    histogram = meter.create_histogram(
        item.name, item.unit, item.description, explicit_bucket_boundaries_advisory=item.bounds
    )
    return histogram.record
