"""How long the backlog will take, by the clock of the test."""

import pytest

from forge_otel.outbox.throughput import Throughput
from forge_otel.testing.clock import ManualClock


def test_a_steady_pace_is_told_from_the_beginning() -> None:
    """Ten a second are ten a second after one second and after ten minutes."""
    clock = ManualClock()
    pace = Throughput(clock=clock.now_s)
    for second in range(600):
        clock.advance(1.0)
        pace.add(10)
        if second in {5, 60, 599}:
            assert pace.per_s() == pytest.approx(10, rel=0.15)
            assert pace.time_for(1_000) == pytest.approx(100, rel=0.15)


def test_what_nobody_delivers_has_no_end() -> None:
    """Before the first delivery, and minutes after the last, there is no time; nothing to deliver takes none."""
    clock = ManualClock()
    pace = Throughput(clock=clock.now_s)
    assert (pace.time_for(5), pace.time_for(0)) == (None, 0.0)
    clock.advance(1.0)
    pace.add(20)
    assert pace.time_for(40) == pytest.approx(2.0, rel=0.1)
    clock.advance(600.0)
    assert pace.time_for(5) is None
