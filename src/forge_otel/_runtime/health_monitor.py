"""Background pings of every service, so that a health response costs nothing and never blocks.

The report follows draft-inadarei-api-health-check (`application/health+json`). A ping costs no money, has a time limit
and runs concurrently with the other pings. Each result also reaches the breakers of the service.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal, Self

from forge_otel._internal.tasks import BackgroundTask, abandon_after
from forge_otel._runtime.components import Components
from forge_otel.errors import ConfigurationError
from forge_otel.resilience.events import GuardEvent
from forge_otel.resilience.guard import Guards

__all__ = ["HealthMonitor", "Probe", "ProbeResult", "check_critical", "probes_of"]

Status = Literal["pass", "warn", "fail"]

# A service that is down is pinged more often, so that its recovery is noticed at once.
_DOWN_INTERVAL_S: Final = 0.5
_SEVERITY: Final[Mapping[str, int]] = {"pass": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A service that is pinged.

    Args:
        name: the service's name, for example `"redis"`.
        ping: raises unless the service responds.
        critical: whether the runtime is not ready without the service.
        without_it: effect of its outage for users, one sentence.
    """

    name: str
    ping: Callable[[], Coroutine[Any, Any, None]]
    critical: bool = False
    without_it: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Result of the last ping of a service.

    Args:
        error: type of the exception, or None.
        latency_s: duration of the ping in seconds.
        observed_at: aware, UTC.
        last_success_s: monotonic time of the last successful ping, or None.
    """

    error: str | None
    latency_s: float
    observed_at: datetime
    last_success_s: float | None


class HealthMonitor:
    """Pings every service at an interval and keeps the results.

    Args:
        probes: the services.
        interval_s: seconds between two pings of one service.
        timeout_s: time limit of a ping in seconds.
        guards: whose breakers receive the results; a guard belongs to the probe of its name before the colon.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        *,
        interval_s: float = 5.0,
        timeout_s: float = 1.0,
        guards: Guards | None = None,
    ) -> None:
        self._probes = {probe.name: probe for probe in probes}
        self._guards = guards
        self._due: dict[str, asyncio.Event] = {}
        if guards is not None:
            guards.listeners.add(self._on_guard_event)
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._results: dict[str, ProbeResult] = {}
        self._tasks = [BackgroundTask(partial(self._watch, probe), name=f"health of {probe.name}") for probe in probes]

    async def __aenter__(self) -> Self:
        # Created here, because a Forge can be opened again on another event loop.
        self._due = {name: asyncio.Event() for name in self._probes}
        for task in self._tasks:
            task.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(task.stop() for task in self._tasks))

    def ready(self) -> bool:
        """Return whether every critical service responded to its last ping."""
        return all(
            name in self._results and self._results[name].error is None
            for name, probe in self._probes.items()
            if probe.critical
        )

    def status(self) -> Status:
        """Return `fail` if a critical service is down, `warn` if an optional one is, else `pass`."""
        statuses: list[Status] = [self._status(probe) for probe in self._probes.values()]
        return max(statuses, key=_SEVERITY.__getitem__, default="pass")

    def report(self) -> dict[str, Any]:
        """Return the checks, JSON-ready, by `<service>:responseTime`."""
        return {
            "status": self.status(),
            "checks": {f"{name}:responseTime": [self._check(probe)] for name, probe in self._probes.items()},
        }

    def _status(self, probe: Probe) -> Status:
        result = self._results.get(probe.name)
        if result is not None and result.error is None:
            return "pass"
        # Every start would warn before the first ping has ended.
        if result is None and not probe.critical:
            return "pass"
        return "fail" if probe.critical else "warn"

    def _check(self, probe: Probe) -> dict[str, Any]:
        check: dict[str, Any] = {"componentId": probe.name, "status": self._status(probe), "critical": probe.critical}
        result = self._results.get(probe.name)
        if result is None:
            return check | {"output": "no ping yet"}
        check |= {
            "observedValue": round(result.latency_s * 1000, 3),
            "observedUnit": "ms",
            "time": result.observed_at.isoformat(),
        }
        if result.last_success_s is not None:
            check["lastSuccessAgeSeconds"] = round(time.monotonic() - result.last_success_s, 1)
        if result.error is not None:
            check |= {"output": result.error, "withoutIt": probe.without_it}
        return check

    async def _watch(self, probe: Probe) -> None:
        due = self._due[probe.name]
        while True:
            # Before the ping, so that a breaker that opens while it runs has the service pinged again at once.
            due.clear()
            result = self._results[probe.name] = await self._ping(probe)
            is_up = result.error is None
            is_rejecting = self._update_breakers(probe.name, result)
            pause_s = self._interval_s if is_up and not is_rejecting else min(_DOWN_INTERVAL_S, self._interval_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await due.wait()

    def _update_breakers(self, name: str, result: ProbeResult) -> bool:
        """Pass a result to the breakers of the service; return whether one of them still rejects calls."""
        if self._guards is None:
            return False
        is_rejecting = False
        for state in self._guards.states():
            if _service_of(state.name) == name:
                admission = self._guards.get(state.name).admission
                # A successful ping ends the open time, so that a service that has recovered is used at once.
                admission.record_health_check(result.error is None, took_s=result.latency_s)
                is_rejecting = is_rejecting or admission.rejects_for_s() > 0
        return is_rejecting

    def _on_guard_event(self, event: GuardEvent) -> None:
        due = self._due.get(_service_of(event.service))
        # After a failed probe call the usual interval applies, or a service whose pings succeed would be pinged often.
        if due is not None and event.kind == "state_changed" and (event.previous, event.state) == ("closed", "open"):
            # Without waiting for the interval: the open time of the breaker may be longer than the outage.
            due.set()

    async def _ping(self, probe: Probe) -> ProbeResult:
        before = self._results.get(probe.name)
        last_success_s = None if before is None else before.last_success_s
        started_s = time.monotonic()
        error: str | None = None
        try:
            # Not `asyncio.timeout`: it would wait for the ping's clean-up, which can take seconds on a silent server.
            await abandon_after(probe.ping(), timeout_s=self._timeout_s)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            raise
        # BaseException: the PanicException of a Rust extension is one, and must not leave the last result in place.
        except BaseException as exc:
            # Only the type: the messages of drivers contain credentials.
            error = type(exc).__name__
        ended_s = time.monotonic()
        return ProbeResult(
            error=error,
            latency_s=ended_s - started_s,
            observed_at=datetime.now(UTC),
            last_success_s=ended_s if error is None else last_success_s,
        )


def _service_of(guard_name: str) -> str:
    return guard_name.partition(":")[0]


def probes_of(components: Components, *, critical: Collection[str]) -> tuple[Probe, ...]:
    """Return a probe for each service that can be pinged.

    Args:
        components: the adapters.
        critical: names of the services without which the runtime is not ready.
    """
    effects = {
        components.store_service: "answers are not cached, and each one costs a generation",
        components.vector_service: "similar wording is found only among the most recent answers",
        "archive": "artifacts are queued on local disk",
        "database": "records are queued on local disk",
    }
    return tuple(
        Probe(name=name, ping=part.ping, critical=name in critical, without_it=effects[name])
        for name, part in components.pings.items()
    )


def check_critical(critical: Collection[str], probes: Collection[Probe], guarded: Collection[str]) -> None:
    """Reject unknown names in `critical_services`; a typo would silently make the service optional.

    Args:
        critical: the names.
        probes: the services that are pinged.
        guarded: names of the services that have policies.

    Raises:
        ConfigurationError: a name is unknown.
    """
    known = {probe.name for probe in probes} | set(guarded)
    faults = [
        f"critical_services contains {name!r}, which is disabled or unknown; use one of {', '.join(sorted(known))}, "
        "or give a service of your own its policies"
        for name in critical
        if name not in known
    ]
    if faults:
        raise ConfigurationError(faults)
