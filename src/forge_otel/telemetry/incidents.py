"""Incidents: the periods in which a fallback replaced a service, with their requests and cost.

An incident opens with the first activation of a fallback and closes after some time without one, so that an outage
with short recoveries is one incident. Durations are measured with the monotonic clock; wall time dates the beginning.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from forge_otel._internal.checks import require

__all__ = ["Incident", "IncidentLog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A period in which one fallback replaced one service.

    Args:
        service: the unavailable service.
        fallback: its replacement, for example `"redis:uncached"`.
        started_at: UTC time of the first activation.
        duration_s: seconds between the first activation and the last.
        requests: number of requests or generations that used the fallback.
        cost_usd: sum of their known costs.
        unpriced: number of them without a known cost.
        is_open: whether an activation was within the quiet period.
    """

    service: str
    fallback: str
    started_at: datetime
    duration_s: float
    requests: int
    cost_usd: Decimal
    unpriced: int
    is_open: bool

    @property
    def minutes(self) -> float:
        """The duration in minutes."""
        return self.duration_s / 60

    @property
    def last_at(self) -> datetime:
        """The UTC time of the last activation, by the monotonic clock since the first."""
        return self.started_at + timedelta(seconds=self.duration_s)

    def to_dict(self) -> dict[str, Any]:
        """Return the incident in JSON types, the cost as a decimal string."""
        return {
            "service": self.service,
            "fallback": self.fallback,
            "open": self.is_open,
            "started_at": self.started_at.isoformat(),
            "last_at": self.last_at.isoformat(),
            "minutes": round(self.minutes, 2),
            "requests": self.requests,
            "cost_usd": f"{self.cost_usd:f}",
            "unpriced": self.unpriced,
        }


class IncidentLog:
    """Thread-safe log of incidents, with a limited number of them.

    The requests in `report` and `evicted_requests` always add up to the number of activations.

    Args:
        quiet_s: seconds without an activation after which an incident is closed.
        max_closed: number of closed incidents kept.
        max_open: number of open incidents; the least recently activated one is closed early.
        clock: returns monotonic seconds; steps backward are ignored.
        wall: returns the current UTC time.

    Raises:
        ConfigurationError: a limit is out of range.
    """

    def __init__(
        self,
        *,
        quiet_s: float = 300.0,
        max_closed: int = 200,
        max_open: int = 200,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        require(
            (quiet_s > 0, "incidents need quiet_s > 0"),
            (max_closed >= 0, "incidents need max_closed >= 0"),
            (max_open >= 1, "incidents need max_open >= 1"),
        )
        self._quiet_s = quiet_s
        self._max_closed = max_closed
        self._max_open = max_open
        self._clock = clock
        self._wall = wall
        self._now_s = clock()
        # In the order of their last activation, so that the next one to close is the first.
        self._open: OrderedDict[tuple[str, str], _OpenIncident] = OrderedDict()
        self._closed: deque[Incident] = deque()
        self._evicted_requests = 0
        self._lock = threading.Lock()

    @property
    def evicted_requests(self) -> int:
        """The number of requests of closed incidents that are no longer kept."""
        return self._evicted_requests

    def record_activation(self, service: str, fallback: str, *, cost_usd: Decimal | None = None) -> bool:
        """Record that a request used a fallback, and return whether that opened an incident.

        Args:
            service: the unavailable service.
            fallback: its replacement.
            cost_usd: cost of the request; None if unknown.
        """
        with self._lock:
            self._close_quiet()
            key = (service, fallback)
            running = self._open.get(key)
            is_new = running is None
            if running is None:
                # Wall time dates the beginning only: a duration by it would change when the clock is set.
                running = self._open[key] = _OpenIncident(self._wall(), self._now_s)
            running.add(self._now_s, cost_usd)
            self._open.move_to_end(key)
            while len(self._open) > self._max_open:
                self._close_oldest()
            return is_new

    def report(self) -> list[Incident]:
        """Return the open incidents, then the closed ones, each with the latest first."""
        with self._lock:
            self._close_quiet()
            running = [item.freeze(*key, is_open=True) for key, item in reversed(self._open.items())]
            return [*running, *reversed(self._closed)]

    def _close_quiet(self) -> None:
        self._now_s = max(self._now_s, self._clock())
        # An outage with short recoveries stays one incident: it closes after some quiet time, not at the first success.
        while self._open and self._now_s - next(iter(self._open.values())).last_s >= self._quiet_s:
            self._close_oldest()

    def _close_oldest(self) -> None:
        key, running = self._open.popitem(last=False)
        self._closed.append(running.freeze(*key, is_open=False))
        while len(self._closed) > self._max_closed:
            self._evicted_requests += self._closed.popleft().requests


class _OpenIncident:
    """The counts of an open incident."""

    __slots__ = ("cost_usd", "first_s", "last_s", "requests", "started_at", "unpriced")

    def __init__(self, started_at: datetime, now_s: float) -> None:
        self.started_at = started_at
        self.first_s = self.last_s = now_s
        self.requests = 0
        self.unpriced = 0
        self.cost_usd = Decimal(0)

    def add(self, now_s: float, cost_usd: Decimal | None) -> None:
        self.last_s = now_s
        self.requests += 1
        if cost_usd is None:
            self.unpriced += 1
        else:
            self.cost_usd += cost_usd

    def freeze(self, service: str, fallback: str, *, is_open: bool) -> Incident:
        return Incident(
            service=service,
            fallback=fallback,
            started_at=self.started_at,
            duration_s=self.last_s - self.first_s,
            requests=self.requests,
            cost_usd=self.cost_usd,
            unpriced=self.unpriced,
            is_open=is_open,
        )
