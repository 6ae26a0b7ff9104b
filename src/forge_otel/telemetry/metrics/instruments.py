"""The instruments of `forge_otel.names.CATALOG` on a meter: recording and observation.

Deliberate divergences: an attribute with values from users (component type, agent, model) has a limited number of
values, further ones become `_other`, because the SDK keeps every series until the process ends; and observable
instruments are shared by all users of a meter, because the SDK ignores the callbacks of a second registration.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from forge_otel._internal.per_object import PerObject
from forge_otel.names import CATALOG, Attr, Instrument

__all__ = ["OTHER", "Attributes", "Instruments", "Observe", "PointsOf"]

_logger = logging.getLogger(__name__)

OTHER: Final = "_other"
"""The attribute value for all values beyond the limit."""

Attributes = Mapping[str, str | bool | int | float]
Observe = Callable[[], Iterable[tuple[float, Attributes]]]
"""Returns the current values of an observable instrument with their attributes."""
T = TypeVar("T")
PointsOf = Callable[[T], Iterable[tuple[float, Attributes]]]
"""Returns the values of an observable instrument in a snapshot."""

_Recorder = Callable[[float, Attributes | None, Context | None], None]
_SYNCHRONOUS: Final = frozenset({"counter", "up_down_counter", "histogram"})

# Points queued for the next collection; each further one causes the oldest to be recorded.
_MAX_LATER: Final = 2000

# Distinct values of an attribute in a process: the SDK keeps every series until the process ends, and values of these
# come from users.
_LIMITS: Final[Mapping[str, int]] = {
    Attr.COMPONENT_TYPE: 20,
    Attr.GEN_AI_AGENT_NAME: 200,
    Attr.GEN_AI_TOOL_NAME: 200,
    Attr.STEP_NAME: 200,
    Attr.GEN_AI_REQUEST_MODEL: 100,
    Attr.GEN_AI_PROVIDER: 50,
    Attr.FIGMA_FILE: 50,
}


class Instruments:
    """Recording of the catalog's instruments; without effect until bound to a meter.

    Args:
        meter: see `bind`.
        component_types: values of the component type that count first toward its limit.
    """

    def __init__(self, meter: Meter | None = None, *, component_types: Iterable[str] = ()) -> None:
        self._recorders: Mapping[str, _Recorder] = {}
        self._leave: Callable[[], None] | None = None
        self._callbacks: dict[str, tuple[Observe, ...]] = {}
        self._lock = threading.Lock()
        self._limits = {key: _CardinalityLimit(limit) for key, limit in _LIMITS.items()}
        for name in component_types:
            self._limits[Attr.COMPONENT_TYPE].apply(name)
        self._limited = {item.name: tuple(key for key in item.attributes if key in _LIMITS) for item in CATALOG}
        self._sums: dict[tuple[Any, ...], float] = {}
        self._sums_lock = threading.Lock()
        self._later: deque[tuple[Instrument, float, Attributes, SpanContext | None]] = deque()
        if meter is not None:
            self.bind(meter)

    def bind(self, meter: Meter) -> None:
        """Create the instruments on `meter`, or share the existing ones, and start recording."""
        self.unbind()
        self._leave = _OBSERVABLES.get(meter).join(self)
        self._recorders = {item.name: _recorder(meter, item) for item in CATALOG if item.kind in _SYNCHRONOUS}

    def unbind(self) -> None:
        """Record the queued points and stop recording."""
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
            attributes: a subset of the instrument's attributes.
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
            attributes: a subset of the instrument's attributes.
            context: the context of the exemplar, by default the current one.
        """
        if not self._recorders:
            return
        if attributes:
            attributes = self._limit_cardinality(instrument, attributes)
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
        """Queue a point for the next collection, which takes a twentieth of the time of recording it.

        Args:
            exemplar: the span of the exemplar.
            in_finalizer: whether the garbage collector may be the caller; the point is then queued beyond the limit.
        """
        # A finalizer may run inside of the SDK, in a thread that holds its non-reentrant locks: recording would hang.
        self._later.append((instrument, value, attributes, exemplar))
        if not in_finalizer and len(self._later) > _MAX_LATER:
            self._record_oldest()

    def add_later(self, instrument: Instrument, value: float, attributes: Attributes) -> None:
        """Add to a counter at the next collection, summed with further values of the same attributes."""
        key = (instrument, *attributes.items())
        with self._sums_lock:
            self._sums[key] = self._sums.get(key, 0) + value

    def flush(self) -> None:
        """Record the queued points, as every collection does first."""
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
            # The queue holds the ids of the span only, because a span takes some kilobytes.
            context = set_span_in_context(NonRecordingSpan(exemplar), Context()) if exemplar is not None else None
            recorder(value, self._limit_cardinality(instrument, attributes), context)
        return True

    def observe(self, instrument: Instrument, callback: Observe) -> Callable[[], None]:
        """Call `callback` for the values of an observable instrument at each collection.

        Returns:
            A function that removes the callback.
        """
        with self._lock:
            self._callbacks[instrument.name] = (*self._callbacks.get(instrument.name, ()), callback)

        def remove() -> None:
            with self._lock:
                kept = tuple(item for item in self._callbacks[instrument.name] if item is not callback)
                self._callbacks[instrument.name] = kept

        return remove

    def observe_together(self, read: Callable[[], T], points: Mapping[Instrument, PointsOf[T]]) -> Callable[[], None]:
        """Observe several instruments, whose values come from one snapshot at each collection.

        Args:
            read: returns the snapshot.
            points: for each instrument a function that returns its values in a snapshot.

        Returns:
            A function that removes the callbacks.
        """
        # A provider collects for one reader at a time, in the order of the catalog.
        first = min(points, key=CATALOG.index)
        snapshots: list[T] = []

        def observe(instrument: Instrument) -> Iterable[tuple[float, Attributes]]:
            if instrument is first:
                # Cleared first: after a failed reading, old values would look like those of this collection.
                snapshots.clear()
                snapshots.append(read())
            return [point for snapshot in snapshots for point in points[instrument](snapshot)]

        removals = [self.observe(instrument, partial(observe, instrument)) for instrument in points]

        def remove() -> None:
            for removal in removals:
                removal()

        return remove

    def observations(self, instrument: Instrument) -> list[Observation]:
        """Return the current values of an observable instrument."""
        found: list[Observation] = []
        for callback in self._callbacks.get(instrument.name, ()):
            try:
                found.extend([Observation(value, attributes) for value, attributes in callback()])
            except Exception:
                # One failing callback must not hide the rest of the page.
                _logger.exception("values of %s could not be read", instrument.name)
        return found

    def _limit_cardinality(self, instrument: Instrument, attributes: Attributes) -> Attributes:
        for key in self._limited[instrument.name]:
            value = attributes.get(key)
            if value is None:
                continue
            limited = self._limits[key].apply(str(value))
            if limited != value:
                attributes = {**attributes, key: limited}
        return attributes


class _CardinalityLimit:
    """The first distinct values of an attribute, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()

    def apply(self, value: str) -> str:
        known = self._seen.get(value)
        if known is not None:
            return known
        with self._lock:
            if len(self._seen) >= self._limit:
                return OTHER
            return self._seen.setdefault(value, value)


class _ObservableInstruments:
    """The observable instruments of one meter, and the `Instruments` that provide their values."""

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


# The SDK ignores a second registration of an instrument, so that its one callback serves every Telemetry of the meter.
_OBSERVABLES: Final[PerObject[Meter, _ObservableInstruments]] = PerObject(_ObservableInstruments)


def _recorder(meter: Meter, item: Instrument) -> _Recorder:
    if item.kind == "counter":
        return meter.create_counter(item.name, item.unit, item.description).add
    if item.kind == "up_down_counter":
        return meter.create_up_down_counter(item.name, item.unit, item.description).add
    histogram = meter.create_histogram(
        item.name, item.unit, item.description, explicit_bucket_boundaries_advisory=item.bounds
    )
    return histogram.record
