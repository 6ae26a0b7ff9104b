"""What the health answer says beside the pings: breakers, queues, and whether errors are well above usual."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from forge_otel.outbox.outbox import OutboxStats, SinkStats
from forge_otel.resilience.events import GuardState
from forge_otel.telemetry.error_rate import ErrorRateState
from forge_otel.telemetry.export.accounting import ExportStats

__all__ = ["with_parts"]

_WORST: Final = ("pass", "warn", "fail")


def with_parts(
    report: dict[str, Any],
    outbox: OutboxStats,
    guards: Sequence[GuardState],
    spike: ErrorRateState,
    *,
    critical: Collection[str] = (),
    damaged_files: Sequence[Path] = (),
    exports: Mapping[str, ExportStats] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return `report` with the checks of the parts; the worst of them all is the status of the whole.

    Args:
        report: of the pings, as `forge_otel._runtime.health_monitor.HealthMonitor.report` gives it.
        damaged_files: damaged files of the database that were renamed; past trouble, and so no warning.
        critical: while calls to one of these are refused it is `fail`; all other trouble makes it `warn`.
        exports: what became of the spans, by where they go.
    """
    checks = dict(report["checks"])
    for guard in guards:
        checks[f"{guard.name}:breaker"] = [_breaker(guard, is_critical=guard.name in critical)]
    for name, sink in outbox.sinks.items():
        checks[f"{name}:waiting"] = [_waiting(name, sink)]
    for name, export in exports.items():
        checks[f"{name}:export"] = [_export(name, export)]
    checks["outbox:journal"] = [
        {
            "componentId": "outbox",
            "status": "pass" if outbox.is_durable else "warn",
            "observedValue": outbox.journal_bytes,
            "observedUnit": "bytes",
            **({} if outbox.is_durable else {"withoutIt": "records wait in memory, and a crash would lose them"}),
        }
    ]
    if damaged_files:
        checks["database:file"] = [
            {
                "componentId": "database",
                "status": "pass",
                "observedValue": len(damaged_files),
                "observedUnit": "damaged files",
                "output": f"set aside as {damaged_files[-1].name}; a new file took what came after",
            }
        ]
    checks["generations:errorRate"] = [_spike(spike)]
    statuses = [report["status"], *(check["status"] for found in checks.values() for check in found)]
    return {"status": max(statuses, key=_WORST.index), "checks": checks}


def _waiting(name: str, sink: SinkStats) -> dict[str, Any]:
    check: dict[str, Any] = {
        "componentId": name,
        "status": "pass" if sink.is_up else "warn",
        "observedValue": sink.waiting,
        "observedUnit": "records",
        "oldestAgeSeconds": round(sink.oldest_age_s, 1),
    }
    if sink.drained_in_s is not None:
        check["drainedInSeconds"] = round(sink.drained_in_s, 1)
    if not sink.is_up:
        check["withoutIt"] = "records wait on local disk and are delivered later"
    return check


def _spike(spike: ErrorRateState) -> dict[str, Any]:
    return {
        "status": "warn" if spike.active else "pass",
        "observedValue": round(spike.rate_fast, 4),
        "observedUnit": "1",
        "generations": spike.volume,
    }


def _export(name: str, export: ExportStats) -> dict[str, Any]:
    check: dict[str, Any] = {
        "componentId": name,
        "status": "warn" if export.last_error else "pass",
        "observedValue": export.waiting,
        "observedUnit": "spans",
        "spoolBytes": export.spool_bytes,
    }
    if export.last_error:
        check["output"] = export.last_error
        where = "on local disk" if export.spooled else "in memory, and a crash would lose them"
        check["withoutIt"] = f"traces are sent later; they wait {where}"
    return check


def _breaker(guard: GuardState, *, is_critical: bool) -> dict[str, Any]:
    is_refused = guard.rejects_for_s > 0
    is_well = guard.state == "closed" and not guard.attention and not is_refused
    check: dict[str, Any] = {
        "componentId": guard.name,
        "status": "pass" if is_well else "fail" if is_critical and is_refused else "warn",
        "critical": is_critical,
        "observedValue": guard.state,
        "mode": guard.mode,
    }
    if guard.last_success_age_s is not None:
        check["lastSuccessAgeSeconds"] = round(guard.last_success_age_s, 1)
    if guard.rejects_for_s:
        check["retryAfterSeconds"] = round(guard.rejects_for_s, 1)
        check["withoutIt"] = "calls are refused at once, and what serves in their place answers"
    if guard.attention:
        check["output"] = f"{guard.attention}: somebody has to look at it"
    return check
