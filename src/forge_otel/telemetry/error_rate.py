"""Detection of error-rate spikes over two sliding windows, with one event at the beginning and one at the end.

The fast window detects a spike within seconds if there is traffic; the slow window has enough calls in a service with
little traffic. Three rules prevent false alerts: a minimum of calls, a minimum of errors, and hysteresis, by which the
spike ends only after the rate has stayed low for some time.

With the defaults, an error rate of 5 % at 20 calls/s is detected within 30 s, and an error rate of 0.5 % causes less
than one false alert a day at any traffic: its errors are Poisson distributed, so that 15 errors within 30 s at a rate
of 2.5 % occur once in six weeks at most.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from forge_otel._internal.checks import require

__all__ = ["ErrorRateChange", "ErrorRateMonitor", "ErrorRateOptions", "ErrorRateState"]

# Both windows are precise to a thirtieth of their length: 1 s and 20 s by default.
_BUCKETS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRateOptions:
    """Thresholds and windows of an `ErrorRateMonitor`.

    Args:
        fast_s: length of the fast window in seconds.
        slow_s: length of the slow window in seconds.
        open_rate: error rate (0-1) at which a spike begins.
        close_rate: error rate (0-1) of the fast window below which a spike can end.
        min_calls: minimum number of calls in a window for a spike.
        min_errors: minimum number of errors in a window for a spike.
        quiet_s: seconds that the rate must stay below `close_rate` before a spike ends.

    Raises:
        ConfigurationError: lists every fault.
    """

    fast_s: float = 30.0
    slow_s: float = 600.0
    open_rate: float = 0.025
    close_rate: float = 0.01
    min_calls: int = 20
    # With fewer, ordinary errors of a busy service would exceed the rate by chance (see the module).
    min_errors: int = 15
    quiet_s: float = 60.0

    def __post_init__(self) -> None:
        require(
            (0 < self.fast_s < self.slow_s, "error rate options need 0 < fast_s < slow_s"),
            (0 < self.close_rate < self.open_rate <= 1, "error rate options need 0 < close_rate < open_rate <= 1"),
            (self.min_calls >= 1 and self.min_errors >= 1, "error rate options need min_calls and min_errors >= 1"),
            (self.quiet_s >= 0, "error rate options need quiet_s >= 0"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRateState:
    """State of an `ErrorRateMonitor` at one moment.

    Args:
        active: whether there is a spike.
        since_s: monotonic time of the last change of `active`, in seconds.
        rate_fast: error rate (0-1) in the fast window; 0 without calls.
        rate_slow: error rate (0-1) in the slow window; both windows are cleared at the end of a spike.
        volume: number of calls in the fast window.
    """

    active: bool
    since_s: float
    rate_fast: float
    rate_slow: float
    volume: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRateChange:
    """The beginning or the end of a spike.

    Args:
        state: after the change.
        lasted_s: duration of the previous state in seconds.
    """

    state: ErrorRateState
    lasted_s: float


class ErrorRateMonitor:
    """Thread-safe monitor of the error rate of calls.

    Each change is returned by exactly one call, so that it is logged once. The caller decides which outcomes are
    errors; client errors (4xx) should not be.

    Args:
        options: thresholds and windows.
        clock: returns monotonic seconds; steps backward are ignored.
    """

    def __init__(self, options: ErrorRateOptions | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options or ErrorRateOptions()
        self._clock = clock
        self._now_s = self._since_s = self._last_high_s = clock()
        self._fast = _Window(self.options.fast_s)
        self._slow = _Window(self.options.slow_s)
        self._is_active = False
        self._lock = threading.Lock()

    def record(self, is_error: bool) -> ErrorRateChange | None:
        """Count one call, and return the change that it causes.

        Args:
            is_error: whether the call failed, other than by a client error.
        """
        with self._lock:
            now_s = self._advance_clock()
            self._fast.add(now_s, is_error=is_error)
            self._slow.add(now_s, is_error=is_error)
            return self._update()

    def check(self) -> ErrorRateChange | None:
        """Return the change caused by the passage of time.

        Call it regularly: in a service without calls a spike would not end otherwise.
        """
        with self._lock:
            self._advance_windows()
            return self._update()

    def state(self) -> ErrorRateState:
        """Return the current rates, with `active` as of the last `record` or `check`."""
        with self._lock:
            self._advance_windows()
            return self._state()

    def _advance_clock(self) -> float:
        self._now_s = max(self._now_s, self._clock())
        return self._now_s

    def _advance_windows(self) -> None:
        now_s = self._advance_clock()
        self._fast.advance_to(now_s)
        self._slow.advance_to(now_s)

    def _state(self) -> ErrorRateState:
        return ErrorRateState(
            active=self._is_active,
            since_s=self._since_s,
            rate_fast=self._fast.rate,
            rate_slow=self._slow.rate,
            volume=self._fast.calls,
        )

    def _update(self) -> ErrorRateChange | None:
        if not self._is_active:
            return self._change() if self._is_spike() else None
        if self._fast.rate >= self.options.close_rate:
            self._last_high_s = self._now_s
        if self._now_s - self._last_high_s < self.options.quiet_s:
            return None
        change = self._change()
        # The errors of this spike in the slow window would otherwise begin the next one.
        self._fast.clear()
        self._slow.clear()
        return change

    def _is_spike(self) -> bool:
        open_rate = self.options.open_rate
        if self._fast.rate < open_rate:
            return False
        return self._is_significant(self._fast) or (self._is_significant(self._slow) and self._slow.rate >= open_rate)

    def _is_significant(self, window: "_Window") -> bool:
        return window.errors >= self.options.min_errors and window.calls >= self.options.min_calls

    def _change(self) -> ErrorRateChange:
        lasted_s = self._now_s - self._since_s
        self._is_active = not self._is_active
        self._since_s = self._last_high_s = self._now_s
        return ErrorRateChange(state=self._state(), lasted_s=lasted_s)


class _Window:
    """Calls and errors of the last seconds, in a ring of buckets of constant size.

    Args:
        length_s: length in seconds, precise to a bucket.
    """

    __slots__ = ("_buckets", "_latest", "_width_s", "calls", "errors")

    def __init__(self, length_s: float) -> None:
        self._width_s = length_s / _BUCKETS
        self._latest = 0
        self.clear()

    @property
    def rate(self) -> float:
        return self.errors / self.calls if self.calls else 0.0

    def clear(self) -> None:
        self.calls = self.errors = 0
        self._buckets = [[0, 0] for _ in range(_BUCKETS)]

    def add(self, now_s: float, *, is_error: bool) -> None:
        self.advance_to(now_s)
        bucket = self._buckets[self._latest % _BUCKETS]
        bucket[0] += 1
        self.calls += 1
        if is_error:
            bucket[1] += 1
            self.errors += 1

    def advance_to(self, now_s: float) -> None:
        """Clear the buckets that are older than the window at `now_s`."""
        slot = int(now_s // self._width_s)
        for stale in range(max(self._latest, slot - _BUCKETS) + 1, slot + 1):
            bucket = self._buckets[stale % _BUCKETS]
            self.calls -= bucket[0]
            self.errors -= bucket[1]
            bucket[:] = 0, 0
        self._latest = slot
