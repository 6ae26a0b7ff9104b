"""The circuit breaker: closed → open after repeated failures → half-open with one probe call → closed.

It uses purgatory's state model: purgatory's `Context` holds the state and the number of consecutive failures, and
applies the threshold. A `CircuitBreaker` is pure: time is an argument, nothing is awaited, and no other part is called.

Deliberate differences from purgatory 3.0.1:

* half-open admits one probe under a lease, so that a hanging probe cannot block all later calls;
* each admission has a ticket; the result of a call that was admitted before the last state change is only counted;
* cancelled calls and errors of the caller are neutral: they neither reset nor raise the failure count;
* each rejection raises a new `CircuitOpen`: purgatory's shared instance collects the frames of all rejected requests;
* a failure rate beside the consecutive count, which never opens for a service that fails four times of five;
* a sensitized breaker opens at the first failure, because another worker's breaker for the service is open;
* monotonic time, and an open time with jitter that doubles while probes fail;
* a successful health check ends the open time, as Envoy's active health checks end an ejection;
* a breaker can be forced open, forced closed, or only observe (`shadow`).
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from forge_otel._internal.checks import require
from forge_otel.errors import CircuitOpen

__all__ = ["BreakerOptions", "CircuitBreaker", "Mode", "SlidingWindow", "State"]

State = Literal["closed", "open", "half_open"]
Mode = Literal["auto", "forced_open", "forced_closed", "shadow"]

# purgatory's names of the states.
_STATES: Final[Mapping[str, State]] = {"closed": "closed", "opened": "open", "half-opened": "half_open"}
# The ticket of a call whose outcome cannot change the state.
_COUNTED_ONLY: Final = -1
_NEVER: Final = -math.inf
_ADMITTING_MODES: Final[frozenset[Mode]] = frozenset({"auto", "shadow"})
_BUCKETS: Final = 10
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOptions:
    """When a breaker opens, and for how long.

    Args:
        threshold: consecutive failures that open it.
        open_s: first open time in seconds; doubles with each failed probe.
        max_open_s: largest open time in seconds.
        failure_rate: fraction of failed calls in the window that opens it.
        slow_s: duration from which a call is slow, in seconds; inf: no call is slow.
        slow_rate: fraction of slow calls in the window that opens it.
        min_calls: calls in the window below which the two rates are not evaluated.
        window_s: length of the sliding window in seconds.
        probe_lease_s: seconds after which an unfinished probe is replaced by the next call.
        mode: `auto`, `forced_open`, `forced_closed`, or `shadow`: changes state but rejects nothing.

    Raises:
        ConfigurationError: with every fault at once.
    """

    threshold: int = 5
    open_s: float = 60.0
    max_open_s: float = 600.0
    failure_rate: float = 0.5
    slow_s: float = math.inf
    slow_rate: float = 0.8
    min_calls: int = 20
    window_s: float = 30.0
    probe_lease_s: float = 30.0
    mode: Mode = "auto"

    def __post_init__(self) -> None:
        positive = ("threshold", "open_s", "max_open_s", "slow_s", "min_calls", "window_s", "probe_lease_s")
        rates = ("failure_rate", "slow_rate")
        require(
            *((getattr(self, name) > 0, f"{name} of a breaker must be above 0") for name in positive),
            *((0 < getattr(self, name) <= 1, f"{name} of a breaker must be a fraction in (0, 1]") for name in rates),
            (
                self.mode in get_args(Mode),
                f"mode of a breaker is one of {', '.join(get_args(Mode))}, not {self.mode!r}",
            ),
        )


class SlidingWindow:
    """Sliding window of calls, failures and slow calls in ten time buckets; constant in size.

    Args:
        window_s: length in seconds, to a tenth.
    """

    __slots__ = ("_buckets", "_width_s", "bucket", "ends_s")

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / _BUCKETS
        self.clear()

    def clear(self) -> None:
        """Empty all buckets."""
        self._buckets = [[0, 0, 0] for _ in range(_BUCKETS)]
        self.bucket = self._buckets[0]
        """Calls, failures and slow calls of the current bucket, which ends at `ends_s`."""
        self.ends_s = -math.inf

    def add(self, now_s: float, is_failure: bool, is_slow: bool) -> None:
        """Count one call that ended at `now_s`."""
        if now_s >= self.ends_s:
            self.advance(now_s)
        bucket = self.bucket
        bucket[0] += 1
        bucket[1] += is_failure
        bucket[2] += is_slow

    def totals(self, now_s: float) -> tuple[int, int, int]:
        """Return calls, failures and slow calls of the window that ends at `now_s`."""
        if now_s >= self.ends_s:
            self.advance(now_s)
        calls, failures, slow = map(sum, zip(*self._buckets, strict=True))
        return calls, failures, slow

    def advance(self, now_s: float) -> None:
        """Make the bucket of `now_s` the current one and empty the buckets that left the window."""
        index = math.floor(now_s / self._width_s)
        if self.ends_s > -math.inf:
            latest = round(self.ends_s / self._width_s) - 1
            for expired in range(latest + 1, min(index, latest + _BUCKETS) + 1):
                self._buckets[expired % _BUCKETS][:] = 0, 0, 0
        self.bucket = self._buckets[index % _BUCKETS]
        self.ends_s = (index + 1) * self._width_s


class CircuitBreaker:
    """The breaker of one service, for one event loop.

    `admit` returns a ticket for each call; its outcome is reported once with that ticket to `succeed`, `fail` or
    `ignore`.

    Args:
        name: name of the service.
        options: when it opens, and for how long.
        rng: returns a number in [0, 1), for the jitter of the open time.
    """

    def __init__(
        self, name: str, options: BreakerOptions | None = None, *, rng: Callable[[], float] = random.random
    ) -> None:
        # Importing purgatory imports redis where that is installed, which a bare `import forge_otel` must not do.
        from purgatory.domain import model

        self.name = name
        self.options = options or BreakerOptions()
        self.window = SlidingWindow(self.options.window_s)
        self.mode: Mode = self.options.mode
        self.state: State = "closed"
        self.generation = 0
        """Number of state changes; the ticket of a call is the generation in which it was admitted."""
        self.admits_all = self.mode in _ADMITTING_MODES
        """True while every call is admitted with the current generation as its ticket."""
        self.successes = self.failures = self.ignored = self.slow = 0
        self.last_success_s: float | None = None
        self.attention = ""
        """Type of an error that needs an operator, such as a rejected key; empty after the next success."""
        self.sensitized_until_s = _NEVER
        """Monotonic time until which the first failure opens the breaker."""
        self.is_opened_by_peer = False
        """True from an opening while it was sensitized until it closes."""
        self._model = model
        self._context = model.Context(name, self.options.threshold, self.options.open_s)
        self._rng = rng
        self._slow_s = self.options.slow_s
        # False while a success cannot change purgatory's context, which then need not be called.
        self._success_matters = False
        self._failed_probes = 0
        self._opened_s = _NEVER
        # False after a health check ended the open time, until one fails or the breaker closes.
        self._may_end_early = True
        # While not closed: when the next call may become the probe. Open: the end of the open time; half-open: the end
        # of the lease.
        self._blocked_until_s = _NEVER

    @property
    def effective_state(self) -> State:
        """The state that callers meet: `open` and `closed` while it is forced."""
        if self.mode == "forced_open":
            return "open"
        return "closed" if self.mode == "forced_closed" else self.state

    def rejects_for_s(self, now_s: float) -> float:
        """Return the seconds for which calls are rejected; 0 if a call would be admitted."""
        if self.mode == "forced_open":
            return self.options.open_s
        if self.mode != "auto" or self.state == "closed":
            return 0.0
        return max(0.0, self._blocked_until_s - now_s)

    def admit(self, now_s: float) -> int:
        """Admit a call and return its ticket; once the open time is over, the call becomes the half-open probe.

        Raises:
            CircuitOpen: calls are rejected.
        """
        if self.admits_all:
            return self.generation
        wait_s = self.rejects_for_s(now_s)
        if wait_s > 0:
            raise CircuitOpen(self.name, retry_after_s=wait_s)
        if self.mode == "forced_closed" or self._blocked_until_s > now_s:
            return _COUNTED_ONLY
        return self._start_probe(now_s)

    def succeed(self, ticket: int, now_s: float, duration_s: float) -> bool:
        """Record a successful call and return whether it was slow."""
        self.successes += 1
        self.last_success_s = now_s
        is_slow = duration_s >= self._slow_s
        if ticket == self.generation:
            window = self.window
            # Inlined `SlidingWindow.add`: every successful call passes here.
            if now_s >= window.ends_s:
                window.advance(now_s)
            window.bucket[0] += 1
            if is_slow or self._success_matters:
                self._evaluate_success(now_s, is_slow=is_slow)
        if is_slow:
            self.slow += 1
        return is_slow

    def fail(self, ticket: int, exc: BaseException, now_s: float, duration_s: float) -> bool:
        """Record a call that failed by the service's fault and return whether it was slow."""
        self.failures += 1
        is_slow = duration_s >= self._slow_s
        self.slow += is_slow
        if ticket == self.generation:
            self.window.add(now_s, True, is_slow)
            self._success_matters = True
            self._context.handle_exception(exc)
            self._open_by_rate(now_s)
            if now_s < self.sensitized_until_s and self._model_state() == "closed":
                self._context.set_state(self._model.OpenedState(self.name))
                self.is_opened_by_peer = True
            self._adopt_state(now_s)
        return is_slow

    def ignore(self, ticket: int) -> None:
        """Record a call whose end says nothing about the service: cancelled, or failed by the caller's fault."""
        self.ignored += 1
        if ticket == self.generation and self.state == "half_open":
            # The probe has no result: the next call becomes the probe.
            self._blocked_until_s = _NEVER

    def record_health_check(self, is_up: bool, *, started_s: float) -> None:
        """Record a health check of the service; a successful one lets the next call probe an open breaker.

        Args:
            is_up: whether the service responded.
            started_s: monotonic time at which the check began; one from before the opening says nothing.
        """
        if not is_up:
            self._may_end_early = True
        elif self.state == "open" and self._may_end_early and started_s >= self._opened_s:
            # Once only: a service whose health check succeeds while its calls fail keeps its back-off.
            self._may_end_early = False
            self._blocked_until_s = _NEVER

    def set_mode(self, mode: Mode) -> None:
        """Force the breaker open or closed, let it only observe (`shadow`), or return it to `auto`."""
        self.mode = mode
        # Calls in flight were admitted under the rules of the earlier mode.
        self._start_generation()

    def reset(self, now_s: float) -> None:
        """Close the breaker and clear its counts, on an operator's request."""
        self._context.set_state(self._model.ClosedState())
        self._adopt_state(now_s)
        self._start_generation()

    def _start_probe(self, now_s: float) -> int:
        if self.state == "open":
            self._context.set_state(self._model.HalfOpenedState())
            self._adopt_state(now_s)
        else:
            # The lease of the earlier probe has expired: its late result is only counted.
            self._start_generation()
        self._blocked_until_s = now_s + self.options.probe_lease_s
        return self.generation

    def _evaluate_success(self, now_s: float, *, is_slow: bool) -> None:
        self.window.bucket[2] += is_slow
        if is_slow and self.state == "half_open":
            # Closing now would only open it again after another round of slow calls.
            self._context.set_state(self._model.OpenedState(self.name))
        else:
            self._success_matters = False
            self.attention = ""
            self._context.handle_end_request()
            if is_slow:
                self._open_by_rate(now_s)
        self._adopt_state(now_s)

    def _open_by_rate(self, now_s: float) -> None:
        if self._model_state() != "closed":
            return
        calls, failures, slow = self.window.totals(now_s)
        options = self.options
        is_exceeded = failures >= options.failure_rate * calls or slow >= options.slow_rate * calls
        if is_exceeded and calls >= options.min_calls:
            self._context.set_state(self._model.OpenedState(self.name))

    def _model_state(self) -> State:
        return _STATES[self._context.state]

    def _adopt_state(self, now_s: float) -> None:
        # purgatory appends an event for each step; without its message bus they would only pile up.
        self._context.messages.clear()
        before, self.state = self.state, self._model_state()
        if self.state == before:
            return
        self._start_generation()
        if self.state == "closed":
            self.is_opened_by_peer = False
            self._may_end_early = True
        if self.state == "open":
            self._opened_s = now_s
            self._failed_probes = self._failed_probes + 1 if before == "half_open" else 0
            self._blocked_until_s = now_s + self._open_time_s()

    def _start_generation(self) -> None:
        """Start a generation: results of calls admitted before it are only counted."""
        self.generation += 1
        self.window.clear()
        self.admits_all = self.state == "closed" and self.mode in _ADMITTING_MODES
        self._success_matters = self.state == "half_open" or bool(self._context.failure_count)

    def _open_time_s(self) -> float:
        # The exponent is capped so that the product stays a finite float.
        open_s = min(self.options.open_s * 2.0 ** min(self._failed_probes, 60), self.options.max_open_s)
        return open_s * (1 - _JITTER + 2 * _JITTER * self._rng())
