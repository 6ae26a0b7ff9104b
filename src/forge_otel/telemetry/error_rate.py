"""Error-rate spikes: told once when they begin and once when they are over.

Two windows look at the same calls. The fast one sees a spike within seconds where there is traffic; the slow one
gathers the evidence that a quiet service cannot give in so short a time. Three things keep noise out: a minimum of
calls, because a share of a few means nothing; a minimum of errors, because at 0.5 % noise the chance of a false alert
hangs on that number alone; and hysteresis, a spike being over only when the rate has stayed well below for a while.

The defaults are for 5 % errors at 20 calls/s to be seen within 30 s, and less than one false alert in a day of 0.5 %
noise at any traffic: errors of noise are Poisson, and 15 within 30 s at a share of 2.5 % come once in six weeks at
worst. What is an error is the caller's decision; answers that are a client's own fault (4xx) should not be.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from forge_otel.errors import ConfigurationError

__all__ = ["ErrorRateChange", "ErrorRateMonitor", "ErrorRateOptions", "ErrorRateState"]

_BUCKETS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRateOptions:
    """When a spike begins and when it is over.

    Args:
        fast_s: seconds that the fast window looks back.
        slow_s: seconds that the slow window looks back.
        open_rate: share of errors that makes a spike.
        close_rate: share of errors in the fast window that is well below.
        min_calls: calls that a window must hold to prove anything.
        min_errors: errors that a window must hold to prove anything.
        quiet_s: seconds that the rate must stay below `close_rate` for the spike to be over.

    Raises:
        ConfigurationError: with every fault at once.
    """

    fast_s: float = 30.0
    slow_s: float = 600.0
    open_rate: float = 0.025
    close_rate: float = 0.01
    min_calls: int = 20
    min_errors: int = 15
    quiet_s: float = 60.0

    def __post_init__(self) -> None:
        faults = []
        if not 0 < self.fast_s < self.slow_s:
            faults.append("fast_s of a spike detector must be above 0 and below slow_s")
        if not 0 < self.close_rate < self.open_rate <= 1:
            faults.append("the rates of a spike detector are shares: 0 < close_rate < open_rate <= 1")
        if self.min_calls < 1 or self.min_errors < 1:
            faults.append("min_calls and min_errors of a spike detector must be at least 1")
        if self.quiet_s < 0:
            faults.append("quiet_s of a spike detector may not be negative")
        if faults:
            raise ConfigurationError(faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRateState:
    """What a detector sees at one moment.

    Args:
        active: whether there is a spike.
        since_s: monotonic clock, when that last changed.
        rate_fast: share of errors in the fast window; 0 without calls.
        rate_slow: the same of the slow window; both windows begin anew when a spike is over.
        volume: calls in the fast window.
    """

    active: bool
    since_s: float
    rate_fast: float
    rate_slow: float
    volume: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRateChange:
    """A spike has begun or is over.

    Args:
        state: as of the change.
        lasted_s: how long it was the other way before.
    """

    state: ErrorRateState
    lasted_s: float


class ErrorRateMonitor:
    """Watches the outcomes of calls; safe to use from any thread.

    Each change is returned once, to the one call that brought it about, so that it is logged once.

    Args:
        options: when a spike begins and is over.
        clock: returns monotonic seconds; where it goes back it is taken to stand still.
    """

    def __init__(self, options: ErrorRateOptions | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options or ErrorRateOptions()
        self._clock = clock
        self._now_s = self._since_s = self._bad_s = clock()
        self._fast = _Window(self.options.fast_s)
        self._slow = _Window(self.options.slow_s)
        self._is_active = False
        self._lock = threading.Lock()

    def record(self, is_error: bool) -> ErrorRateChange | None:
        """Count one call; return what that changed.

        Args:
            is_error: whether the call failed through no fault of its caller.
        """
        with self._lock:
            now_s = self._tick()
            self._fast.add(now_s, is_error=is_error)
            self._slow.add(now_s, is_error=is_error)
            return self._judge()

    def check(self) -> ErrorRateChange | None:
        """Return what the time that has passed changed.

        To be called now and then: a service that is not called any more would keep its spike for ever.
        """
        with self._lock:
            self._turn()
            return self._judge()

    def state(self) -> ErrorRateState:
        """Return the present rates, and what the last `record` or `check` decided."""
        with self._lock:
            self._turn()
            return self._state()

    def _tick(self) -> float:
        self._now_s = max(self._now_s, self._clock())
        return self._now_s

    def _turn(self) -> None:
        now_s = self._tick()
        self._fast.turn_to(now_s)
        self._slow.turn_to(now_s)

    def _state(self) -> ErrorRateState:
        return ErrorRateState(
            active=self._is_active,
            since_s=self._since_s,
            rate_fast=self._fast.rate,
            rate_slow=self._slow.rate,
            volume=self._fast.calls,
        )

    def _judge(self) -> ErrorRateChange | None:
        if not self._is_active:
            return self._change() if self._is_spike() else None
        if self._fast.rate >= self.options.close_rate:
            self._bad_s = self._now_s
        if self._now_s - self._bad_s < self.options.quiet_s:
            return None
        change = self._change()
        # What this spike left in the slow window must not be the evidence for the next one.
        self._fast.clear()
        self._slow.clear()
        return change

    def _is_spike(self) -> bool:
        open_rate = self.options.open_rate
        if self._fast.rate < open_rate:
            return False
        return self._proves(self._fast) or (self._proves(self._slow) and self._slow.rate >= open_rate)

    def _proves(self, window: "_Window") -> bool:
        return window.errors >= self.options.min_errors and window.calls >= self.options.min_calls

    def _change(self) -> ErrorRateChange:
        lasted_s = self._now_s - self._since_s
        self._is_active = not self._is_active
        self._since_s = self._bad_s = self._now_s
        return ErrorRateChange(state=self._state(), lasted_s=lasted_s)


class _Window:
    """Calls and errors of the last seconds, in a ring of buckets; its size never changes.

    Args:
        span_s: seconds that it looks back, to a bucket.
    """

    __slots__ = ("_buckets", "_latest", "_width_s", "calls", "errors")

    def __init__(self, span_s: float) -> None:
        self._width_s = span_s / _BUCKETS
        self._latest = 0
        self.clear()

    @property
    def rate(self) -> float:
        return self.errors / self.calls if self.calls else 0.0

    def clear(self) -> None:
        self.calls = self.errors = 0
        self._buckets = [[0, 0] for _ in range(_BUCKETS)]

    def add(self, now_s: float, *, is_error: bool) -> None:
        self.turn_to(now_s)
        bucket = self._buckets[self._latest % _BUCKETS]
        bucket[0] += 1
        self.calls += 1
        if is_error:
            bucket[1] += 1
            self.errors += 1

    def turn_to(self, now_s: float) -> None:
        """Leave out what `now_s` no longer sees."""
        slot = int(now_s // self._width_s)
        for stale in range(max(self._latest, slot - _BUCKETS) + 1, slot + 1):
            bucket = self._buckets[stale % _BUCKETS]
            self.calls -= bucket[0]
            self.errors -= bucket[1]
            bucket[:] = 0, 0
        self._latest = slot
