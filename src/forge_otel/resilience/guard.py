"""One guard for every call to an outside service.

Policies from outer to inner::

    fallback → total deadline → retry → breaker → concurrency limit → attempt timeout → the call

Each attempt is one sample of the breaker. A guard that tries again switches off the trying again of all guards inside
it. A stream is tried again only before its first chunk. With `async with guard:` the block cannot be run twice nor in
another task, so that only deadline, breaker and limit apply.

Without an attempt timeout a call is awaited in place: it costs about a microsecond, and its deadline refuses to begin
attempts, pauses and nested calls that cannot end in time, but does not interrupt. With one, each attempt is a task.
"""

import functools
import inspect
import random
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from forge_otel.errors import ConfigurationError
from forge_otel.resilience.admission import AdmissionControl, Opened
from forge_otel.resilience.attempt_timeout import END
from forge_otel.resilience.deadline import SYSTEM_CLOCK, Clock, Scope, current_scope
from forge_otel.resilience.event_loop_lag import stalled_s
from forge_otel.resilience.events import GuardListener, GuardListeners, GuardState, Hook
from forge_otel.resilience.fallback import Fallback, first_answer, is_outage
from forge_otel.resilience.policies import Policies, defaults_for
from forge_otel.resilience.retry import Classify, RetryBudget, classify, left_alone, pause_s, verdict_of

__all__ = ["Guard", "Guards"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_MAX_GUARDS: Final = 100


class _Entry(Scope):
    """An `async with` block that is running."""

    __slots__ = ("guard", "started_s", "ticket")
    guard: "Guard"
    started_s: float
    ticket: int


class Guard:
    """Stands around every call to one outside service; for one event loop.

    As decorator on async functions and async generator functions, as `async with guard:`, as
    `await guard.call(function, …)`, and around streams as `guard.stream(function, …)`.

    Args:
        name: the service's name, of few values.
        policies: how it is guarded; `defaults_for` its name where they are left out.
        classify: says what an error means; pure.
        fallbacks: answer in their order when the service does not.
        budget: what trying again may add, shared by all guards.
        listeners: whoever wants to know.
        clock: time, for tests.
        rng: draws from [0, 1), for the jitter of pauses and of the breaker's open time.
        gate: of another guard of the same service, to share its breaker and limit.
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
        gate: AdmissionControl | None = None,
    ) -> None:
        self.name = name
        self.policies = policies or defaults_for(name)
        self.gate = gate or AdmissionControl(
            name, self.policies, listeners=listeners or GuardListeners(), clock=clock, rng=rng
        )
        self._breaker = self.gate.breaker
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
        """Return a guard with the same gate, for calls to the same service that differ in this.

        Args:
            fallbacks: answer in their order when the service does not.
            classify: says what an error of these calls means.
        """
        return Guard(
            self.name,
            self.policies,
            classify=classify or self._classify,
            fallbacks=self._fallbacks if fallbacks is None else fallbacks,
            budget=self._budget,
            clock=self._clock,
            rng=self._rng,
            gate=self.gate,
        )

    def __call__(self, function: F) -> F:
        """Guard every call of `function`, an async function or an async generator function.

        Raises:
            TypeError: it is neither.
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
            function: may be called several times.

        Raises:
            CircuitOpen: calls are refused for now.
            Overloaded: as many calls as may run are in flight.
            ServiceTimeout: an attempt, or all of them, took too long.
            ServiceUnavailable: the service asked to be left alone for longer than the deadline allows.
            Exception: what the last attempt raised.
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

        The first chunk decides whether the call succeeded, and until it is there the call may be tried again. A stream
        that breaks later counts as one more failure. The attempt timeout is for each chunk, the deadline for them all.

        Args:
            function: gives an async iterable, or an awaitable of one, as model clients do.

        Raises:
            Exception: as `call`, and whatever breaks the stream.
        """

        async def open_stream(*args: P.args, **kwargs: P.kwargs) -> Opened:
            made = function(*args, **kwargs)
            chunks = await made if inspect.isawaitable(made) else made
            return await self.gate.open(chunks)

        opened: Any = await self.call(open_stream, *args, **kwargs)
        if not isinstance(opened, Opened):
            # A fallback's answer.
            async for chunk in opened:
                yield chunk
            return
        chunk = opened.first
        try:
            while chunk is not END:
                yield chunk
                chunk = await self.gate.next_chunk(opened, self._classify)
        finally:
            await self.gate.close(opened)

    async def __aenter__(self) -> Self:
        gate, now_s = self.gate, self._now()
        entry = _Entry(now_s + self._total_s, False)
        entry.guard = self
        try:
            entry.ticket = gate.admit(entry.until_s, now_s)
            entry.started_s = now_s if gate.limit.take() else await gate.wait(entry.until_s, entry.ticket)
        except BaseException:
            entry.close()
            raise
        return self

    async def __aexit__(self, _type: object, exc: BaseException | None, _traceback: object) -> None:
        self.gate.limit.release()
        entry = current_scope.get()
        while entry is not None and not (entry.is_open and isinstance(entry, _Entry) and entry.guard is self):
            entry = entry.outer
        if entry is None:
            # Left in another context than it was entered in, as a generator that is closed late: nothing is known.
            return
        entry.close()
        if exc is None:
            self.gate.succeeded(entry.ticket, entry.started_s)
            self._budget.deposit()
        else:
            self.gate.failed(exc, verdict_of(exc, self._classify), entry.ticket, entry.started_s)

    async def run(self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Do what `call` does, with the arguments as they are.

        Args:
            function, args, kwargs: the call.
        """
        # One function with what is usual in line: it decides what a guard costs.
        if self._fallbacks:
            return await self._run_or_fall_back(function, args, kwargs)
        gate, breaker, now_s = self.gate, self._breaker, self._now()
        if not breaker.is_idle:
            gate.check(now_s)
        scope = Scope(now_s + self._total_s, self._is_retrying)
        attempt = 1
        try:
            while True:
                is_free = breaker.is_idle and now_s < scope.until_s
                ticket = breaker.generation if is_free else gate.admit(scope.until_s, now_s)
                started_s = now_s if gate.limit.take() else await gate.wait(scope.until_s, ticket)
                try:
                    result: Any = await (
                        function(*args, **kwargs)
                        if gate.is_in_place
                        else gate.run(function, args, kwargs, scope.until_s - started_s)
                    )
                except BaseException as exc:
                    gate.limit.release()
                    await self._clock.sleep(self._pause_s(exc, attempt, scope, ticket, started_s))
                    now_s, attempt = self._now(), attempt + 1
                    continue
                if result.__class__ is Opened:
                    # It keeps its place in the limit until it is closed.
                    result.ticket = ticket
                else:
                    gate.limit.release()
                ended_s = self._now()
                took_s = ended_s - started_s
                if took_s >= gate.slow_s:
                    took_s -= stalled_s(started_s, ended_s)
                is_slow = breaker.succeed(ticket, ended_s, took_s)
                if is_slow or breaker.messages:
                    gate.publish(is_slow=is_slow)
                self._budget.deposit()
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
            self.gate.tell("fallback_used", error_type=type(exc).__name__, detail=label)
            return answer

    def _pause_s(self, exc: BaseException, attempt: int, scope: Scope, ticket: int, started_s: float) -> float:
        """Take note of a failed attempt; return the seconds until the next one, or raise what the caller is to see."""
        verdict = verdict_of(exc, self._classify)
        self.gate.failed(exc, verdict, ticket, started_s)
        attempts = 1 if scope.is_outer_retrying else self.policies.retry.attempts
        now_s = self._now()
        try:
            if attempt >= attempts or not verdict.is_transient or self._breaker.rejects_for_s(now_s) > 0:
                raise exc
            asked_s = verdict.retry_after_s
            delay_s = pause_s(self.policies.retry, attempt, asked_s, rng=self._rng)
            if now_s + delay_s >= scope.until_s:
                if asked_s is None:
                    raise exc
                raise left_alone(self.name, asked_s) from exc
            if not self._budget.withdraw(now_s):
                self.gate.tell("budget_exhausted", error_type=type(exc).__name__)
                raise exc
            self.gate.tell("retried", error_type=type(exc).__name__, wait_s=delay_s)
            return delay_s
        finally:
            # The traceback of an exception holds this frame, which must not hold the exception.
            del exc


class Guards:
    """The guards of a process, one a service, with one budget for trying again and one set of listeners.

    Args:
        policies: how services are guarded that should not be by default.
        listeners: are told what all guards do.
        hooks: purgatory listeners, for example `factory.listeners` of an `AsyncCircuitBreakerFactory`.
        clock: time, for tests.
        rng: draws from [0, 1), for jitter.
    """

    def __init__(
        self,
        *,
        policies: Mapping[str, Policies] | None = None,
        listeners: Iterable[GuardListener] = (),
        hooks: Iterable[Hook] = (),
        clock: Clock = SYSTEM_CLOCK,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.budget = RetryBudget()
        self.listeners = GuardListeners(listeners, hooks=hooks)
        self._policies = dict(policies or {})
        self._clock = clock
        self._rng = rng
        self._guards: dict[str, Guard] = {}

    def get(self, name: str) -> Guard:
        """Return the guard of the service `name`, always the same one.

        Raises:
            ConfigurationError: there are too many; a guard is named for a service, not for a request.
        """
        found = self._guards.get(name)
        return self._make(name) if found is None else found

    def states(self) -> tuple[GuardState, ...]:
        """Return what the guards look like now, by name."""
        return tuple(self._guards[name].gate.state() for name in sorted(self._guards))

    def _make(self, name: str) -> Guard:
        if len(self._guards) >= _MAX_GUARDS:
            raise ConfigurationError([f"{name!r} is one guard too many; name guards for services, not for requests"])
        policies, clock = self._policies.get(name), self._clock
        guard = Guard(name, policies, budget=self.budget, listeners=self.listeners, clock=clock, rng=self._rng)
        self._guards[name] = guard
        return guard
