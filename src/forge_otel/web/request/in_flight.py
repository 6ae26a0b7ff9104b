"""How many requests are being answered, counted without a point for each."""

import threading
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from forge_otel.names import Attr, Metric
from forge_otel.web.protocols import Runtime

__all__ = ["InFlight", "in_flight_of"]

Kind = tuple[str, str]
"""Method and scheme."""


class InFlight:
    """Counts requests by method and scheme; safe under several event loops."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._lock = threading.Lock()

    def enter(self, kind: Kind) -> None:
        """Count one more."""
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1

    def leave(self, kind: Kind) -> None:
        """Count one less."""
        with self._lock:
            self._counts[kind] -= 1

    def observe(self) -> list[tuple[float, Mapping[str, str]]]:
        """Return the present counts; a kind that was seen stays, so that its line falls to 0 instead of ending."""
        with self._lock:
            counts = list(self._counts.items())
        return [(count, {Attr.HTTP_METHOD: method, Attr.URL_SCHEME: scheme}) for (method, scheme), count in counts]


# One for each forge, because of two observations of the same attributes the SDK keeps the last.
_known: WeakKeyDictionary[Runtime, InFlight] = WeakKeyDictionary()


def in_flight_of(forge: Runtime) -> InFlight:
    """Return the counts of `forge`, which its metrics show from the first call on."""
    counts = _known.get(forge)
    if counts is None:
        counts = _known[forge] = InFlight()
        forge.telemetry.instruments.observe(Metric.HTTP_ACTIVE, counts.observe)
    return counts
