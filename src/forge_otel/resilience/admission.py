"""What each attempt of a guarded call passes: breaker, concurrency limit, attempt timeout.

There is one gate a service, however many guards stand before it. It tells the listeners what happened.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from forge_otel.errors import Overloaded, ServiceTimeout
from forge_otel.resilience.attempt_timeout import AttemptTimeout, Chunks, awaited
from forge_otel.resilience.breaker import Breaker, Mode
from forge_otel.resilience.bulkhead import Bulkhead
from forge_otel.resilience.deadline import Clock, remaining_s
from forge_otel.resilience.event_loop_lag import stalled_s
from forge_otel.resilience.events import EventKind, GuardListeners, GuardState
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import Classify, Verdict, verdict_of

__all__ = ["AdmissionControl", "Opened"]


class Opened:
    """A stream whose first chunk is there; it keeps its place in the limit until it is closed."""

    __slots__ = ("chunks", "first", "ticket", "until_s")

    def __init__(self, chunks: Chunks, first: Any, *, until_s: float) -> None:
        self.chunks = chunks
        self.first = first
        self.until_s = until_s
        self.ticket = 0


class AdmissionControl:
    """The gate of one service; for one event loop.

    Args:
        name: the service's name.
        policies: how it is guarded.
        listeners: whoever wants to know.
        clock: time, for tests.
        rng: draws from [0, 1), for the jitter of the breaker's open time.
    """

    def __init__(
        self, name: str, policies: Policies, *, listeners: GuardListeners, clock: Clock, rng: Callable[[], float]
    ) -> None:
        self.name = name
        self.breaker = Breaker(name, policies.breaker, rng=rng)
        self.limit = Bulkhead(policies.limit)
        self._timeout = AttemptTimeout(name, policies.timeout, notify=self._given_up)
        self.is_in_place = policies.timeout.attempt_s is None
        """Whether attempts are awaited without a task of their own, and so without a timeout."""
        self.slow_s = policies.breaker.slow_s
        """A call that takes this many seconds may be slow; it is not, where the event loop stood still meanwhile."""
        self._listeners = listeners
        self._clock = clock
        self._now = clock.now_s
        self.publish()

    def set_mode(self, mode: Mode) -> None:
        """Force the breaker open or closed, let it only watch (`shadow`), or hand it back to itself (`auto`)."""
        self.breaker.set_mode(mode)

    def reset(self) -> None:
        """Close the breaker and forget what it counted."""
        self.breaker.reset(self._now())
        self.publish()

    def suspect(self, for_s: float) -> None:
        """Let the first failure within `for_s` seconds open the breaker; 0 ends that."""
        self.breaker.suspicious_until_s = self._now() + for_s

    def state(self) -> GuardState:
        """Return what the gate looks like now."""
        breaker, now_s = self.breaker, self._now()
        last_s = breaker.last_success_s
        return GuardState(
            name=self.name,
            state=breaker.state,
            mode=breaker.mode,
            rejects_for_s=breaker.rejects_for_s(now_s),
            successes=breaker.successes,
            failures=breaker.failures,
            ignored=breaker.ignored,
            rejected=breaker.rejected,
            slow=breaker.slow,
            in_flight=self.limit.in_flight,
            waiting=self.limit.waiting,
            abandoned=self._timeout.abandoned,
            late_errors=self._timeout.late_errors,
            last_success_age_s=None if last_s is None else now_s - last_s,
            attention=breaker.attention,
        )

    def check(self, now_s: float) -> None:
        """Refuse a call before anything is set up for it, so that refusals cost little.

        Raises:
            CircuitOpen: the breaker would reject it.
        """
        wait_s = self.breaker.rejects_for_s(now_s)
        if wait_s <= 0:
            return
        if self._listeners.is_heard:
            self.tell("rejected", detail="breaker", wait_s=wait_s)
        raise self.breaker.rejection(wait_s)

    def admit(self, until_s: float, now_s: float) -> int:
        """Pass the breaker and return the ticket that `leave` wants.

        Args:
            until_s: when the call has to be over.
            now_s: the time.

        Raises:
            ServiceTimeout: the call has to be over already.
            CircuitOpen: the breaker rejects it.
        """
        self._check_time(until_s, now_s)
        self.check(now_s)
        ticket = self.breaker.admit(now_s)
        if self.breaker.messages:
            self.publish()
        return ticket

    async def wait(self, until_s: float, ticket: int) -> float:
        """Wait for a place in the limit and return the time at which it came.

        Args:
            until_s: when the call has to be over.
            ticket: what `admit` returned; it is given back where no place comes.

        Raises:
            Overloaded: no place came.
        """
        is_in = False
        try:
            is_in = await self.limit.wait(until_s - self._now())
        finally:
            if not is_in:
                self.breaker.ignore(ticket)
        if not is_in:
            self.tell("rejected", detail="limit")
            raise Overloaded(f"{self.limit.in_flight} calls to {self.name!r} are in flight, as many as may be")
        now_s = self._now()
        if ticket != self.breaker.generation:
            # It may have opened while this one stood in line.
            try:
                self.check(now_s)
            except BaseException:
                self.limit.release()
                raise
        return now_s

    async def run(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any], rest_s: float
    ) -> Any:
        """Await `function(*args, **kwargs)` within the attempt timeout.

        Args:
            function, args, kwargs: the call.
            rest_s: seconds that are left for it by its deadline.

        Raises:
            ServiceTimeout: it takes too long.
        """
        if self._timeout.options.is_cancelled_in_place:
            return await self._timeout.run_in_place(function(*args, **kwargs), rest_s)
        return await self._timeout.run(awaited(function, *args, **kwargs), rest_s)

    def succeeded(self, ticket: int, started_s: float) -> None:
        """Take note of an answer; the place in the limit stays taken.

        Args:
            ticket, started_s: of the call.
        """
        now_s = self._now()
        took_s = now_s - started_s - stalled_s(started_s, now_s)
        self.publish(is_slow=self.breaker.succeed(ticket, now_s, took_s))

    def failed(self, exc: BaseException, verdict: Verdict, ticket: int, started_s: float) -> None:
        """Take note of a call that ended with an exception; the place in the limit stays taken.

        Args:
            exc, verdict: what it raised, and what that means.
            ticket, started_s: of the call.
        """
        error_type, now_s = type(exc).__name__, self._now()
        is_slow = False
        if verdict.kind == "ignore":
            self.breaker.ignore(ticket)
        else:
            took_s = now_s - started_s - stalled_s(started_s, now_s)
            is_slow = self.breaker.fail(ticket, exc, now_s, took_s)
        if verdict.kind == "fatal":
            self.breaker.attention = error_type
        if isinstance(exc, Exception):
            self.tell("attempt_failed", error_type=error_type, detail=verdict.kind)
        self.publish(is_slow=is_slow, error_type=error_type)

    async def open(self, stream: Any) -> Opened:
        """Wait for the first chunk of `stream`, an async iterable; to be called inside an attempt."""
        chunks = Chunks(stream, self._timeout)
        until_s = self._now() + remaining_s(clock=self._clock)
        return Opened(chunks, await chunks.first(), until_s=until_s)

    async def next_chunk(self, opened: Opened, classify: Classify) -> Any:
        """Return the next chunk or `END`; a stream that breaks is a failure more.

        Args:
            opened: the stream.
            classify: says what an error means.
        """
        started_s = self._now()
        try:
            self._check_time(opened.until_s, started_s)
            return await opened.chunks.next(opened.until_s - started_s)
        except BaseException as exc:
            self.failed(exc, verdict_of(exc, classify), opened.ticket, started_s)
            raise

    async def close(self, opened: Opened) -> None:
        """Give the stream's place back and end it."""
        self.limit.release()
        await opened.chunks.close()

    def publish(self, *, is_slow: bool = False, error_type: str = "") -> None:
        """Tell what the breaker has noted.

        Args:
            is_slow: whether the call that has just ended was slow.
            error_type: of what it raised.
        """
        if is_slow:
            self.tell("slow")
        messages = self.breaker.messages
        while messages:
            message = messages.pop(0)
            self._listeners.relay(message)
            state = getattr(message, "state", None)
            if state is not None:
                self.tell(
                    "state_changed",
                    previous=self.breaker.previous_state,
                    state=state,
                    error_type=error_type,
                    detail="slow calls" if is_slow else "",
                    wait_s=self.breaker.rejects_for_s(self._now()),
                )

    def tell(self, kind: EventKind, **facts: Any) -> None:
        """Tell the listeners that something happened to a call of this service."""
        self._listeners.tell(kind, self.name, **facts)

    def _check_time(self, until_s: float, now_s: float) -> None:
        if now_s >= until_s:
            raise ServiceTimeout(f"no time is left to ask {self.name!r}: the deadline of the call has passed")

    def _given_up(self, why: str) -> None:
        if why == "timed_out":
            self.tell("timed_out")
        self.tell("abandoned", detail=why)
