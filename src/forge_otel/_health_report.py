"""What the health answer says beside the pings: breakers, queues, and whether errors are well above usual."""

from collections.abc import Sequence
from typing import Any

from forge_otel.layers.guard_events import GuardState
from forge_otel.sinks.outbox import OutboxStats
from forge_otel.telemetry.spikes import SpikeState

__all__ = ["with_parts"]


def with_parts(
    report: dict[str, Any], outbox: OutboxStats, guards: Sequence[GuardState], spike: SpikeState
) -> dict[str, Any]:
    """Return `report` with the checks of the parts; a part in trouble makes ``pass`` a ``warn``.

    Args:
        report: of the pings, as `forge_otel.health.HealthMonitor.report` gives it.
    """
    checks = dict(report["checks"])
    for guard in guards:
        checks[f"{guard.name}:breaker"] = [_breaker(guard)]
    for name, sink in outbox.sinks.items():
        checks[f"{name}:waiting"] = [
            {
                "componentId": name,
                "status": "pass" if sink.is_up else "warn",
                "observedValue": sink.waiting,
                "observedUnit": "records",
                "oldestAgeSeconds": round(sink.oldest_age_s, 1),
                **({} if sink.is_up else {"withoutIt": "records wait on local disk and are delivered later"}),
            }
        ]
    checks["outbox:journal"] = [
        {
            "componentId": "outbox",
            "status": "pass" if outbox.is_durable else "warn",
            "observedValue": outbox.journal_bytes,
            "observedUnit": "bytes",
            **({} if outbox.is_durable else {"withoutIt": "records wait in memory, and a crash would lose them"}),
        }
    ]
    checks["generations:errorRate"] = [
        {
            "status": "warn" if spike.active else "pass",
            "observedValue": round(spike.rate_fast, 4),
            "observedUnit": "1",
            "generations": spike.volume,
        }
    ]
    is_troubled = any(check["status"] != "pass" for found in checks.values() for check in found)
    status = "warn" if report["status"] == "pass" and is_troubled else report["status"]
    return {"status": status, "checks": checks}


def _breaker(guard: GuardState) -> dict[str, Any]:
    check: dict[str, Any] = {
        "componentId": guard.name,
        "status": "pass" if guard.state == "closed" and not guard.attention else "warn",
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
