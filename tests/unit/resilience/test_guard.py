"""A guard retries, rejects and times out calls as its policies say."""

import asyncio
import gc
import inspect
import math
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from forge_otel.errors import CircuitOpen, ConfigurationError, Overloaded, ServiceTimeout, ServiceUnavailable
from forge_otel.resilience.attempt_timeout import TimeoutOptions
from forge_otel.resilience.breaker import BreakerOptions
from forge_otel.resilience.bulkhead import BulkheadOptions
from forge_otel.resilience.deadline import DeadlineOptions, remaining_s
from forge_otel.resilience.events import GuardEvent, GuardListeners
from forge_otel.resilience.guard import Guard, Guards
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import RetryBudget, RetryOptions, Verdict
from forge_otel.testing.clock import ManualClock

PLENTY = RetryBudget(reserve=1e6, capacity=1e6)


class Service:
    """Fails with the given errors, then answers; counts its calls."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self, value: str = "answer") -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return value


class Down(Service):
    """Always fails."""

    async def __call__(self, value: str = "answer") -> str:
        self.calls += 1
        raise ConnectionError


def guarded(
    clock: ManualClock | None = None,
    *,
    events: list[GuardEvent] | None = None,
    budget: RetryBudget = PLENTY,
    **parts: Any,
) -> Guard:
    """Return a guard whose pauses take no time and have no jitter."""
    listeners = GuardListeners([] if events is None else [events.append])
    return Guard(
        "svc", Policies(**parts), clock=clock or ManualClock(), listeners=listeners, budget=budget, rng=lambda: 0.5
    )


def throttled(retry_after: str) -> Exception:
    """Return a 429 error as SDKs raise it."""
    exc = Exception("slow down")
    vars(exc).update(status_code=429, response=SimpleNamespace(headers={"Retry-After": retry_after}))
    return exc


def kinds(events: list[GuardEvent]) -> list[str]:
    """Return the kinds of the events, in order."""
    return [event.kind for event in events]


async def test_a_transient_failure_is_retried() -> None:
    """Three attempts by default, with growing pauses; the caller only sees the answer."""
    clock, events = ManualClock(), list[GuardEvent]()
    service = Service(ConnectionError(), TimeoutError())
    assert await guarded(clock, events=events).call(service, "x") == "x"
    assert clock.slept_s == [0.25, 0.5]
    assert kinds(events) == ["attempt_failed", "retried", "attempt_failed", "retried"]


async def test_the_last_error_of_the_service_is_raised() -> None:
    """Unchanged, so that the exception handlers of the application still match."""
    service = Down()
    with pytest.raises(ConnectionError):
        await guarded().call(service)
    assert service.calls == 3


@pytest.mark.parametrize("exc", [ValueError("garbage"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_permanent_errors_and_cancellations_are_not_retried(exc: BaseException) -> None:
    """A retry cannot succeed, or the caller has left."""
    service = Service(exc)
    with pytest.raises(type(exc)):
        await guarded().call(service)
    assert service.calls == 1


async def test_retry_after_is_honoured_within_the_deadline() -> None:
    """The pause is the requested one plus jitter."""
    clock = ManualClock()
    assert await guarded(clock).call(Service(throttled("7"))) == "answer"
    assert clock.slept_s == [7.25]


async def test_retry_after_beyond_the_deadline_fails_at_once() -> None:
    """The error carries the requested pause."""
    clock = ManualClock()
    with pytest.raises(ServiceUnavailable, match="requested a pause of 60 s") as caught:
        await guarded(clock, deadline=DeadlineOptions(total_s=30.0)).call(Service(throttled("60")))
    assert caught.value.retry_after_s == 60.0
    assert clock.slept_s == []


async def test_no_pause_ends_after_the_deadline() -> None:
    """The last error is raised before the deadline, not after it."""
    clock = ManualClock()
    service = Down()
    with pytest.raises(ConnectionError):
        await guarded(clock, deadline=DeadlineOptions(total_s=0.3)).call(service)
    assert (service.calls, clock.slept_s) == (2, [0.25])


async def test_nested_guards_share_the_deadline() -> None:
    """The inner guard gets the rest of the outer deadline, and no attempt starts after it."""
    clock = ManualClock()
    outer = guarded(clock, deadline=DeadlineOptions(total_s=10.0))
    inner = guarded(clock, deadline=DeadlineOptions(total_s=60.0))
    remaining: list[float] = []

    async def work() -> None:
        clock.advance(4.0)
        await inner.call(note)
        clock.advance(6.0)
        await inner.call(note)

    async def note() -> None:
        remaining.append(remaining_s(clock=clock))

    with pytest.raises(ServiceTimeout, match="no time is left"):
        await outer.call(work)
    assert remaining == [6.0]


async def test_stacked_retries_never_multiply() -> None:
    """Three attempts outside and three inside are three, not nine; also through a task."""
    service = Down()
    inner, outer = guarded(), guarded()

    async def work() -> str:
        return await asyncio.create_task(inner.call(service))

    with pytest.raises(ConnectionError):
        await outer.call(work)
    assert service.calls == 3


async def test_a_guard_inside_one_without_retries_may_retry() -> None:
    """Only a retrying outer guard turns off the retries inside."""
    service = Down()
    inner = guarded()
    with pytest.raises(ConnectionError):
        await guarded(retry=RetryOptions(attempts=1)).call(inner.call, service)
    assert service.calls == 3


async def test_a_task_that_outlives_its_call_has_its_own_limits() -> None:
    """Its deadline and its retries are no longer those of the ended call."""
    clock, service = ManualClock(), Service(ConnectionError())
    may_go = asyncio.Event()
    tasks: list[asyncio.Task[str]] = []

    async def background() -> str:
        await may_go.wait()
        return await guarded(clock).call(service)

    async def work() -> None:
        tasks.append(asyncio.create_task(background()))

    await guarded(clock, deadline=DeadlineOptions(total_s=1.0)).call(work)
    clock.advance(100.0)
    may_go.set()
    assert await tasks[0] == "answer"


@pytest.mark.parametrize("mode", ["auto", "forced_closed"])
async def test_a_total_outage_is_not_amplified(mode: Any) -> None:
    """1,000 calls to two services send at most 1,200 requests, also without a breaker."""
    clock, service = ManualClock(), Down()
    guards = Guards(clock=clock, policies={name: Policies(breaker=BreakerOptions(mode=mode)) for name in ("a", "b")})
    healthy = Service()
    for _ in range(2000):
        await guards.get("a").call(healthy)
    for number in range(1000):
        with pytest.raises((ConnectionError, CircuitOpen)):
            await guards.get("ab"[number % 2]).call(service)
    assert service.calls <= 1200


async def test_an_empty_retry_budget_emits_an_event() -> None:
    """There is no retry, and the first error is raised."""
    events: list[GuardEvent] = []
    service = Down()
    with pytest.raises(ConnectionError):
        await guarded(events=events, budget=RetryBudget(reserve=0.0)).call(service)
    assert service.calls == 1
    assert kinds(events) == ["attempt_failed", "budget_exhausted"]


async def test_an_open_breaker_rejects_and_a_probe_closes_it() -> None:
    """Rejected calls never reach the service."""
    clock, events, service = ManualClock(), list[GuardEvent](), Service(*[ConnectionError()] * 5)
    guard = guarded(clock, events=events, retry=RetryOptions(attempts=1))
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await guard.call(service)
    with pytest.raises(CircuitOpen) as caught:
        await guard.call(service)
    assert caught.value.retry_after_s == pytest.approx(60.0)
    clock.advance(60.0)
    assert await guard.call(service) == "answer"
    assert service.calls == 6
    changes = [event for event in events if event.kind == "state_changed"]
    assert [(event.previous, event.state) for event in changes] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert (changes[0].error_type, changes[0].wait_s) == ("ConnectionError", pytest.approx(60.0))
    assert [event.wait_s for event in events if event.kind == "rejected"] == [pytest.approx(60.0)]


async def test_a_breaker_that_opens_between_attempts_ends_the_retries() -> None:
    """There is no pause for an attempt that would be rejected."""
    clock, service = ManualClock(), Down()
    with pytest.raises(ConnectionError):
        await guarded(clock, breaker=BreakerOptions(threshold=2), retry=RetryOptions(attempts=5)).call(service)
    assert (service.calls, clock.slept_s) == (2, [0.25])


async def test_500_concurrent_calls_at_half_open_send_one_probe() -> None:
    """purgatory sends 500."""
    clock, service = ManualClock(), Service(*[ConnectionError()] * 5)
    guard = guarded(clock, retry=RetryOptions(attempts=1))
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await guard.call(service)
    clock.advance(61.0)
    may_answer = asyncio.Event()

    async def slow() -> str:
        service.calls += 1
        await may_answer.wait()
        return "answer"

    calls = [asyncio.create_task(guard.call(slow)) for _ in range(500)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    may_answer.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert ends.count("answer") == 1
    assert sum(isinstance(end, CircuitOpen) for end in ends) == 499
    assert (service.calls, guard.admission.state().state) == (6, "closed")


async def test_disconnecting_clients_do_not_open_the_circuit() -> None:
    """purgatory counts a cancelled call as a failure."""
    guard = guarded()
    for _ in range(20):
        task = asyncio.create_task(guard.call(asyncio.sleep, 60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    state = guard.admission.state()
    assert (state.state, state.ignored, state.in_flight) == ("closed", 20, 0)


async def test_a_cancellation_during_a_pause_ends_the_call() -> None:
    """No further attempt is made."""
    service, guard = Down(), Guard("svc", Policies(retry=RetryOptions(base_s=60.0, max_s=60.0)), rng=lambda: 0.4)
    task = asyncio.create_task(guard.call(service))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    assert task.cancelled()
    assert service.calls == 1


async def test_a_full_bulkhead_is_neutral_for_the_breaker() -> None:
    """The rejection is not caused by the service."""
    guard = guarded(bulkhead=BulkheadOptions(max_concurrent=1, max_waiting=0), breaker=BreakerOptions(threshold=1))
    may_end = asyncio.Event()
    running = asyncio.create_task(guard.call(may_end.wait))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="1 calls to 'svc' are in flight"):
        await guard.call(Service())
    may_end.set()
    await running
    state = guard.admission.state()
    assert (state.state, state.failures, state.in_flight, state.waiting) == ("closed", 0, 0, 0)


async def test_a_probe_cancelled_in_the_queue_lets_the_next_call_probe() -> None:
    """It got no slot and has no result."""
    clock = ManualClock()
    guard = guarded(clock, bulkhead=BulkheadOptions(max_concurrent=1), breaker=BreakerOptions(threshold=1))
    may_end = asyncio.Event()
    with pytest.raises(ConnectionError):
        await guard.call(Down())
    # The call that fills the bulkhead is admitted although the breaker is open.
    guard.admission.set_mode("forced_closed")
    running = asyncio.create_task(guard.call(may_end.wait))
    await asyncio.sleep(0)
    guard.admission.set_mode("auto")
    clock.advance(61.0)
    probe = asyncio.create_task(guard.call(Service()))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait([probe])
    may_end.set()
    await running
    assert await guard.call(Service()) == "answer"
    assert guard.admission.state().state == "closed"


async def test_a_silent_service_times_out() -> None:
    """Every attempt counts for the breaker, and abandoned attempts are visible until they end."""
    events: list[GuardEvent] = []
    guard = guarded(events=events, timeout=TimeoutOptions(attempt_s=0.01), retry=RetryOptions(attempts=2))
    with pytest.raises(ServiceTimeout):
        await guard.call(asyncio.sleep, 60)
    assert guard.admission.state().failures == 2
    assert kinds(events)[:3] == ["timed_out", "abandoned", "attempt_failed"]


async def test_an_attempt_is_limited_by_the_deadline() -> None:
    """The attempt timeout alone is an hour."""
    guard = Guard(
        "svc",
        Policies(deadline=DeadlineOptions(total_s=0.03), timeout=TimeoutOptions(attempt_s=3600.0)),
    )
    async with asyncio.timeout(2.0):
        with pytest.raises(ServiceTimeout):
            await guard.call(asyncio.sleep, 60)


async def test_a_rejected_key_needs_attention_until_the_next_success() -> None:
    """It is not retried, and counts as a failure for the breaker."""
    rejected = type("AuthenticationError", (Exception,), {})()
    service = Service(rejected)
    guard = guarded()
    with pytest.raises(type(rejected)):
        await guard.call(service)
    assert (service.calls, guard.admission.state().attention) == (1, "AuthenticationError")
    await guard.call(service)
    assert guard.admission.state().attention == ""


async def test_each_call_site_may_have_its_own_classification() -> None:
    """purgatory applies the last caller's to all."""
    shared = guarded(breaker=BreakerOptions(threshold=2), retry=RetryOptions(attempts=1))
    lenient = shared.using(classify=lambda exc: Verdict("ignore"))
    for _ in range(10):
        with pytest.raises(ValueError, match="no"):
            await lenient.call(Service(ValueError("no")))
    assert shared.admission.state().state == "closed"
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await shared.call(Service(ValueError("no")))
    assert shared.admission.state().state == "open"


async def test_a_decorated_function_keeps_its_metadata() -> None:
    """Name, docstring and kind."""
    service = Service(ConnectionError())

    @guarded()
    async def ask(value: str, *, loud: bool = False) -> str:
        """Ask."""
        return await service(value.upper() if loud else value)

    assert await ask("x", loud=True) == "X"
    assert (ask.__name__, ask.__doc__, inspect.iscoroutinefunction(ask)) == ("ask", "Ask.", True)


def test_a_sync_function_is_rejected_when_it_is_decorated() -> None:
    """Not only when it is called."""
    with pytest.raises(TypeError, match="is not async"):
        guarded()(lambda: 1)


async def test_async_with_applies_breaker_bulkhead_and_deadline() -> None:
    """A block cannot be run twice, so it is not retried."""
    clock = ManualClock()
    guard = guarded(clock, breaker=BreakerOptions(threshold=2), deadline=DeadlineOptions(total_s=9.0))
    async with guard:
        assert (remaining_s(clock=clock), guard.admission.state().in_flight) == (9.0, 1)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            async with guard:
                raise ConnectionError
    with pytest.raises(CircuitOpen):
        async with guard:
            raise AssertionError
    state = guard.admission.state()
    assert (state.successes, state.failures, state.in_flight) == (1, 2, 0)


async def test_the_deadline_ends_with_the_async_with_block() -> None:
    """Also if the block fails."""
    clock = ManualClock()
    async with guarded(clock):
        pass
    with pytest.raises(ConnectionError):
        async with guarded(clock):
            raise ConnectionError
    assert remaining_s(clock=clock) == math.inf


async def test_async_with_may_be_nested_and_concurrent() -> None:
    """Each block has its own ticket."""
    guard = guarded()

    async def twice(depth: int = 2) -> None:
        async with guard:
            await asyncio.sleep(0)
            if depth > 1:
                await twice(depth - 1)

    await asyncio.gather(*(twice() for _ in range(20)))
    state = guard.admission.state()
    assert (state.successes, state.in_flight) == (40, 0)


async def test_a_cancellation_inside_async_with_is_neutral() -> None:
    """Its slot is released."""
    guard = guarded()

    async def block() -> None:
        async with guard:
            await asyncio.sleep(60)

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    state = guard.admission.state()
    assert (state.failures, state.ignored, state.in_flight) == (0, 1, 0)


def living_errors() -> int:
    """Return how many ConnectionErrors are in memory."""
    return sum(isinstance(found, ConnectionError) for found in gc.get_objects())


async def test_an_error_leaves_no_reference_cycle() -> None:
    """A cycle would keep the request of each failed call until the next garbage collection."""
    guard = guarded(breaker=BreakerOptions(mode="forced_closed"))
    gc.collect()
    # Tests that ran before may have left some that are still referenced.
    before = living_errors()
    gc.disable()
    try:
        for _ in range(50):
            with pytest.raises(ConnectionError):
                await guard.call(Down())
        assert living_errors() - before < 5
    finally:
        gc.enable()


async def test_slow_calls_emit_events() -> None:
    """Successful and failed ones."""
    clock, events = ManualClock(), list[GuardEvent]()
    guard = guarded(clock, events=events, breaker=BreakerOptions(slow_s=1.0), retry=RetryOptions(attempts=1))

    async def dawdle(exc: Exception | None = None) -> None:
        clock.advance(1.0)
        if exc is not None:
            raise exc

    await guard.call(dawdle)
    with pytest.raises(ConnectionError):
        await guard.call(dawdle, ConnectionError())
    assert kinds(events).count("slow") == 2
    assert guard.admission.state().slow == 2


async def test_states_are_a_snapshot_of_all_guards() -> None:
    """Sorted by name, with the values that health and the dashboard show."""
    clock = ManualClock()
    guards = Guards(clock=clock)
    await guards.get("redis").call(Service())
    guards.get("openai").admission.set_mode("forced_open")
    clock.advance(3.0)
    openai, redis = guards.states()
    assert (openai.name, openai.mode, openai.rejects_for_s) == ("openai", "forced_open", 60.0)
    assert (redis.name, redis.successes, redis.last_success_age_s) == ("redis", 1, 3.0)
    assert guards.get("redis") is guards.get("redis")


def test_guards_are_named_for_services() -> None:
    """A name for each request would fill the memory and the metrics."""
    guards = Guards()
    for number in range(100):
        guards.get(f"svc{number}")
    with pytest.raises(ConfigurationError, match="not for requests"):
        guards.get("one_more")


@pytest.mark.parametrize("policy", ["deadline", "retry", "breaker", "bulkhead", "timeout"])
async def test_a_cancellation_passes_through_every_policy(policy: str) -> None:
    """At once, with all slots released and no failure counted."""
    parts: dict[str, Any] = {
        "deadline": DeadlineOptions(total_s=60.0),
        "retry": RetryOptions(attempts=5),
        "breaker": BreakerOptions(threshold=1),
        "bulkhead": BulkheadOptions(max_concurrent=1),
        "timeout": TimeoutOptions(attempt_s=60.0),
    }
    guard = guarded(**{policy: parts[policy]})
    is_running = asyncio.Event()

    async def work() -> None:
        is_running.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(guard.call(work))
    await is_running.wait()
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    state = guard.admission.state()
    assert task.cancelled()
    assert (state.state, state.failures, state.in_flight) == ("closed", 0, 0)


async def test_any_awaitable_can_be_guarded() -> None:
    """SDKs return more than coroutines."""
    for options in (TimeoutOptions(), TimeoutOptions(attempt_s=5.0)):

        def make() -> Awaitable[str]:
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            future.set_result("future")
            return future

        function: Callable[[], Awaitable[str]] = make
        assert await guarded(timeout=options).call(function) == "future"
