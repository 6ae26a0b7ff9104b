"""Checks of the health report beside the pings."""

from pathlib import Path
from typing import Any

from forge_otel._runtime.health_report import add_checks
from forge_otel.outbox.outbox import OutboxStats, SinkStats
from forge_otel.resilience.guard import Guards
from forge_otel.telemetry.error_rate import ErrorRateState

PINGS = {"status": "pass", "checks": {}}
CALM = ErrorRateState(active=False, since_s=0.0, rate_fast=0.0, rate_slow=0.0, volume=0)


def _outbox(*, is_up: bool = True, is_durable: bool = True) -> OutboxStats:
    sink = SinkStats(
        produced=3,
        delivered=1,
        waiting=2,
        dropped={},
        oldest_age_s=7.0,
        drained_in_s=4.0,
        is_up=is_up,
        last_error="" if is_up else "OSError",
    )
    return OutboxStats(sinks={"archive": sink}, journal_bytes=10, is_durable=is_durable, unjournaled=0)


def _guards(mode: str) -> Guards:
    guards = Guards()
    mode_of: Any = mode
    guards.get("openai").admission.set_mode(mode_of)
    return guards


def test_a_healthy_runtime_passes() -> None:
    """Every part has a check."""
    report = add_checks(PINGS, _outbox(), _guards("auto").states(), CALM)
    assert report["status"] == "pass"
    assert set(report["checks"]) == {
        "openai:breaker",
        "archive:waiting",
        "outbox:journal",
        "generations:errorRate",
    }


def test_an_open_breaker_fails_only_for_a_critical_service() -> None:
    """For an optional one it is a warning."""
    states = _guards("forced_open").states()
    assert add_checks(PINGS, _outbox(), states, CALM)["status"] == "warn"
    assert add_checks(PINGS, _outbox(), states, CALM, critical=("openai",))["status"] == "fail"


def test_a_sink_that_is_down_is_a_warning() -> None:
    """With the number and age of its queued records."""
    check = add_checks(PINGS, _outbox(is_up=False), [], CALM)["checks"]["archive:waiting"][0]
    assert (check["status"], check["observedValue"], check["oldestAgeSeconds"]) == ("warn", 2, 7.0)
    assert check["withoutIt"] == "records are queued on local disk and delivered later"


def test_a_journal_in_memory_is_a_warning() -> None:
    """A crash would lose its records."""
    assert add_checks(PINGS, _outbox(is_durable=False), [], CALM)["status"] == "warn"


def test_an_error_spike_is_a_warning() -> None:
    """With the error rate."""
    spike = ErrorRateState(active=True, since_s=0.0, rate_fast=0.5, rate_slow=0.1, volume=20)
    check = add_checks(PINGS, _outbox(), [], spike)["checks"]["generations:errorRate"][0]
    assert (check["status"], check["observedValue"], check["generations"]) == ("warn", 0.5, 20)


def test_a_replaced_database_file_is_shown_without_a_warning() -> None:
    """The database works; the operator finds the damaged file by its name."""
    report = add_checks(PINGS, _outbox(), [], CALM, damaged_files=[Path("/x/forge.db.corrupt-1")])
    assert report["status"] == "pass"
    assert "forge.db.corrupt-1" in report["checks"]["database:file"][0]["output"]
