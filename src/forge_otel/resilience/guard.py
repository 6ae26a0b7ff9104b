"""Guards for calls to outside services, with one stack of policies.

From outer to inner::

    fallback → total deadline → retry → breaker → bulkhead → attempt timeout → the call

Each attempt is one sample of the breaker. A retrying guard turns off the retries of all guards inside it. A stream is
retried only before its first chunk. An `async with guard:` block can be run neither twice nor in another task, so only
deadline, breaker and bulkhead apply to it.

Without an attempt timeout a call is awaited in place, which costs about a microsecond. Its deadline then rejects
attempts, pauses and nested calls that cannot end in time, but does not interrupt. With one, each attempt is a task.
"""

import functools
import inspect
import random
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from forge_otel.errors import ConfigurationError, ServiceUnavailable
from forge_otel.resilience.admission import AdmissionControl, OpenStream, Ticket
from forge_otel.resilience.attempt_timeout import STREAM_END
from forge_otel.resilience.deadline import SYSTEM_CLOCK, Clock, DeadlineScope, current_deadline
from forge_otel.resilience.event_loop_lag import LoopLagMonitor
from forge_otel.resilience.events import GuardListener, GuardListeners, GuardState
from forge_otel.resilience.fallback import Fallback, first_answer, is_outage
from forge_otel.resilience.policies import Policies, defaults_for
from forge_otel.resilience.retry import Classify, RetryBudget, classify, pause_s, verdict_of

__all__ = ["Guard", "Guards", "unguarded"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_MAX_GUARDS: Final = 100


class _GuardedBlock(DeadlineScope):
    """A running `async with guard:` block."""

    __slots__ = ("guard", "ticket")
    guard: "Guard"
    ticket: Ticket


class Guard:
    """Guards the calls to one outside service; for one event loop.

    Usable as a decorator of async functions and async generator functions, as `async with guard:`, as
    `await guard.call(function, …)`, and for streams as `guard.stream(function, …)`.

    Args:
        name: name of the service.
        policies: options of all policies; by default `defaults_for(name)`.
        classify: returns the verdict on an error; a pure function.
        fallbacks: tried in order when the service fails.
        budget: limits the retries of all guards that share it.
        listeners: receive the events.
        clock: time source.
        rng: returns a number in [0, 1), for the jitter of pauses and of the breaker's open time.
        loop_lag: measures stalls of the event loop.
        admission: of another guard of the service, to share its breaker and bulkhead.
    """

    def __init__(
        self,
        name: str,
        policies: Policies | None = None,
        *,
        classify: Classify = classify,
        fallbacks: Sequence[Fallback] = (),
        budget: RetryBudget | None = None,
        listeners: GuardListeners | None = None,
        clock: Clock = SYSTEM_CLOCK,
        rng: Callable[[], float] = random.random,
        loop_lag: LoopLagMonitor | None = None,
        admission: AdmissionControl | None = None,
    ) -> None:
        self.name = name
        self.policies = policies or defaults_for(name)
        self.admission = admission or AdmissionControl(
            name,
            self.policies,
            listeners=listeners or GuardListeners(),
            clock=clock,
            rng=rng,
            loop_lag=loop_lag or LoopLagMonitor(),
        )
        self._classify = classify
        self._fallbacks = tuple(fallbacks)
        self._budget = budget or RetryBudget()
        self._clock = clock
        self._now = clock.now_s
        self._rng = rng
        self._total_s = self.policies.deadline.total_s
        self._is_retrying = self.policies.retry.attempts > 1
        self._without_fallbacks = self.using(fallbacks=()) if fallbacks else self

    def using(self, *, fallbacks: Sequence[Fallback] | None = None, classify: Classify | None = None) -> "Guard":
        """Return a guard of the same service that shares breaker and bulkhead, but differs in these options.

        Args:
            fallbacks: tried in order when the service fails.
            classify: returns the verdict on an error.
        """
        return Guard(
            self.name,
            self.policies,
            classify=classify or self._classify,
            fallbacks=self._fallbacks if fallbacks is None else fallbacks,
            budget=self._budget,
            clock=self._clock,
            rng=self._rng,
            admission=self.admission,
        )

    def __call__(self, function: F) -> F:
        """Guard every call of `function`, an async function or an async generator function.

        Raises:
            TypeError: `function` is neither.
        """
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def guarded_stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
                async with aclosing(self.stream(function, *args, **kwargs)) as chunks:
                    async for chunk in chunks:
                        yield chunk

            return cast("F", guarded_stream)
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is not async; guard an async function that runs it in asyncio.to_thread")

        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            return await self.run(function, args, kwargs)

        return cast("F", guarded)

    def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Await `function(*args, **kwargs)` under all policies.

        Args:
            function: called once for each attempt.

        Raises:
            CircuitOpen: the breaker rejects calls.
            Overloaded: the bulkhead is full.
            ServiceTimeout: an attempt, or all of them together, took too long.
            ServiceUnavailable: the service requested a pause that is longer than the remaining deadline.
            Exception: raised by the last attempt.
        """
        return self.run(function, args, kwargs)

    async def stream(
        self,
        function: Callable[P, AsyncIterable[T] | Awaitable[AsyncIterable[T]]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AsyncGenerator[T, None]:
        """Iterate over `function(*args, **kwargs)` under all policies.

        The call succeeds with its first chunk and can be retried until then; an error after that counts as one more
        failure. The attempt timeout applies to each chunk, the deadline to the whole stream.

        Args:
            function: returns an async iterable, or an awaitable of one, as the clients of models do.

        Raises:
            Exception: as `call`, and the errors of the stream.
        """

        async def open_stream(*args: P.args, **kwargs: P.kwargs) -> OpenStream:
            made = function(*args, **kwargs)
            chunks = await made if inspect.isawaitable(made) else made
            return await self.admission.open_stream(chunks, self._classify)

        stream: Any = await self.call(open_stream, *args, **kwargs)
        if not isinstance(stream, OpenStream):  # the answer of a fallback
            async for chunk in stream:
                yield chunk
            return
        chunk = stream.first
        try:
            while chunk is not STREAM_END:
                yield chunk
                chunk = await stream.next()
        finally:
            await stream.close()

    async def __aenter__(self) -> Self:
        now_s = self._now()
        ticket = self.admission.try_enter(now_s)
        block = _GuardedBlock(now_s + self._total_s, False)
        block.guard = self
        try:
            if ticket is None or now_s >= block.until_s:
                ticket = await self.admission.enter(now_s, block.until_s, held=ticket)
            block.ticket = ticket
        except BaseException:
            block.close()
            raise
        return self

    async def __aexit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        block = current_deadline.get()
        while block is not None and not (block.is_open and isinstance(block, _GuardedBlock) and block.guard is self):
            block = block.outer
        if block is None:
            # Left in another context than it was entered in, as by a generator that is closed late.
            self.admission.release()
            return
        block.close()
        if exc is None:
            self.admission.succeeded(block.ticket)
            self._budget.deposit()
        else:
            self.admission.failed(exc, verdict_of(exc, self._classify), block.ticket)

    async def run(self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Await `function(*args, **kwargs)`, as `call` does.

        Args:
            function, args, kwargs: the call.
        """
        if self._fallbacks:
            return await self._run_or_fall_back(function, args, kwargs)
        admission, now_s = self.admission, self._now()
        # Before the scope is made, so that the rejections of an open breaker cost little.
        ticket = admission.try_enter(now_s)
        scope = DeadlineScope(now_s + self._total_s, self._is_retrying)
        attempt = 1
        try:
            while True:
                if ticket is None or now_s >= scope.until_s:
                    ticket = await admission.enter(now_s, scope.until_s, held=ticket)
                try:
                    result: Any = await (
                        function(*args, **kwargs)
                        if admission.is_in_place
                        else admission.run(function, args, kwargs, scope.until_s - ticket[1])
                    )
                except BaseException as exc:
                    await self._clock.sleep(self._record_and_pause_s(exc, attempt, scope, ticket))
                    ticket, now_s, attempt = None, self._now(), attempt + 1
                    continue
                admission.succeeded(ticket, result)
                budget = self._budget
                # Full unless there were retries lately, which spares most calls the deposit.
                if budget.tokens < budget.capacity:
                    budget.deposit()
                return result
        finally:
            scope.close()

    async def _run_or_fall_back(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        try:
            return await self._without_fallbacks.run(function, args, kwargs)
        except Exception as exc:
            if not is_outage(exc, verdict_of(exc, self._classify)):
                raise
            label, answer = await first_answer(self._fallbacks, exc, args, kwargs)
            self.admission.emit("fallback_used", error_type=type(exc).__name__, detail=label)
            return answer

    def _record_and_pause_s(self, exc: BaseException, attempt: int, scope: DeadlineScope, ticket: Ticket) -> float:
        """Record a failed attempt and return the seconds until the next one, or raise the error of the call."""
        verdict = verdict_of(exc, self._classify)
        self.admission.failed(exc, verdict, ticket)
        attempts = 1 if scope.is_outer_retrying else self.policies.retry.attempts
        error_type = type(exc).__name__
        try:
            if attempt >= attempts or not verdict.is_transient or self.admission.rejects_for_s() > 0:
                raise exc
            now_s, requested_s = self._now(), verdict.retry_after_s
            delay_s = pause_s(self.policies.retry, attempt, requested_s, rng=self._rng)
            if now_s + delay_s >= scope.until_s:
                if requested_s is None:
                    raise exc
                raise ServiceUnavailable(
                    f"{self.name!r} requested a pause of {requested_s:.3g} s, longer than this call may take",
                    retry_after_s=requested_s,
                ) from exc
            if not self._budget.withdraw(now_s):
                self.admission.emit("budget_exhausted", error_type=error_type)
                raise exc
            self.admission.emit("retried", error_type=error_type, wait_s=delay_s)
            return delay_s
        finally:
            # The traceback of the exception holds this frame; without `del` they form a reference cycle.
            del exc


class Guards:
    """The guards of a process, one for each service, with one retry budget and one registry of listeners.

    Args:
        policies: options by service name; other services get `defaults_for` their name.
        listeners: receive the events of all guards.
        clock: time source.
        rng: returns a number in [0, 1), for jitter.
    """

    def __init__(
        self,
        *,
        policies: Mapping[str, Policies] | None = None,
        listeners: Iterable[GuardListener] = (),
        clock: Clock = SYSTEM_CLOCK,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.budget = RetryBudget()
        self.listeners = GuardListeners(listeners)
        self.loop_lag = LoopLagMonitor()
        self._policies = dict(policies or {})
        self._clock = clock
        self._rng = rng
        self._guards: dict[str, Guard] = {}

    def get(self, name: str) -> Guard:
        """Return the guard of the service `name`; created by the first call.

        Raises:
            ConfigurationError: there are too many guards, because they are named for requests and not for services.
        """
        found = self._guards.get(name)
        return self._create(name) if found is None else found

    def states(self) -> tuple[GuardState, ...]:
        """Return a snapshot of each guard, sorted by name."""
        return tuple(self._guards[name].admission.state() for name in sorted(self._guards))

    def _create(self, name: str) -> Guard:
        if len(self._guards) >= _MAX_GUARDS:
            raise ConfigurationError([f"{name!r} is one guard too many; name guards for services, not for requests"])
        guard = Guard(
            name,
            self._policies.get(name),
            budget=self.budget,
            listeners=self.listeners,
            clock=self._clock,
            rng=self._rng,
            loop_lag=self.loop_lag,
        )
        self._guards[name] = guard
        return guard


async def unguarded(function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
    """Await `function(*args, **kwargs)` as `Guard.call` does, for parts in this process, which need no guard."""
    return await function(*args, **kwargs)
