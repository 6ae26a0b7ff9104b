"""Admission control passes each attempt through breaker and bulkhead, and emits how it ends."""

import asyncio

import pytest

from forge_otel.errors import CircuitOpen, Overloaded, ServiceTimeout
from forge_otel.resilience.admission import AdmissionControl
from forge_otel.resilience.breaker import BreakerOptions
from forge_otel.resilience.bulkhead import BulkheadOptions
from forge_otel.resilience.event_loop_lag import LoopLagMonitor
from forge_otel.resilience.events import GuardEvent, GuardListeners
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import Verdict
from forge_otel.testing.clock import ManualClock

FAILURE = Verdict("failure")


def admission_of(clock: ManualClock, *, slots: int = 1) -> tuple[AdmissionControl, list[GuardEvent]]:
    """Return the admission control of a service that opens at the first failure, and its events."""
    events: list[GuardEvent] = []
    policies = Policies(
        breaker=BreakerOptions(threshold=1), bulkhead=BulkheadOptions(max_concurrent=slots, max_waiting=1)
    )
    listeners = GuardListeners([events.append])
    control = AdmissionControl(
        "svc", policies, listeners=listeners, clock=clock, rng=lambda: 0.5, loop_lag=LoopLagMonitor()
    )
    return control, events


async def test_a_full_bulkhead_queues_an_attempt() -> None:
    """`try_enter` returns None; `enter` waits for the slot and starts the attempt when it is granted."""
    clock = ManualClock(0.0)
    control, _ = admission_of(clock)
    first = control.try_enter(0.0)
    assert first == (0, 0.0)
    assert control.try_enter(0.0) is None
    queued = asyncio.create_task(control.enter(0.0, 10.0, held=None))
    await asyncio.sleep(0)
    clock.advance(3.0)
    control.succeeded(first)
    assert await queued == (0, 3.0)
    assert control.state().in_flight == 1


async def test_a_passed_deadline_releases_the_held_slot() -> None:
    """No attempt starts, and the breaker counts nothing."""
    clock = ManualClock(5.0)
    control, _ = admission_of(clock)
    held = control.try_enter(5.0)
    with pytest.raises(ServiceTimeout, match="no time is left to call 'svc'"):
        await control.enter(5.0, 5.0, held=held)
    state = control.state()
    assert (state.in_flight, state.failures, state.ignored) == (0, 0, 0)


async def test_a_breaker_that_opens_rejects_queued_attempts() -> None:
    """The slot of the failed attempt reaches the queued one, which then gives it back."""
    clock = ManualClock(0.0)
    control, events = admission_of(clock)
    running = control.try_enter(0.0)
    queued = asyncio.create_task(control.enter(0.0, 10.0, held=None))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await control.enter(0.0, 10.0, held=None)
    assert running is not None
    control.failed(ConnectionError(), FAILURE, running)
    with pytest.raises(CircuitOpen):
        await queued
    with pytest.raises(CircuitOpen):
        control.try_enter(0.0)
    state = control.state()
    assert (state.state, state.in_flight, state.rejected) == ("open", 0, 2)
    assert [(event.kind, event.detail) for event in events] == [
        ("rejected", "bulkhead"),
        ("attempt_failed", "failure"),
        ("state_changed", ""),
        ("rejected", "breaker"),
        ("rejected", "breaker"),
    ]


def test_a_reset_emits_the_change_of_state() -> None:
    """A reset of a closed breaker changes nothing and emits nothing."""
    control, events = admission_of(ManualClock(0.0))
    ticket = control.try_enter(0.0)
    assert ticket is not None
    control.failed(ConnectionError(), FAILURE, ticket)
    control.reset()
    control.reset()
    changes = [(event.previous, event.state) for event in events if event.kind == "state_changed"]
    assert changes == [("closed", "open"), ("open", "closed")]
