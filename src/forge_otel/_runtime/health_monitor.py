"""One ping beside every resource, asked in the background, so that a health answer costs nothing and blocks nobody.

The report follows draft-inadarei-api-health-check (`application/health+json`). A ping costs no money, has a time
limit, runs beside the others, and what it raises is told by type only: messages of drivers carry credentials.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self

__all__ = ["HealthMonitor", "Probe", "ProbeResult"]

Status = Literal["pass", "warn", "fail"]

_SOON_S: Final = 0.5
_WORST: Final[Mapping[str, int]] = {"pass": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One resource that can be asked whether it is there.

    Args:
        name: the service's name, for example `"redis"`.
        ping: raises if the resource does not answer.
        critical: whether the service is not ready without it.
        without_it: what the user sees while it is away, a plain sentence.
    """

    name: str
    ping: Callable[[], Awaitable[None]]
    critical: bool = False
    without_it: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What the last ping of a probe found.

    Args:
        error: the type of what it raised, or None.
        latency_s: how long the ping took.
        observed_at: aware, UTC.
        last_success_s: monotonic clock, or None if it never answered.
    """

    error: str | None
    latency_s: float
    observed_at: datetime
    last_success_s: float | None


class HealthMonitor:
    """Asks every probe at an interval and keeps what it found.

    Args:
        probes: the resources.
        interval_s: seconds between two pings of one resource.
        timeout_s: a ping that takes longer has failed.
    """

    def __init__(self, probes: Sequence[Probe], *, interval_s: float = 5.0, timeout_s: float = 1.0) -> None:
        self._probes = {probe.name: probe for probe in probes}
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._seen: dict[str, ProbeResult] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._watch(probe)) for probe in self._probes.values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        # A ping that is stuck in its clean-up must not hold up the exit.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout_s)
        self._tasks.clear()

    def ready(self) -> bool:
        """Whether every critical resource answered its last ping."""
        return all(
            name in self._seen and self._seen[name].error is None
            for name, probe in self._probes.items()
            if probe.critical
        )

    def status(self) -> Status:
        """`fail` where a critical resource is away, `warn` where an optional one is, else `pass`."""
        found: list[Status] = [self._status(probe) for probe in self._probes.values()]
        return max(found, key=_WORST.__getitem__, default="pass")

    def report(self) -> dict[str, Any]:
        """Return the checks, JSON-ready, keyed `<service>:responseTime`."""
        return {
            "status": self.status(),
            "checks": {f"{name}:responseTime": [self._check(probe)] for name, probe in self._probes.items()},
        }

    def _status(self, probe: Probe) -> Status:
        seen = self._seen.get(probe.name)
        if seen is not None and seen.error is None:
            return "pass"
        if seen is None and not probe.critical:
            return "pass"
        return "fail" if probe.critical else "warn"

    def _check(self, probe: Probe) -> dict[str, Any]:
        check: dict[str, Any] = {"componentId": probe.name, "status": self._status(probe), "critical": probe.critical}
        seen = self._seen.get(probe.name)
        if seen is None:
            return check | {"output": "not asked yet"}
        check |= {
            "observedValue": round(seen.latency_s * 1000, 3),
            "observedUnit": "ms",
            "time": seen.observed_at.isoformat(),
        }
        if seen.last_success_s is not None:
            check["lastSuccessAgeSeconds"] = round(time.monotonic() - seen.last_success_s, 1)
        if seen.error is not None:
            check |= {"output": seen.error, "withoutIt": probe.without_it}
        return check

    async def _watch(self, probe: Probe) -> None:
        while True:
            seen = self._seen[probe.name] = await self._ask(probe)
            # What is away is asked more often, so that its return is seen at once.
            await asyncio.sleep(self._interval_s if seen.error is None else min(_SOON_S, self._interval_s))

    async def _ask(self, probe: Probe) -> ProbeResult:
        before = self._seen.get(probe.name)
        last_success_s = None if before is None else before.last_success_s
        started = time.monotonic()
        # Not asyncio.timeout: it would wait for the ping's own clean-up, which for a silent server may take seconds.
        ping = asyncio.ensure_future(probe.ping())
        ping.add_done_callback(_consume)
        try:
            await asyncio.wait([ping], timeout=self._timeout_s)
        finally:
            if not ping.done():
                ping.cancel()
        error = _error(ping) if ping.done() else "TimeoutError"
        ended = time.monotonic()
        return ProbeResult(
            error=error,
            latency_s=ended - started,
            observed_at=datetime.now(UTC),
            last_success_s=ended if error is None else last_success_s,
        )


def _error(ping: asyncio.Future[None]) -> str | None:
    if ping.cancelled():
        return "CancelledError"
    exc = ping.exception()
    return None if exc is None else type(exc).__name__


def _consume(ping: asyncio.Future[None]) -> None:
    """Look at a late exception, so that nobody reports it as never retrieved."""
    if not ping.cancelled():
        ping.exception()
