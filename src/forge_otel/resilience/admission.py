"""Admission control of one service: circuit breaker, bulkhead and attempt timeout, which each attempt passes in turn.

A `Guard` uses `try_enter` and `enter`, `run`, then `succeeded` or `failed`; only this module knows the three parts
behind them. All guards of a service share one instance, which emits their events.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from forge_otel.errors import CircuitOpen, Overloaded, ServiceTimeout
from forge_otel.resilience.attempt_timeout import AbandonReason, AttemptTimeout, Chunks, awaited
from forge_otel.resilience.breaker import CircuitBreaker, Mode
from forge_otel.resilience.bulkhead import Bulkhead
from forge_otel.resilience.deadline import Clock, remaining_s
from forge_otel.resilience.event_loop_lag import LoopLagMonitor
from forge_otel.resilience.events import EventKind, GuardListeners, GuardState
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import Classify, Verdict, verdict_of

__all__ = ["AdmissionControl", "OpenStream", "Ticket"]

Ticket = tuple[int, float]
"""The breaker's ticket of an attempt, and the monotonic time at which it started."""


class OpenStream:
    """A stream whose first chunk has arrived; it holds its slot until it is closed.

    Args:
        chunks: the stream.
        first: its first chunk, or `STREAM_END`.
        until_s: deadline of the call.
        classify: classifies an error after the first chunk.
        admission: the admission control that admitted it.
    """

    __slots__ = ("_admission", "_chunks", "_classify", "_until_s", "first", "ticket")
    ticket: Ticket

    def __init__(
        self, chunks: Chunks, first: Any, *, until_s: float, classify: Classify, admission: "AdmissionControl"
    ) -> None:
        self.first = first
        self._chunks = chunks
        self._until_s = until_s
        self._classify = classify
        self._admission = admission

    async def next(self) -> Any:
        """Return the next chunk or `STREAM_END`; an error counts as one more failure of the service.

        Raises:
            ServiceTimeout: the deadline has passed, or the chunk took too long.
            Exception: raised by the stream.
        """
        started_s = self._admission.now_s()
        try:
            self._admission.check_deadline(started_s, self._until_s)
            return await self._chunks.next(self._until_s - started_s)
        except BaseException as exc:
            self._admission.record_failure(exc, verdict_of(exc, self._classify), (self.ticket[0], started_s))
            raise

    async def close(self) -> None:
        """Release the slot and close the stream."""
        self._admission.release()
        await self._chunks.close()


class AdmissionControl:
    """Decides which attempts of one service may start, and records how they end; for one event loop.

    Args:
        name: name of the service.
        policies: options of breaker, bulkhead and attempt timeout.
        listeners: receive the events.
        clock: time source.
        rng: returns a number in [0, 1), for the jitter of the breaker's open time.
        loop_lag: measures stalls of the event loop, which do not count as the service's time.
    """

    def __init__(
        self,
        name: str,
        policies: Policies,
        *,
        listeners: GuardListeners,
        clock: Clock,
        rng: Callable[[], float],
        loop_lag: LoopLagMonitor,
    ) -> None:
        self.name = name
        self.breaker = CircuitBreaker(name, policies.breaker, rng=rng)
        self._emitted_state = self.breaker.effective_state
        self._rejected = 0
        self._bulkhead = Bulkhead(policies.bulkhead)
        self._timeout = AttemptTimeout(name, policies.timeout, loop_lag=loop_lag, on_abandon=self._on_abandon)
        self.is_in_place = policies.timeout.attempt_s is None
        """True if attempts have no timeout; they are awaited directly instead of through `run`."""
        self._slow_s = policies.breaker.slow_s
        self._loop_lag = loop_lag
        self._listeners = listeners
        self._clock = clock
        self.now_s = clock.now_s

    def set_mode(self, mode: Mode) -> None:
        """Force the breaker open or closed, let it only observe (`shadow`), or return it to `auto`."""
        self.breaker.set_mode(mode)
        self._emit_changes()

    def reset(self) -> None:
        """Close the breaker and clear its counts."""
        self.breaker.reset(self.now_s())
        self._emit_changes()

    def sensitize(self, for_s: float) -> None:
        """Let the first failure within `for_s` seconds open the breaker; 0 ends that."""
        self.breaker.sensitized_until_s = self.now_s() + for_s

    def record_health_check(self, is_up: bool, *, took_s: float) -> None:
        """Record a health check of the service that has just ended; a successful one ends the open time.

        Args:
            is_up: whether the service responded.
            took_s: duration of the check in seconds.
        """
        self.breaker.record_health_check(is_up, started_s=self.now_s() - took_s)

    def rejects_for_s(self) -> float:
        """Return the seconds for which calls are rejected; 0 if a call would be admitted."""
        return self.breaker.rejects_for_s(self.now_s())

    def state(self) -> GuardState:
        """Return a snapshot."""
        breaker, now_s = self.breaker, self.now_s()
        last_s = breaker.last_success_s
        return GuardState(
            name=self.name,
            state=breaker.effective_state,
            mode=breaker.mode,
            rejects_for_s=breaker.rejects_for_s(now_s),
            successes=breaker.successes,
            failures=breaker.failures,
            ignored=breaker.ignored,
            rejected=self._rejected,
            slow=breaker.slow,
            in_flight=self._bulkhead.in_flight,
            waiting=self._bulkhead.waiting,
            abandoned=self._timeout.abandoned,
            late_errors=self._timeout.late_errors,
            last_success_age_s=None if last_s is None else now_s - last_s,
            attention=breaker.attention,
        )

    def try_enter(self, now_s: float) -> Ticket | None:
        """Admit an attempt in the usual case, a closed breaker and a free slot; None: `enter` decides.

        Raises:
            CircuitOpen: the breaker rejects calls.
        """
        breaker, bulkhead = self.breaker, self._bulkhead
        if not breaker.admits_all:
            wait_s = breaker.rejects_for_s(now_s)
            if wait_s > 0:
                raise self._rejection(wait_s)
        elif bulkhead.free > 0:
            # Inlined `Bulkhead.try_acquire`: every guarded call passes here.
            bulkhead.free -= 1
            return breaker.generation, now_s
        return None

    async def enter(self, now_s: float, until_s: float, *, held: Ticket | None) -> Ticket:
        """Admit an attempt, after a wait for a slot if none is free.

        Args:
            now_s: the time.
            until_s: deadline of the call.
            held: the result of `try_enter`; its slot is released if the deadline has passed.

        Raises:
            ServiceTimeout: the deadline has passed.
            CircuitOpen: the breaker rejects calls.
            Overloaded: there was no slot in time.
        """
        if now_s >= until_s and held is not None:
            self._bulkhead.release()
        self.check_deadline(now_s, until_s)
        wait_s = self.breaker.rejects_for_s(now_s)
        if wait_s > 0:
            raise self._rejection(wait_s)
        number = self.breaker.admit(now_s)
        self._emit_changes()
        if self._bulkhead.try_acquire():
            return number, now_s
        await self._queue(number, until_s)
        return number, self.now_s()

    async def run(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any], limit_s: float
    ) -> Any:
        """Await `function(*args, **kwargs)` within the attempt timeout.

        Args:
            function, args, kwargs: the call.
            limit_s: remaining seconds of the deadline.

        Raises:
            ServiceTimeout: the attempt took too long.
        """
        if self._timeout.options.is_cancelled_in_place:
            return await self._timeout.run_in_place(function(*args, **kwargs), limit_s)
        return await self._timeout.run(awaited(function, *args, **kwargs), limit_s)

    def succeeded(self, ticket: Ticket, result: object = None) -> None:
        """Record a successful attempt and release its slot, unless its result is an open stream."""
        number, started_s = ticket
        bulkhead = self._bulkhead
        if result.__class__ is OpenStream:
            result.ticket = ticket
        elif bulkhead.free > 0:
            # Inlined `Bulkhead.release`: no call is queued while a slot is free.
            bulkhead.free += 1
        else:
            bulkhead.release()
        now_s = self.now_s()
        took_s = now_s - started_s
        if took_s >= self._slow_s:
            took_s -= self._loop_lag.stalled_s(started_s, now_s)
        breaker = self.breaker
        is_slow = breaker.succeed(number, now_s, took_s)
        if is_slow or number != breaker.generation:
            self._emit_changes(is_slow=is_slow)

    def failed(self, exc: BaseException, verdict: Verdict, ticket: Ticket) -> None:
        """Record an attempt that ended with `exc` and release its slot."""
        self._bulkhead.release()
        self.record_failure(exc, verdict, ticket)

    def record_failure(self, exc: BaseException, verdict: Verdict, ticket: Ticket) -> None:
        """Record an attempt, or a later part of its stream, that ended with `exc`; its slot stays taken."""
        number, started_s = ticket
        error_type, is_slow = type(exc).__name__, False
        if verdict.kind == "ignore":
            self.breaker.ignore(number)
        else:
            now_s = self.now_s()
            took_s = now_s - started_s - self._loop_lag.stalled_s(started_s, now_s)
            is_slow = self.breaker.fail(number, exc, now_s, took_s)
        if verdict.kind == "fatal":
            self.breaker.attention = error_type
        if isinstance(exc, Exception):
            self.emit("attempt_failed", error_type=error_type, detail=verdict.kind)
        self._emit_changes(is_slow=is_slow, error_type=error_type)

    def check_deadline(self, now_s: float, until_s: float) -> None:
        """Reject a call whose deadline has passed.

        Raises:
            ServiceTimeout: the deadline has passed.
        """
        if now_s >= until_s:
            raise ServiceTimeout(f"no time is left to call {self.name!r}: the deadline of the call has passed")

    def release(self) -> None:
        """Release the slot of an attempt without recording an outcome."""
        self._bulkhead.release()

    def emit(self, kind: EventKind, **facts: Any) -> None:
        """Emit an event of this service."""
        self._listeners.emit(kind, self.name, **facts)

    async def open_stream(self, stream: Any, classify: Classify) -> OpenStream:
        """Wait for the first chunk of `stream`, an async iterable; called inside an attempt."""
        chunks = Chunks(stream, self._timeout)
        until_s = self.now_s() + remaining_s(clock=self._clock)
        return OpenStream(chunks, await chunks.first(), until_s=until_s, classify=classify, admission=self)

    async def _queue(self, number: int, until_s: float) -> None:
        is_acquired = False
        try:
            is_acquired = await self._bulkhead.acquire(until_s - self.now_s())
        finally:
            if not is_acquired:
                self.breaker.ignore(number)
        if not is_acquired:
            self.emit("rejected", detail="bulkhead")
            raise Overloaded(f"{self._bulkhead.in_flight} calls to {self.name!r} are in flight, which is the limit")
        # The breaker may have opened while this call was queued.
        if number != self.breaker.generation and (wait_s := self.rejects_for_s()) > 0:
            self._bulkhead.release()
            raise self._rejection(wait_s)

    def _rejection(self, wait_s: float) -> CircuitOpen:
        self._rejected += 1
        if not self._listeners.is_empty:
            self.emit("rejected", detail="breaker", wait_s=wait_s)
        return CircuitOpen(self.name, retry_after_s=wait_s)

    def _emit_changes(self, *, is_slow: bool = False, error_type: str = "") -> None:
        if is_slow:
            self.emit("slow")
        previous, state = self._emitted_state, self.breaker.effective_state
        if state == previous:
            return
        self._emitted_state = state
        self.emit(
            "state_changed",
            previous=previous,
            state=state,
            error_type=error_type,
            detail="slow calls" if is_slow else "",
            wait_s=self.rejects_for_s(),
        )

    def _on_abandon(self, reason: AbandonReason) -> None:
        if reason == "timed_out":
            self.emit("timed_out")
        self.emit("abandoned", detail=reason)
