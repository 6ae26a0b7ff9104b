"""10,000 random interleavings of calls, compared with an independent model of a breaker.

The oracle is written from the rules, not from the code: it keeps every sample of the window with its time, every call
with the number of the state in which it was admitted, and does not use purgatory.
"""

import math
import random
from dataclasses import dataclass, field

import pytest

from forge_otel.errors import CircuitOpen
from forge_otel.resilience.breaker import BreakerOptions, CircuitBreaker

SCHEDULES = 10_000
STEPS = 60
DOWN = ConnectionError("down")


@dataclass
class RunningCall:
    """A call in flight, in the terms of both sides."""

    ticket: int
    era: int
    started_s: float


@dataclass
class Oracle:
    """The rules, implemented independently."""

    options: BreakerOptions
    state: str = "closed"
    era: int = 0
    row: int = 0
    samples: list[tuple[float, bool, bool]] = field(default_factory=list)
    failed_probes: int = 0
    reopens_s: float = math.inf
    lease_ends_s: float = -math.inf

    def admits(self, now_s: float) -> bool:
        """Return whether a call is admitted; in half-open it is the probe."""
        if self.state == "closed":
            return True
        if self.state == "open" and now_s >= self.reopens_s:
            self.enter("half_open")
        elif self.state == "open" or now_s < self.lease_ends_s:
            return False
        else:
            self.era += 1
        self.lease_ends_s = now_s + self.options.probe_lease_s
        return True

    def ends(self, call: RunningCall, now_s: float, how: str, is_slow: bool) -> None:
        """Record the end of a call; neutral outcomes and calls of an earlier state change nothing."""
        if call.era != self.era:
            return
        if how == "ignored":
            self.lease_ends_s = -math.inf
            return
        is_failure = how == "failed"
        self.samples.append((now_s, is_failure, is_slow))
        self.row = self.row + 1 if is_failure else 0
        if self.state == "half_open":
            self.probe_ends(now_s, is_bad=is_failure or is_slow)
        elif (is_failure or is_slow) and (self.row >= self.options.threshold or self.is_bad(now_s)):
            self.opens(now_s)

    def probe_ends(self, now_s: float, *, is_bad: bool) -> None:
        """Close or open by the result of the probe."""
        if is_bad:
            self.failed_probes += 1
            self.opens(now_s)
        else:
            self.failed_probes = 0
            self.enter("closed")

    def is_bad(self, now_s: float) -> bool:
        """Return whether a rate is reached by enough calls; the window moves in tenths."""
        width_s = self.options.window_s / 10
        oldest = math.floor(now_s / width_s) - 9
        seen = [sample for sample in self.samples if math.floor(sample[0] / width_s) >= oldest]
        failures, slow = (sum(sample[index] for sample in seen) for index in (1, 2))
        if len(seen) < self.options.min_calls:
            return False
        return failures / len(seen) >= self.options.failure_rate or slow / len(seen) >= self.options.slow_rate

    def opens(self, now_s: float) -> None:
        """Open for twice as long after each failed probe."""
        self.enter("open")
        self.reopens_s = now_s + min(self.options.open_s * 2**self.failed_probes, self.options.max_open_s)

    def enter(self, state: str) -> None:
        """Enter a state with empty counts."""
        self.state, self.samples, self.row = state, [], 0
        self.era += 1


def options_of(rng: random.Random) -> BreakerOptions:
    """Return small options, so that everything happens within few steps."""
    return BreakerOptions(
        threshold=rng.randint(1, 6),
        open_s=8.0,
        max_open_s=32.0,
        failure_rate=rng.choice([0.25, 0.5, 1.0]),
        slow_s=rng.choice([2.0, math.inf]),
        slow_rate=rng.choice([0.5, 1.0]),
        min_calls=rng.randint(1, 8),
        window_s=10.0,
        probe_lease_s=4.0,
    )


def run(seed: int) -> set[tuple[str, str]]:
    """Run one schedule on both sides and return the changes of state."""
    rng = random.Random(seed)
    options = options_of(rng)
    breaker, oracle = CircuitBreaker("svc", options, rng=lambda: 0.5), Oracle(options)
    now_s, in_flight, changes = 1000.0, list[RunningCall](), set[tuple[str, str]]()
    for step in range(STEPS):
        before = oracle.state
        now_s += rng.choice([0.0, 0.0, 0.25, 1.0, 4.0])
        if in_flight and rng.random() < 0.5:
            end(rng, breaker, oracle, in_flight.pop(rng.randrange(len(in_flight))), now_s)
        else:
            begin(breaker, oracle, in_flight, now_s)
        assert breaker.state == oracle.state, f"seed {seed}, step {step}: {breaker.state} is not {oracle.state}"
        changes.add((before, oracle.state))
    return changes


def begin(breaker: CircuitBreaker, oracle: Oracle, in_flight: list[RunningCall], now_s: float) -> None:
    """Admit or reject a call on both sides."""
    if oracle.admits(now_s):
        in_flight.append(RunningCall(breaker.admit(now_s), oracle.era, now_s))
        return
    assert breaker.rejects_for_s(now_s) > 0
    with pytest.raises(CircuitOpen):
        breaker.admit(now_s)


def end(rng: random.Random, breaker: CircuitBreaker, oracle: Oracle, call: RunningCall, now_s: float) -> None:
    """End a call with a random outcome on both sides."""
    how = rng.choice(["answered", "failed", "failed", "ignored"])
    duration_s = now_s - call.started_s
    if how == "answered":
        breaker.succeed(call.ticket, now_s, duration_s)
    elif how == "failed":
        breaker.fail(call.ticket, DOWN, now_s, duration_s)
    else:
        breaker.ignore(call.ticket)
    oracle.ends(call, now_s, how, duration_s >= oracle.options.slow_s)


@pytest.mark.slow
def test_no_divergence_from_the_oracle() -> None:
    """Every possible change of state occurred, so the schedules are relevant."""
    seen: set[tuple[str, str]] = set()
    for seed in range(SCHEDULES):
        seen |= run(seed)
    moves = {change for change in seen if change[0] != change[1]}
    assert moves == {
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("half_open", "closed"),
    }


def test_the_oracle_detects_a_wrong_breaker() -> None:
    """A breaker that takes every failure for a success does not pass."""

    class Blind(CircuitBreaker):
        def fail(self, ticket: int, exc: BaseException, now_s: float, duration_s: float) -> bool:
            return self.succeed(ticket, now_s, duration_s)

    rng = random.Random(1)
    breaker, oracle = Blind("svc", options_of(rng), rng=lambda: 0.5), Oracle(options_of(random.Random(1)))
    for _ in range(oracle.options.threshold):
        call = RunningCall(breaker.admit(0.0), oracle.era, 0.0)
        breaker.fail(call.ticket, DOWN, 0.0, 0.0)
        oracle.ends(call, 0.0, "failed", False)
    assert breaker.state != oracle.state
