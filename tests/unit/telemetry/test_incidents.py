"""Tests of incidents: their beginning, end, counts and limits."""

import json
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_otel.errors import ConfigurationError
from forge_otel.telemetry.incidents import IncidentLog
from forge_otel.testing.clock import ManualClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def incidents_at(clock: ManualClock, **options: Any) -> IncidentLog:
    """Return a log whose wall clock is noon at 1000 s of `clock`."""
    return IncidentLog(clock=clock.now_s, wall=lambda: NOON + timedelta(seconds=clock.now_s() - 1000), **options)


def test_an_outage_is_one_incident() -> None:
    """Its minutes are from the first activation to the last, its cost is the sum of the requests."""
    clock = ManualClock()
    incidents = incidents_at(clock)
    for _ in range(4):
        incidents.record_activation("redis", "redis:uncached", cost_usd=Decimal("0.42"))
        clock.advance(60)
    (incident,) = incidents.report()
    assert (incident.service, incident.fallback, incident.is_open) == ("redis", "redis:uncached", True)
    assert (incident.minutes, incident.requests, incident.cost_usd) == (3.0, 4, Decimal("1.68"))
    assert (incident.started_at, incident.last_at) == (NOON, NOON + timedelta(minutes=3))


def test_an_incident_closes_after_the_quiet_time() -> None:
    """An earlier activation extends it, a later one opens another."""
    clock = ManualClock()
    incidents = incidents_at(clock, quiet_s=300)
    began = [incidents.record_activation("s3", "s3:outbox")]
    for pause_s in (299.9, 299.9, 300.0):
        clock.advance(pause_s)
        began.append(incidents.record_activation("s3", "s3:outbox"))
    assert began == [True, False, False, True]
    latest, first = incidents.report()
    assert (latest.is_open, latest.requests) == (True, 1)
    assert (first.is_open, first.requests) == (False, 3)
    assert first.duration_s == pytest.approx(599.8)


def test_a_report_closes_incidents() -> None:
    """No further activation is necessary."""
    clock = ManualClock()
    incidents = incidents_at(clock, quiet_s=10)
    incidents.record_activation("s3", "s3:outbox")
    clock.advance(10)
    assert [incident.is_open for incident in incidents.report()] == [False]


def test_each_fallback_has_its_own_incidents() -> None:
    """Two fallbacks of a service are two incidents; open ones come first, the latest first."""
    clock = ManualClock()
    incidents = incidents_at(clock, quiet_s=100)
    for service, fallback in [("a", "x"), ("openai", "mini"), ("openai", "cached"), ("openai", "mini")]:
        incidents.record_activation(service, fallback)
        clock.advance(40)
    assert [(incident.fallback, incident.requests, incident.is_open) for incident in incidents.report()] == [
        ("mini", 2, True),
        ("cached", 1, True),
        ("x", 1, False),
    ]


def test_unknown_costs_are_counted() -> None:
    """The sum is that of the known costs."""
    incidents = incidents_at(ManualClock())
    for cost_usd in (Decimal("0.1"), None, Decimal(0), Decimal("0.2"), None):
        incidents.record_activation("openai", "mini", cost_usd=cost_usd)
    (incident,) = incidents.report()
    assert (incident.cost_usd, incident.unpriced, incident.requests) == (Decimal("0.3"), 2, 5)


def test_to_dict_is_ready_for_json() -> None:
    """The cost is exact, times have their zone."""
    incidents = incidents_at(ManualClock())
    incidents.record_activation("openai", "mini", cost_usd=Decimal("1E-7"))
    (incident,) = incidents.report()
    assert json.loads(json.dumps(incident.to_dict())) == {
        "service": "openai",
        "fallback": "mini",
        "open": True,
        "started_at": "2026-01-01T12:00:00+00:00",
        "last_at": "2026-01-01T12:00:00+00:00",
        "minutes": 0.0,
        "requests": 1,
        "cost_usd": "0.0000001",
        "unpriced": 0,
    }


def test_the_wall_clock_has_no_effect_on_durations() -> None:
    """A step of an hour backward neither ends an incident nor moves its end before its beginning."""
    clock, wall = ManualClock(), [NOON]
    incidents = IncidentLog(clock=clock.now_s, wall=lambda: wall[0])
    incidents.record_activation("s3", "s3:outbox")
    wall[0] -= timedelta(hours=1)
    clock.advance(60)
    incidents.record_activation("s3", "s3:outbox")
    (incident,) = incidents.report()
    assert (incident.started_at, incident.last_at) == (NOON, NOON + timedelta(minutes=1))


def test_steps_backward_of_the_clock_are_ignored() -> None:
    """No duration is negative."""
    clock = ManualClock()
    incidents = incidents_at(clock)
    incidents.record_activation("s3", "s3:outbox")
    clock.advance(-500)
    incidents.record_activation("s3", "s3:outbox")
    (incident,) = incidents.report()
    assert (incident.duration_s, incident.requests) == (0.0, 2)


def test_the_number_of_closed_incidents_is_limited() -> None:
    """The oldest are removed, and their requests are counted."""
    clock = ManualClock()
    incidents = incidents_at(clock, quiet_s=1, max_closed=3)
    for number in range(10):
        incidents.record_activation("s3", f"fallback {number}")
        clock.advance(2)
    assert [incident.fallback for incident in incidents.report()] == ["fallback 9", "fallback 8", "fallback 7"]
    assert incidents.evicted_requests == 7


def test_the_number_of_open_incidents_is_limited() -> None:
    """The least recently activated one is closed."""
    clock = ManualClock()
    incidents = incidents_at(clock, max_open=5, max_closed=5)
    for number in range(1000):
        incidents.record_activation("s3", f"fallback {number}")
    report = incidents.report()
    assert [incident.is_open for incident in report] == [True] * 5 + [False] * 5
    assert incidents.evicted_requests == 990


Activation = tuple[str, str, float, Decimal | None]
ACTIVATIONS = st.lists(
    st.tuples(
        st.sampled_from(["redis", "s3", "openai"]),
        st.sampled_from(["one", "two"]),
        st.floats(-5, 400),
        st.none() | st.decimals(0, 100, places=6),
    ),
    max_size=60,
)


@given(ACTIVATIONS, st.integers(1, 4), st.sampled_from([0, 2, 1000]))
def test_no_activation_is_lost(activations: list[Activation], max_open: int, max_closed: int) -> None:
    """For any order, pauses and limits, report and evicted requests add up to the activations."""
    clock = ManualClock()
    incidents = incidents_at(clock, quiet_s=300, max_open=max_open, max_closed=max_closed)
    for service, fallback, pause_s, cost_usd in activations:
        clock.advance(pause_s)
        incidents.record_activation(service, fallback, cost_usd=cost_usd)
    report = incidents.report()
    assert sum(incident.requests for incident in report) + incidents.evicted_requests == len(activations)
    assert all(incident.duration_s >= 0 and incident.requests > 0 for incident in report)
    if max_closed == 1000:
        costs = [cost_usd for *_, cost_usd in activations]
        assert sum(incident.cost_usd for incident in report) == sum(cost for cost in costs if cost is not None)
        assert sum(incident.unpriced for incident in report) == costs.count(None)


def test_concurrent_activations_are_counted() -> None:
    """One of them opens the incident."""
    incidents = IncidentLog()
    began: list[bool] = []

    def degrade() -> None:
        began.extend(incidents.record_activation("redis", "uncached", cost_usd=Decimal("0.01")) for _ in range(1000))

    threads = [threading.Thread(target=degrade) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (incident,) = incidents.report()
    assert (incident.requests, incident.cost_usd, began.count(True)) == (8000, Decimal("80.00"), 1)


@pytest.mark.parametrize("options", [{"quiet_s": 0}, {"max_closed": -1}, {"max_open": 0}])
def test_limits_are_checked(options: dict[str, Any]) -> None:
    """An invalid limit raises."""
    with pytest.raises(ConfigurationError):
        IncidentLog(**options)
