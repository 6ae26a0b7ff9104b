"""The circuit breaker: after repeated failures a service is left alone for a while, then probed by one call.

It stands on purgatory's state model: its `Context` holds the state and the count of consecutive failures, decides with
its own rules when the threshold is reached, and appends purgatory's past-tense events, which are handed to the user's
purgatory listeners. A `Breaker` is pure: time comes in as an argument, nothing is awaited, nobody is called.

Where it differs from purgatory 3.0.1 on purpose:

* one probe when half-open, under a lease, so that a probe that hangs cannot block the others for ever;
* every admission has a ticket; the result of a call begun before the last change of state changes nothing;
* cancelled calls and the caller's own mistakes are neutral: they neither reset nor raise the count;
* each rejection raises a fresh `CircuitOpen`: purgatory's shared instance collects the frames of all rejected requests;
* a rate rule beside the count: consecutive failures never see a service that fails four times of five;
* it may be made suspicious, so that the first failure opens it, because another worker has given the service up;
* monotonic time, and an open time with jitter that doubles while probes fail;
* a breaker can be forced open, forced closed, or only watch (`shadow`).
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from forge_otel.errors import CircuitOpen, ConfigurationError

if TYPE_CHECKING:
    from purgatory import Event

__all__ = ["Breaker", "BreakerOptions", "Mode", "State", "Window"]

State = Literal["closed", "opened", "half-opened"]
Mode = Literal["auto", "forced_open", "forced_closed", "shadow"]

# The ticket of a call whose outcome is only counted.
_NO_SAY: Final = -1
_FREE: Final = -math.inf
_PASSING: Final[frozenset[Mode]] = frozenset({"auto", "shadow"})
_BUCKETS: Final = 10
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOptions:
    """When a breaker opens, and for how long.

    Args:
        threshold: consecutive failures that open it.
        open_s: seconds that it stays open the first time; doubles with each failed probe.
        max_open_s: where the doubling ends.
        failure_rate: share of failed calls in the window that opens it.
        slow_s: a call that takes this many seconds is slow; inf: none is.
        slow_rate: share of slow calls in the window that opens it.
        min_calls: calls in the window before a share means anything.
        window_s: seconds that the window looks back.
        probe_lease_s: seconds after which a probe without a result is given up for another one.
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
        above_zero = ("threshold", "open_s", "max_open_s", "slow_s", "min_calls", "window_s", "probe_lease_s")
        faults = [f"{name} of a breaker must be above 0" for name in above_zero if not getattr(self, name) > 0]
        shares = ("failure_rate", "slow_rate")
        faults += [f"{name} of a breaker is a share in (0, 1]" for name in shares if not 0 < getattr(self, name) <= 1]
        if self.mode not in get_args(Mode):
            faults.append(f"mode of a breaker is one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        if faults:
            raise ConfigurationError(faults)


class Window:
    """Calls, failures and slow calls of the last seconds, in ten buckets of time; its size never changes.

    Args:
        window_s: seconds that it looks back, to a tenth.
    """

    __slots__ = ("_buckets", "_width_s", "bucket", "ends_s")

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / _BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets = [[0, 0, 0] for _ in range(_BUCKETS)]
        self.bucket = self._buckets[0]
        """Calls, failures and slow calls until `ends_s`."""
        self.ends_s = -math.inf

    def add(self, now_s: float, is_failure: bool, is_slow: bool) -> None:
        """Count one call that ended at `now_s`."""
        if now_s >= self.ends_s:
            self.turn_to(now_s)
        bucket = self.bucket
        bucket[0] += 1
        bucket[1] += is_failure
        bucket[2] += is_slow

    def totals(self, now_s: float) -> tuple[int, int, int]:
        """Return calls, failures and slow calls as `now_s` sees them."""
        if now_s >= self.ends_s:
            self.turn_to(now_s)
        calls, failures, slow = map(sum, zip(*self._buckets, strict=True))
        return calls, failures, slow

    def turn_to(self, now_s: float) -> None:
        """Make the bucket of `now_s` the one that is counted in, and empty those that it no longer sees."""
        slot = math.floor(now_s / self._width_s)
        if self.ends_s > -math.inf:
            latest = round(self.ends_s / self._width_s) - 1
            for stale in range(latest + 1, min(slot, latest + _BUCKETS) + 1):
                self._buckets[stale % _BUCKETS][:] = 0, 0, 0
        self.bucket = self._buckets[slot % _BUCKETS]
        self.ends_s = (slot + 1) * self._width_s


class Breaker:
    """The breaker of one service, for one event loop.

    A call is admitted with `admit`, and what came of it is told once, with its ticket, to `succeed`, `fail` or
    `ignore`. Events wait in `messages` for whoever drives the breaker.

    Args:
        name: the service's name.
        options: when it opens, and for how long.
        rng: draws from [0, 1), for the jitter of the open time.
    """

    def __init__(
        self, name: str, options: BreakerOptions | None = None, *, rng: Callable[[], float] = random.random
    ) -> None:
        # Importing purgatory imports redis where that is installed, which a bare `import forge_otel` must not do.
        from purgatory import CircuitBreakerCreated
        from purgatory.domain import model

        self.name = name
        self.options = options or BreakerOptions()
        self.window = Window(self.options.window_s)
        self.context = model.Context(name, self.options.threshold, self.options.open_s)
        self.messages: list[Event] = self.context.messages
        self.messages.append(CircuitBreakerCreated(name, self.options.threshold, self.options.open_s))
        self.mode: Mode = self.options.mode
        self.state: State = self.context.state
        """In purgatory's words."""
        self.previous_state = self.state
        self.generation = 0
        self.is_idle = self.mode in _PASSING
        """Whether every call is admitted, with the generation as its ticket."""
        self.successes = self.failures = self.ignored = self.rejected = self.slow = 0
        self.last_success_s: float | None = None
        self.attention = ""
        """What somebody has to look at, for example a rejected key; empty after the next success."""
        self.suspicious_until_s = _FREE
        """Until then the first failure opens it."""
        self.is_hearsay = False
        """Whether it opened because it was suspicious, and has not closed since."""
        self._model = model
        self._rng = rng
        self._slow_s = self.options.slow_s
        # Spares the happy path the look into purgatory's context.
        self._is_suspect = False
        self._failed_probes = 0
        # While not closed: when the next call may be a probe. Open: the end of the open time; half-open: of the lease.
        self._blocked_until_s = _FREE

    def rejects_for_s(self, now_s: float) -> float:
        """Seconds for which a call would be rejected; 0 where it would be admitted."""
        if self.mode == "forced_open":
            return self.options.open_s
        if self.mode != "auto" or self.state == "closed":
            return 0.0
        return max(0.0, self._blocked_until_s - now_s)

    def rejection(self, wait_s: float) -> CircuitOpen:
        """Count a rejected call and return what to raise.

        Args:
            wait_s: what `rejects_for_s` said.
        """
        self.rejected += 1
        return CircuitOpen(self.name, retry_after_s=wait_s)

    def admit(self, now_s: float) -> int:
        """Let a call through and return its ticket.

        Raises:
            CircuitOpen: calls are refused for now.
        """
        if self.is_idle:
            return self.generation
        wait_s = self.rejects_for_s(now_s)
        if wait_s > 0:
            raise self.rejection(wait_s)
        if self.mode == "forced_closed" or self._blocked_until_s > now_s:
            return _NO_SAY
        return self._send_probe(now_s)

    def succeed(self, ticket: int, now_s: float, duration_s: float) -> bool:
        """Take note that a call was answered; return whether it was slow."""
        self.successes += 1
        self.last_success_s = now_s
        is_slow = duration_s >= self._slow_s
        if ticket == self.generation:
            window = self.window
            # As `Window.add` does, without the call, because this is the happy path.
            if now_s >= window.ends_s:
                window.turn_to(now_s)
            window.bucket[0] += 1
            if is_slow or self._is_suspect:
                self._judge_success(now_s, is_slow=is_slow)
        if is_slow:
            self.slow += 1
        return is_slow

    def fail(self, ticket: int, exc: BaseException, now_s: float, duration_s: float) -> bool:
        """Take note that a call failed and the service is to blame; return whether it was slow."""
        self.failures += 1
        is_slow = duration_s >= self._slow_s
        self.slow += is_slow
        if ticket == self.generation:
            self.window.add(now_s, True, is_slow)
            self._is_suspect = True
            self.context.handle_exception(exc)
            self._open_by_rate(now_s)
            if now_s < self.suspicious_until_s and self.context.state == "closed":
                self.context.set_state(self._model.OpenedState(self.name))
                self.is_hearsay = True
            self._note_change(now_s)
        return is_slow

    def ignore(self, ticket: int) -> None:
        """Take note that a call ended in a way that says nothing about the service: cancelled, or wrongly asked."""
        self.ignored += 1
        if ticket == self.generation and self.state == "half-opened":
            self._blocked_until_s = _FREE

    def set_mode(self, mode: Mode) -> None:
        """Force the breaker open or closed, let it only watch, or hand it back to itself with `auto`."""
        self.mode = mode
        # What is in flight was admitted under other rules.
        self._start_anew()

    def reset(self, now_s: float) -> None:
        """Close the breaker and forget what it counted, as an operator may who knows better."""
        self.context.set_state(self._model.ClosedState())
        self._note_change(now_s)
        self._start_anew()

    def _send_probe(self, now_s: float) -> int:
        if self.state == "opened":
            self.context.set_state(self._model.HalfOpenedState())
            self._note_change(now_s)
        else:
            # The probe before this one, if it still lives, has no say any more.
            self._start_anew()
        self._blocked_until_s = now_s + self.options.probe_lease_s
        return self.generation

    def _judge_success(self, now_s: float, *, is_slow: bool) -> None:
        self.window.bucket[2] += is_slow
        if is_slow and self.state == "half-opened":
            # Closing now would only open it again after another round of slow calls.
            self.context.set_state(self._model.OpenedState(self.name))
        else:
            self._is_suspect = False
            self.attention = ""
            self.context.handle_end_request()
            if is_slow:
                self._open_by_rate(now_s)
        self._note_change(now_s)

    def _open_by_rate(self, now_s: float) -> None:
        if self.context.state != "closed":
            return
        calls, failures, slow = self.window.totals(now_s)
        options = self.options
        is_bad = failures >= options.failure_rate * calls or slow >= options.slow_rate * calls
        if is_bad and calls >= options.min_calls:
            self.context.set_state(self._model.OpenedState(self.name))

    def _note_change(self, now_s: float) -> None:
        before, self.state = self.state, self.context.state
        if self.state == before:
            return
        self.previous_state = before
        self._start_anew()
        if self.state == "closed":
            self.is_hearsay = False
        if self.state == "opened":
            self._failed_probes = self._failed_probes + 1 if before == "half-opened" else 0
            self._blocked_until_s = now_s + self._open_time_s()

    def _start_anew(self) -> None:
        """Begin a generation: results of calls that were admitted before it change nothing."""
        self.generation += 1
        self.window.clear()
        self.is_idle = self.state == "closed" and self.mode in _PASSING
        self._is_suspect = self.state == "half-opened" or bool(self.context.failure_count)

    def _open_time_s(self) -> float:
        # 2 ** 60 seconds are enough, and a float holds them.
        open_s = min(self.options.open_s * 2.0 ** min(self._failed_probes, 60), self.options.max_open_s)
        return open_s * (1 - _JITTER + 2 * _JITTER * self._rng())
