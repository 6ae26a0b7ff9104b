"""Checks of the health report beside the pings: breakers, queues, the journal, exporters and the error rate."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from forge_otel.outbox.outbox import OutboxStats, SinkStats
from forge_otel.resilience.events import GuardState
from forge_otel.telemetry.error_rate import ErrorRateState
from forge_otel.telemetry.export.accounting import ExportStats

__all__ = ["add_checks"]

_SEVERITY: Final = ("pass", "warn", "fail")


def add_checks(
    report: dict[str, Any],
    outbox: OutboxStats,
    guards: Sequence[GuardState],
    spike: ErrorRateState,
    *,
    critical: Collection[str] = (),
    damaged_files: Sequence[Path] = (),
    exports: Mapping[str, ExportStats] = MappingProxyType({}),
    tasks: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return `report` with further checks; its status is the worst status of all checks.

    Args:
        report: of the pings, from `forge_otel._runtime.health_monitor.HealthMonitor.report`.
        outbox: queued and delivered records.
        guards: states of the breakers.
        spike: state of the error rate.
        critical: services whose open breaker means `fail`; every other problem means `warn`.
        damaged_files: renamed files of the database; they are reported without a warning.
        exports: counts of spans by destination.
        tasks: name of a background task that keeps failing to the type of its last error.
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
            **({} if outbox.is_durable else {"withoutIt": "records are queued in memory, and a crash would lose them"}),
        }
    ]
    # No warning: the database was replaced by a new file and works.
    if damaged_files:
        checks["database:file"] = [
            {
                "componentId": "database",
                "status": "pass",
                "observedValue": len(damaged_files),
                "observedUnit": "damaged files",
                "output": f"renamed to {damaged_files[-1].name} and replaced by a new file",
            }
        ]
    for name, error in tasks.items():
        checks[f"{name}:task"] = [
            {"componentId": name, "status": "warn", "output": f"the task failed with {error} and is restarted"}
        ]
    checks["generations:errorRate"] = [_spike(spike)]
    statuses = [report["status"], *(check["status"] for found in checks.values() for check in found)]
    return {"status": max(statuses, key=_SEVERITY.index), "checks": checks}


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
        check["withoutIt"] = "records are queued on local disk and delivered later"
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
        check["withoutIt"] = f"traces are queued {where} and sent later"
    return check


def _breaker(guard: GuardState, *, is_critical: bool) -> dict[str, Any]:
    is_rejecting = guard.rejects_for_s > 0
    is_healthy = guard.state == "closed" and not guard.attention and not is_rejecting
    check: dict[str, Any] = {
        "componentId": guard.name,
        "status": "pass" if is_healthy else "fail" if is_critical and is_rejecting else "warn",
        "critical": is_critical,
        "observedValue": guard.state,
        "mode": guard.mode,
    }
    if guard.last_success_age_s is not None:
        check["lastSuccessAgeSeconds"] = round(guard.last_success_age_s, 1)
    if guard.rejects_for_s:
        check["retryAfterSeconds"] = round(guard.rejects_for_s, 1)
        check["withoutIt"] = "calls are rejected at once and served by their fallback"
    if guard.attention:
        check["output"] = f"{guard.attention}: an operator has to act"
    return check
