"""The degradation ledger: what each outage of a helper cost, in minutes, requests and dollars.

An incident is the time in which one fallback served for one service. It opens with the first activation and closes
when there was none for a while, so that an outage with short recoveries is one line of the report and not fifty.
Durations are of the monotonic clock; wall time only says when an incident began.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from forge_otel.errors import ConfigurationError

__all__ = ["Incident", "IncidentLog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One stretch of time in which a fallback served.

    Args:
        service: the service that was away.
        fallback: what served instead, for example `"redis:uncached"`.
        started_at: aware, UTC: the first activation.
        duration_s: seconds from the first activation to the last.
        requests: requests or generations that the fallback served.
        cost_usd: the sum of their known costs.
        unpriced: how many of them have no known cost.
        is_open: whether the fallback served within the quiet period.
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
        """The last activation: aware, UTC, never before the first, whatever the wall clock did."""
        return self.started_at + timedelta(seconds=self.duration_s)

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready; money as a string, so that no float rounds it."""
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
    """Counts the activations of fallbacks, as incidents; safe to use from any thread.

    Its memory is bounded: the last closed incidents are kept, and what those before them counted is in
    `evicted_requests`, so that the requests of the report and those always add up to the activations.

    Args:
        quiet_s: seconds without an activation after which an incident is closed.
        max_closed: closed incidents that are kept.
        max_open: incidents that may be open at once; the one that was quiet the longest is closed early.
        clock: returns monotonic seconds; where it goes back it is taken to stand still.
        wall: returns the wall time, aware, UTC.

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
        if not quiet_s > 0 or max_closed < 0 or max_open < 1:
            raise ConfigurationError(["incidents need quiet_s above 0, max_closed of 0 or more and max_open above 0"])
        self._quiet_s = quiet_s
        self._max_closed = max_closed
        self._max_open = max_open
        self._clock = clock
        self._wall = wall
        self._now_s = clock()
        # In the order of their last activation, so that what has to be closed always stands in front.
        self._open: OrderedDict[tuple[str, str], _Running] = OrderedDict()
        self._closed: deque[Incident] = deque()
        self._evicted_requests = 0
        self._lock = threading.Lock()

    @property
    def evicted_requests(self) -> int:
        """Requests of closed incidents that are no longer kept."""
        return self._evicted_requests

    def record_activation(self, service: str, fallback: str, *, cost_usd: Decimal | None = None) -> bool:
        """Take note that a fallback served a request, once for each; return whether that began an incident.

        Args:
            service: the service that was away.
            fallback: what served instead.
            cost_usd: what the request cost; None: not known.
        """
        with self._lock:
            self._close_quiet()
            key = (service, fallback)
            running = self._open.get(key)
            is_new = running is None
            if running is None:
                running = self._open[key] = _Running(self._wall(), self._now_s)
            running.add(self._now_s, cost_usd)
            self._open.move_to_end(key)
            while len(self._open) > self._max_open:
                self._close_first()
            return is_new

    def report(self) -> list[Incident]:
        """Return the open incidents and then the closed ones, the latest first."""
        with self._lock:
            self._close_quiet()
            running = [item.freeze(*key, is_open=True) for key, item in reversed(self._open.items())]
            return [*running, *reversed(self._closed)]

    def _close_quiet(self) -> None:
        self._now_s = max(self._now_s, self._clock())
        while self._open and self._now_s - next(iter(self._open.values())).last_s >= self._quiet_s:
            self._close_first()

    def _close_first(self) -> None:
        key, running = self._open.popitem(last=False)
        self._closed.append(running.freeze(*key, is_open=False))
        while len(self._closed) > self._max_closed:
            self._evicted_requests += self._closed.popleft().requests


class _Running:
    """An incident that is still open."""

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
