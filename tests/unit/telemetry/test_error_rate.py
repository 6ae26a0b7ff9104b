"""Spikes are found soon, noise is left alone, and each change is told once; all of it in simulated time."""

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
    """Put Poisson traffic through a detector; return its changes with the seconds since the start."""
    clock, draw = ManualClock(0.0), random.Random(seed)
    detector = ErrorRateMonitor(options, clock=clock.now_s)
    changes, end_s = [], 0.0
    for seconds, share in phases:
        end_s += seconds
        while (pause_s := draw.expovariate(calls_per_s)) < end_s - clock.now_s():
            clock.advance(pause_s)
            change = detector.record(draw.random() < share)
            if change is not None:
                changes.append((clock.now_s(), change))
        clock.advance(end_s - clock.now_s())
    return changes


def detector_at(clock: ManualClock, *, calls: int = 0, errors: int = 0, over_s: float = 1.0) -> ErrorRateMonitor:
    """A detector that has seen `calls`, of which the first `errors` failed, evenly spread."""
    detector = ErrorRateMonitor(clock=clock.now_s)
    for number in range(calls):
        detector.record(number < errors)
        clock.advance(over_s / calls)
    return detector


def test_five_percent_are_found_within_thirty_seconds() -> None:
    """At 20 calls/s out of noise: half of the time within 15 s, and as good as always within 30 s."""
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
def test_noise_is_quiet(calls_per_s: float, hours: int) -> None:
    """Half a percent of errors is no alert for a day, with little traffic and with much."""
    assert simulate([(hours * 60 * MINUTE_S, NOISE)], calls_per_s=calls_per_s, seed=7) == []


def test_an_outage_with_little_traffic_is_found_by_the_slow_window() -> None:
    """A call every five seconds never fills the fast window; the slow one has seen enough within two minutes."""
    for seed in range(20):
        changes = simulate([(10 * MINUTE_S, 0.0), (5 * MINUTE_S, 1.0)], calls_per_s=0.2, seed=seed)
        found_s, change = changes[0]
        assert found_s - 10 * MINUTE_S < 2 * MINUTE_S
        assert change.state.volume < ErrorRateOptions().min_errors


@pytest.mark.parametrize("calls", [1, 3, 19])
def test_a_few_failures_are_no_spike(calls: int) -> None:
    """All of nineteen calls failing is a rate of 100 %, and not enough to go by."""
    detector = detector_at(ManualClock(), calls=calls, errors=calls)
    state = detector.state()
    assert (state.rate_fast, state.active) == (1.0, False)


def test_failures_that_are_over_are_no_spike() -> None:
    """What only the slow window remembers is not happening any more."""
    clock = ManualClock()
    detector = detector_at(clock, calls=14, errors=14)
    clock.advance(60)
    assert [detector.record(False) for _ in range(10)] == [None] * 10
    assert detector.state().rate_slow > ErrorRateOptions().open_rate


def test_the_edge_is_where_the_options_say() -> None:
    """One error fewer than the minimum is none, the next one opens."""
    clock = ManualClock()
    detector = detector_at(clock, calls=500, errors=14)
    change = detector.record(True)
    assert change is not None
    assert change.state.active
    assert change.state.since_s == clock.now_s()
    assert change.state.rate_fast == pytest.approx(15 / 501)
    assert change.state.volume == 501
    assert detector.record(True) is None


def test_a_spike_is_over_when_it_has_been_quiet_for_a_while() -> None:
    """It closes a good minute after the errors end, and stays closed, though the slow window saw many."""
    for seed in range(5):
        phases = [(10 * MINUTE_S, NOISE), (5 * MINUTE_S, 0.5), (30 * MINUTE_S, NOISE)]
        (opened_s, opened), (closed_s, closed) = simulate(phases, calls_per_s=20, seed=seed)
        assert (opened.state.active, closed.state.active) == (True, False)
        assert 15 * MINUTE_S + 60 <= closed_s < 35 * MINUTE_S
        assert opened.lasted_s == pytest.approx(opened_s)
        assert closed.lasted_s == pytest.approx(closed_s - opened_s)


def test_a_spike_that_is_over_is_no_evidence_for_the_next() -> None:
    """A single failure after it does not bring it back, though ten minutes have not passed."""
    clock = ManualClock()
    detector = detector_at(clock, calls=100, errors=100)
    clock.advance(120)
    assert detector.check() is not None
    assert [detector.record(is_error) for is_error in (True, False, False)] == [None] * 3


@pytest.mark.parametrize("share", [0.02, 0.025, 0.03, 0.05])
def test_a_rate_around_the_threshold_does_not_flap(share: float) -> None:
    """An hour at the very edge is one alert."""
    for seed in range(3):
        assert len(simulate([(60 * MINUTE_S, share)], calls_per_s=20, seed=seed)) <= 1


def test_without_calls_check_ends_a_spike() -> None:
    """A service that nobody calls any more fails nobody; `check` says so once."""
    clock = ManualClock()
    detector = detector_at(clock, calls=100, errors=100)
    clock.advance(30)
    assert detector.check() is None
    assert detector.state().active
    clock.advance(60)
    change = detector.check()
    assert change is not None
    assert not change.state.active
    assert detector.check() is None


def test_idle_windows_empty_themselves() -> None:
    """Each window forgets in its own time, by looking alone."""
    clock = ManualClock()
    detector = detector_at(clock, calls=10, errors=5)
    assert (detector.state().rate_fast, detector.state().rate_slow) == (0.5, 0.5)
    clock.advance(31)
    assert (detector.state().rate_fast, detector.state().rate_slow, detector.state().volume) == (0.0, 0.5, 0)
    clock.advance(600)
    assert detector.state().rate_slow == 0.0


def test_a_clock_that_goes_back_stands_still() -> None:
    """Nothing is counted twice, lost early or negative."""
    clock = ManualClock(5000.0)
    detector = detector_at(clock, calls=100, errors=0)
    clock.advance(-4000)
    for _ in range(20):
        detector.record(True)
    state = detector.state()
    assert state.volume == 120
    assert state.rate_fast == pytest.approx(20 / 120)
    assert state.since_s >= 5000
    clock.advance(4000 + 31)
    assert detector.state().volume == 0


def test_its_size_never_changes() -> None:
    """A month of calls takes as much memory as an hour."""
    clock = ManualClock()
    detector = ErrorRateMonitor(clock=clock.now_s)

    def size_bytes() -> int:
        windows = (detector._fast, detector._slow)
        return sum(sys.getsizeof(window._buckets) + sum(map(sys.getsizeof, window._buckets)) for window in windows)

    before = size_bytes()
    for number in range(30_000):
        clock.advance(86.4)
        detector.record(number % 3 == 0)
    assert size_bytes() == before


def test_of_many_threads_one_is_told() -> None:
    """A change is returned to one caller only, and no call is lost."""
    clock = ManualClock()
    detector = ErrorRateMonitor(clock=clock.now_s)
    told: list[ErrorRateChange] = []
    barrier = threading.Barrier(8)

    def fail() -> None:
        barrier.wait()
        told.extend(change for _ in range(2000) if (change := detector.record(True)) is not None)

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [change.state.active for change in told] == [True]
    assert detector.state().volume == 16_000


def test_options_are_checked_together() -> None:
    """All faults are listed at once."""
    with pytest.raises(ConfigurationError) as refused:
        ErrorRateOptions(fast_s=600, open_rate=0.01, min_errors=0, quiet_s=-1)
    assert len(refused.value.faults) == 4
