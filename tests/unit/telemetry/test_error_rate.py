"""Tests of error-rate spikes: detected early, without false alerts, each change returned once, in simulated time."""

import random
import sys
import threading
from collections.abc import Sequence

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.telemetry.error_rate import ErrorRateChange, ErrorRateMonitor, ErrorRateOptions
from forge_otel.testing.clock import ManualClock

NOISE = 0.005
SPIKE = 0.05
MINUTE_S = 60.0

Phase = tuple[float, float]
"""Seconds, and the share of errors in them."""


def simulate(
    phases: Sequence[Phase], *, calls_per_s: float, seed: int, options: ErrorRateOptions | None = None
) -> list[tuple[float, ErrorRateChange]]:
    """Send Poisson traffic to a monitor, and return its changes with the seconds since the start."""
    clock, draw = ManualClock(0.0), random.Random(seed)
    monitor = ErrorRateMonitor(options, clock=clock.now_s)
    changes, end_s = [], 0.0
    for seconds, share in phases:
        end_s += seconds
        while (pause_s := draw.expovariate(calls_per_s)) < end_s - clock.now_s():
            clock.advance(pause_s)
            change = monitor.record(draw.random() < share)
            if change is not None:
                changes.append((clock.now_s(), change))
        clock.advance(end_s - clock.now_s())
    return changes


def monitor_at(clock: ManualClock, *, calls: int = 0, errors: int = 0, over_s: float = 1.0) -> ErrorRateMonitor:
    """Return a monitor with evenly spread `calls`, of which the first `errors` have failed."""
    monitor = ErrorRateMonitor(clock=clock.now_s)
    for number in range(calls):
        monitor.record(number < errors)
        clock.advance(over_s / calls)
    return monitor


def test_five_percent_are_detected_within_thirty_seconds() -> None:
    """At 20 calls/s: in half of the runs within 15 s, in almost all within 30 s."""
    start_s = MINUTE_S
    delays_s = []
    for seed in range(200):
        changes = simulate([(start_s, NOISE), (MINUTE_S, SPIKE)], calls_per_s=20, seed=seed)
        assert [change.state.active for _, change in changes] == [True]
        delays_s.append(changes[0][0] - start_s)
    delays_s.sort()
    assert delays_s[0] > 0
    assert delays_s[100] < 15
    assert delays_s[197] < 30


@pytest.mark.parametrize(("calls_per_s", "hours"), [(0.5, 240), (5, 24), (20, 24), (100, 2)])
def test_noise_causes_no_alert(calls_per_s: float, hours: int) -> None:
    """Half a percent of errors for at least a day, with little traffic and with much."""
    assert simulate([(hours * 60 * MINUTE_S, NOISE)], calls_per_s=calls_per_s, seed=7) == []


def test_the_slow_window_detects_an_outage_with_little_traffic() -> None:
    """A call every five seconds never fills the fast window."""
    for seed in range(20):
        changes = simulate([(10 * MINUTE_S, 0.0), (5 * MINUTE_S, 1.0)], calls_per_s=0.2, seed=seed)
        found_s, change = changes[0]
        assert found_s - 10 * MINUTE_S < 2 * MINUTE_S
        assert change.state.volume < ErrorRateOptions().min_errors


@pytest.mark.parametrize("calls", [1, 3, 19])
def test_a_few_failures_are_no_spike(calls: int) -> None:
    """A rate of 100 % of 19 calls is not significant."""
    monitor = monitor_at(ManualClock(), calls=calls, errors=calls)
    state = monitor.state()
    assert (state.rate_fast, state.active) == (1.0, False)


def test_past_failures_are_no_spike() -> None:
    """Failures in the slow window only."""
    clock = ManualClock()
    monitor = monitor_at(clock, calls=14, errors=14)
    clock.advance(60)
    assert [monitor.record(False) for _ in range(10)] == [None] * 10
    assert monitor.state().rate_slow > ErrorRateOptions().open_rate


def test_a_spike_begins_at_the_minimum_of_errors() -> None:
    """One error fewer does not begin it."""
    clock = ManualClock()
    monitor = monitor_at(clock, calls=500, errors=14)
    change = monitor.record(True)
    assert change is not None
    assert change.state.active
    assert change.state.since_s == clock.now_s()
    assert change.state.rate_fast == pytest.approx(15 / 501)
    assert change.state.volume == 501
    assert monitor.record(True) is None


def test_a_spike_ends_after_the_quiet_time() -> None:
    """It does not begin again, although the slow window had many errors."""
    for seed in range(5):
        phases = [(10 * MINUTE_S, NOISE), (5 * MINUTE_S, 0.5), (30 * MINUTE_S, NOISE)]
        (opened_s, opened), (closed_s, closed) = simulate(phases, calls_per_s=20, seed=seed)
        assert (opened.state.active, closed.state.active) == (True, False)
        assert 15 * MINUTE_S + 60 <= closed_s < 35 * MINUTE_S
        assert opened.lasted_s == pytest.approx(opened_s)
        assert closed.lasted_s == pytest.approx(closed_s - opened_s)


def test_the_errors_of_a_spike_do_not_begin_the_next() -> None:
    """A single failure within ten minutes does not."""
    clock = ManualClock()
    monitor = monitor_at(clock, calls=100, errors=100)
    clock.advance(120)
    assert monitor.check() is not None
    assert [monitor.record(is_error) for is_error in (True, False, False)] == [None] * 3


@pytest.mark.parametrize("share", [0.02, 0.025, 0.03, 0.05])
def test_a_rate_around_the_threshold_does_not_flap(share: float) -> None:
    """An hour at the threshold is one alert."""
    for seed in range(3):
        assert len(simulate([(60 * MINUTE_S, share)], calls_per_s=20, seed=seed)) <= 1


def test_without_calls_check_ends_a_spike() -> None:
    """Once, after the quiet time."""
    clock = ManualClock()
    monitor = monitor_at(clock, calls=100, errors=100)
    clock.advance(30)
    assert monitor.check() is None
    assert monitor.state().active
    clock.advance(60)
    change = monitor.check()
    assert change is not None
    assert not change.state.active
    assert monitor.check() is None


def test_windows_without_calls_become_empty() -> None:
    """Each after its own length."""
    clock = ManualClock()
    monitor = monitor_at(clock, calls=10, errors=5)
    assert (monitor.state().rate_fast, monitor.state().rate_slow) == (0.5, 0.5)
    clock.advance(31)
    assert (monitor.state().rate_fast, monitor.state().rate_slow, monitor.state().volume) == (0.0, 0.5, 0)
    clock.advance(600)
    assert monitor.state().rate_slow == 0.0


def test_steps_backward_of_the_clock_are_ignored() -> None:
    """No call is counted twice or removed early."""
    clock = ManualClock(5000.0)
    monitor = monitor_at(clock, calls=100, errors=0)
    clock.advance(-4000)
    for _ in range(20):
        monitor.record(True)
    state = monitor.state()
    assert state.volume == 120
    assert state.rate_fast == pytest.approx(20 / 120)
    assert state.since_s >= 5000
    clock.advance(4000 + 31)
    assert monitor.state().volume == 0


def test_the_memory_is_constant() -> None:
    """After a month of calls as after an hour."""
    clock = ManualClock()
    monitor = ErrorRateMonitor(clock=clock.now_s)

    def size_bytes() -> int:
        windows = (monitor._fast, monitor._slow)
        return sum(sys.getsizeof(window._buckets) + sum(map(sys.getsizeof, window._buckets)) for window in windows)

    before = size_bytes()
    for number in range(30_000):
        clock.advance(86.4)
        monitor.record(number % 3 == 0)
    assert size_bytes() == before


def test_one_of_many_threads_receives_a_change() -> None:
    """No call is lost."""
    clock = ManualClock()
    monitor = ErrorRateMonitor(clock=clock.now_s)
    told: list[ErrorRateChange] = []
    barrier = threading.Barrier(8)

    def fail() -> None:
        barrier.wait()
        told.extend(change for _ in range(2000) if (change := monitor.record(True)) is not None)

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [change.state.active for change in told] == [True]
    assert monitor.state().volume == 16_000


def test_options_are_checked_together() -> None:
    """One error lists every fault."""
    with pytest.raises(ConfigurationError) as raised:
        ErrorRateOptions(fast_s=600, open_rate=0.01, min_errors=0, quiet_s=-1)
    assert len(raised.value.faults) == 4
