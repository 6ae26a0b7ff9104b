"""The breaker opens at its thresholds, admits one probe when half-open, and ignores neutral outcomes."""

import gc

import pytest
from purgatory import Event

from forge_otel.errors import CircuitOpen, ConfigurationError
from forge_otel.resilience.breaker import BreakerOptions, CircuitBreaker, SlidingWindow

DOWN = ConnectionError("down")


def breaker(**options: object) -> CircuitBreaker:
    """Return a breaker whose open times have no jitter."""
    return CircuitBreaker("svc", BreakerOptions(**options), rng=lambda: 0.5)  # type: ignore[arg-type]


def fail(subject: CircuitBreaker, times: int, now_s: float = 0.0) -> None:
    """Report consecutive failed calls."""
    for _ in range(times):
        subject.fail(subject.admit(now_s), DOWN, now_s, 0.0)


def test_five_consecutive_failures_open_it_for_a_minute() -> None:
    """The defaults; the rejection carries the remaining open time."""
    subject = breaker()
    fail(subject, 4)
    assert subject.state == "closed"
    fail(subject, 1, now_s=10.0)
    assert subject.state == "open"
    with pytest.raises(CircuitOpen) as caught:
        subject.admit(30.0)
    assert caught.value.name == "svc"
    assert caught.value.retry_after_s == pytest.approx(40.0)


def test_a_success_resets_the_failure_count() -> None:
    """Only consecutive failures count."""
    subject = breaker()
    for _ in range(3):
        fail(subject, 4)
        subject.succeed(subject.admit(0.0), 0.0, 0.0)
    assert subject.state == "closed"


def test_an_ignored_call_does_not_reset_the_failure_count() -> None:
    """Cancelled calls and errors of the caller are neutral; purgatory takes them for successes."""
    subject = breaker()
    fail(subject, 4)
    subject.ignore(subject.admit(0.0))
    fail(subject, 1)
    assert subject.state == "open"


def test_four_failures_of_five_open_it_by_rate() -> None:
    """They are never five in a row."""
    subject = breaker()
    for _ in range(4):
        fail(subject, 4)
        subject.succeed(subject.admit(0.0), 0.0, 0.0)
    assert (subject.state, subject.window.totals(0.0)) == ("closed", (20, 16, 0))
    fail(subject, 1)
    assert subject.state == "open"


def test_rates_are_not_evaluated_below_min_calls() -> None:
    """Ten failures in nineteen calls, never two in a row."""
    subject = breaker()
    for number in range(19):
        fail(subject, 1) if number % 2 == 0 else subject.succeed(subject.admit(0.0), 0.0, 0.0)
    assert subject.state == "closed"


def test_calls_before_the_window_do_not_count() -> None:
    """Failures of a minute ago do not add up with current ones."""
    subject = breaker()
    for number in range(38):
        now_s = 0.0 if number < 19 else 60.0
        fail(subject, 1, now_s) if number % 2 == 0 else subject.succeed(subject.admit(now_s), now_s, 0.0)
    assert subject.state == "closed"
    assert subject.window.totals(60.0) == (19, 9, 0)


def test_slow_calls_open_it() -> None:
    """80 % slow calls have the effect of failures."""
    subject = breaker(slow_s=2.0)
    for _ in range(19):
        assert subject.succeed(subject.admit(0.0), 0.0, 2.0)
    assert subject.state == "closed"
    subject.succeed(subject.admit(0.0), 0.0, 2.0)
    assert subject.state == "open"


def test_a_slow_probe_opens_it_again() -> None:
    """Otherwise twenty more slow calls would be needed."""
    subject = breaker(slow_s=2.0)
    fail(subject, 5)
    subject.succeed(subject.admit(60.0), 63.0, 3.0)
    assert subject.state == "open"


def test_half_open_admits_one_probe() -> None:
    """Of 500 calls at half-open 499 are rejected."""
    subject = breaker()
    fail(subject, 5)
    probe = subject.admit(60.0)
    assert subject.state == "half_open"
    for _ in range(499):
        with pytest.raises(CircuitOpen):
            subject.admit(60.0)
    subject.succeed(probe, 61.0, 1.0)
    assert subject.state == "closed"


def test_a_hanging_probe_is_replaced_after_its_lease() -> None:
    """Its late result is only counted."""
    subject = breaker(probe_lease_s=30.0)
    fail(subject, 5)
    hung = subject.admit(60.0)
    second = subject.admit(90.0)
    subject.fail(hung, DOWN, 91.0, 31.0)
    assert subject.state == "half_open"
    subject.succeed(second, 92.0, 2.0)
    assert subject.state == "closed"


def test_a_cancelled_probe_is_replaced_at_once() -> None:
    """It has no result."""
    subject = breaker()
    fail(subject, 5)
    subject.ignore(subject.admit(60.0))
    assert subject.state == "half_open"
    subject.succeed(subject.admit(60.0), 60.0, 0.0)
    assert subject.state == "closed"


def test_results_of_calls_admitted_before_a_state_change_are_only_counted() -> None:
    """A late failure does not open a recovered circuit, and a late success does not close an open one."""
    subject = breaker(threshold=1)
    early_failure, early_success = subject.admit(0.0), subject.admit(0.0)
    fail(subject, 1)
    subject.succeed(early_success, 1.0, 1.0)
    assert subject.state == "open"
    subject.succeed(subject.admit(60.0), 60.0, 0.0)
    subject.fail(early_failure, DOWN, 61.0, 61.0)
    assert subject.state == "closed"


def test_a_late_success_does_not_close_a_half_open_circuit() -> None:
    """Only that of the probe does."""
    subject = breaker()
    early = subject.admit(0.0)
    fail(subject, 5)
    subject.admit(60.0)
    subject.succeed(early, 61.0, 61.0)
    assert subject.state == "half_open"


def test_open_time_doubles_with_each_failed_probe_up_to_ten_minutes() -> None:
    """60, 120, 240, 480, 600, 600 s; and 60 s again after a recovery."""
    subject = breaker()
    fail(subject, 5)
    now_s, waits = 0.0, []
    for _ in range(6):
        waits.append(subject.rejects_for_s(now_s))
        now_s += waits[-1]
        fail(subject, 1, now_s)
    assert waits == pytest.approx([60, 120, 240, 480, 600, 600])
    now_s += subject.rejects_for_s(now_s)
    subject.succeed(subject.admit(now_s), now_s, 0.0)
    fail(subject, 5, now_s)
    assert subject.rejects_for_s(now_s) == pytest.approx(60)


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, 54.0), (0.999999, 66.0)])
def test_open_time_has_a_jitter_of_a_tenth(drawn: float, expected: float) -> None:
    """So that workers do not probe at the same moment."""
    subject = CircuitBreaker("svc", rng=lambda: drawn)
    fail(subject, 5)
    assert subject.rejects_for_s(0.0) == pytest.approx(expected, rel=1e-4)


def test_forced_open_rejects_and_forced_closed_never_does() -> None:
    """The mode of an operator overrides the state."""
    subject = breaker(mode="forced_open")
    with pytest.raises(CircuitOpen):
        subject.admit(0.0)
    subject.set_mode("forced_closed")
    fail(subject, 50)
    assert (subject.state, subject.failures) == ("closed", 50)
    subject.set_mode("auto")
    fail(subject, 5)
    assert subject.state == "open"


def test_shadow_changes_state_and_rejects_nothing() -> None:
    """It shows when a breaker would open."""
    subject = breaker(mode="shadow")
    fail(subject, 5)
    assert subject.state == "open"
    subject.succeed(subject.admit(1.0), 1.0, 0.0)
    assert subject.state == "open"
    subject.succeed(subject.admit(60.0), 60.0, 0.0)
    assert subject.state == "closed"


def test_reset_closes_and_clears_the_counts() -> None:
    """Results of earlier calls are only counted."""
    subject = breaker()
    before = subject.admit(0.0)
    fail(subject, 5)
    subject.reset(1.0)
    subject.fail(before, DOWN, 1.0, 1.0)
    fail(subject, 4, 2.0)
    assert subject.state == "closed"


def test_each_rejection_raises_a_new_exception() -> None:
    """purgatory raises one shared instance, which keeps the frames of all rejected requests."""
    subject = breaker(mode="forced_open")
    caught = []
    for _ in range(2):
        with pytest.raises(CircuitOpen) as info:
            subject.admit(0.0)
        caught.append(info.value)
    assert caught[0] is not caught[1]


def test_events_of_purgatory_do_not_accumulate() -> None:
    """purgatory appends an event for each failure and each state change."""
    subject = breaker(threshold=1)
    for number in range(10):
        now_s = number * 1000.0
        fail(subject, 1, now_s)
        subject.succeed(subject.admit(now_s + 700), now_s + 700, 0.0)
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, Event)]


def test_the_window_has_a_constant_size() -> None:
    """100,000 calls over a day take the memory of ten."""
    window = SlidingWindow(30.0)
    for number in range(100_000):
        window.add(number * 0.864, number % 3 == 0, False)
    calls, failures, _ = window.totals(86_400.0)
    assert 30 <= calls <= 35
    assert failures == pytest.approx(calls / 3, abs=1)
    assert window.totals(86_500.0) == (0, 0, 0)


def test_invalid_options_are_rejected_with_every_fault() -> None:
    """purgatory takes a threshold of 0 for its default."""
    with pytest.raises(ConfigurationError) as caught:
        BreakerOptions(threshold=0, open_s=0, failure_rate=2, mode="half")  # type: ignore[arg-type]
    assert len(caught.value.faults) == 4


def test_a_successful_health_check_ends_the_open_time() -> None:
    """The next call is the probe; a check that began before the opening says nothing."""
    subject = breaker()
    fail(subject, 5, now_s=10.0)
    subject.record_health_check(True, started_s=9.0)
    assert subject.rejects_for_s(11.0) > 0
    subject.record_health_check(True, started_s=11.0)
    assert subject.rejects_for_s(11.5) == 0
    subject.succeed(subject.admit(11.5), 11.5, 0.0)
    assert subject.state == "closed"


def test_a_health_check_that_contradicts_the_calls_ends_one_open_time_only() -> None:
    """The next one is ended after a failed check, which shows that the checks tell the truth again."""
    subject = breaker()
    fail(subject, 5)
    subject.record_health_check(True, started_s=1.0)
    fail(subject, 1, now_s=2.0)
    subject.record_health_check(True, started_s=3.0)
    assert subject.rejects_for_s(3.0) > 100
    subject.record_health_check(False, started_s=4.0)
    subject.record_health_check(True, started_s=5.0)
    assert subject.rejects_for_s(5.0) == 0
