"""Delivery rate and time to drain, on a manual clock."""

import pytest

from forge_otel.outbox.throughput import Throughput
from forge_otel.testing.clock import ManualClock


def test_a_steady_rate_is_right_from_the_beginning() -> None:
    """10 records per second are measured as such after 5 seconds and after 10 minutes."""
    clock = ManualClock()
    throughput = Throughput(clock=clock.now_s)
    for second in range(600):
        clock.advance(1.0)
        throughput.add(10)
        if second in {5, 60, 599}:
            assert throughput.per_s() == pytest.approx(10, rel=0.15)
            assert throughput.drain_time_s(1_000) == pytest.approx(100, rel=0.15)


def test_without_a_recent_delivery_there_is_no_time_to_drain() -> None:
    """It is None before the first delivery and minutes after the last one, and 0 for an empty queue."""
    clock = ManualClock()
    throughput = Throughput(clock=clock.now_s)
    assert (throughput.drain_time_s(5), throughput.drain_time_s(0)) == (None, 0.0)
    clock.advance(1.0)
    throughput.add(20)
    assert throughput.drain_time_s(40) == pytest.approx(2.0, rel=0.1)
    clock.advance(600.0)
    assert throughput.drain_time_s(5) is None
