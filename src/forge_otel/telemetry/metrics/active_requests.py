"""Number of HTTP and WebSocket requests in flight, for the `http.server.active_requests` gauge."""

import threading
from collections.abc import Mapping

from forge_otel.names import Attr

__all__ = ["ActiveRequests"]

MethodAndScheme = tuple[str, str]


class ActiveRequests:
    """Counts requests in flight by method and scheme; safe under several event loops."""

    def __init__(self) -> None:
        # A dictionary read at each collection costs a request far less than two points of an up-down counter.
        self._counts: dict[MethodAndScheme, int] = {}
        self._lock = threading.Lock()

    def enter(self, kind: MethodAndScheme) -> None:
        """Count the start of a request."""
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1

    def leave(self, kind: MethodAndScheme) -> None:
        """Count the end of a request."""
        with self._lock:
            self._counts[kind] -= 1

    def observe(self) -> list[tuple[float, Mapping[str, str]]]:
        """Return the present counts with their attributes."""
        # Kinds without requests stay, so that their series falls to 0 instead of ending.
        with self._lock:
            counts = list(self._counts.items())
        return [(count, {Attr.HTTP_METHOD: method, Attr.URL_SCHEME: scheme}) for (method, scheme), count in counts]
