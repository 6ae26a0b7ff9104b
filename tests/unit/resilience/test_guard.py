"""One guard for every call: what is tried again, what is refused, and who waits how long."""

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
from forge_otel.resilience.policies import SERVICE_DEFAULTS, Policies, defaults_for
from forge_otel.resilience.retry import RetryBudget, RetryOptions, Verdict
from forge_otel.testing.clock import ManualClock

PLENTY = RetryBudget(reserve=1e6, capacity=1e6)


class Service:
    """Fails so often, then answers; counts how often it was asked."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self, value: str = "answer") -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return value


class Down(Service):
    """Never answers."""

    async def __call__(self, value: str = "answer") -> str:
        self.calls += 1
        raise ConnectionError


def guarded(
    clock: ManualClock | None = None,
    *,
    told: list[GuardEvent] | None = None,
    budget: RetryBudget = PLENTY,
    **parts: Any,
) -> Guard:
    """A guard of nothing in particular, whose pauses take no time and have no jitter."""
    listeners = GuardListeners([] if told is None else [told.append])
    return Guard(
        "svc", Policies(**parts), clock=clock or ManualClock(), listeners=listeners, budget=budget, rng=lambda: 0.5
    )


def throttled(retry_after: str) -> Exception:
    """A 429 as SDKs raise it."""
    exc = Exception("slow down")
    vars(exc).update(status_code=429, response=SimpleNamespace(headers={"Retry-After": retry_after}))
    return exc


def kinds(told: list[GuardEvent]) -> list[str]:
    """What happened, in order."""
    return [event.kind for event in told]


async def test_a_passing_failure_is_tried_again() -> None:
    """Three attempts by default, with growing pauses; the caller sees the answer only."""
    clock, told = ManualClock(), list[GuardEvent]()
    service = Service(ConnectionError(), TimeoutError())
    assert await guarded(clock, told=told).call(service, "x") == "x"
    assert clock.slept_s == [0.25, 0.5]
    assert kinds(told) == ["attempt_failed", "retried", "attempt_failed", "retried"]


async def test_after_the_last_attempt_the_caller_gets_the_services_own_error() -> None:
    """Untouched, so that the handlers of the application work as before."""
    service = Down()
    with pytest.raises(ConnectionError):
        await guarded().call(service)
    assert service.calls == 3


@pytest.mark.parametrize("exc", [ValueError("garbage"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_what_trying_again_cannot_help_is_not_tried_again(exc: BaseException) -> None:
    """Nor is what the caller decided."""
    service = Service(exc)
    with pytest.raises(type(exc)):
        await guarded().call(service)
    assert service.calls == 1


async def test_retry_after_is_honoured_within_the_deadline() -> None:
    """The pause is what the service asked for, and a little more."""
    clock = ManualClock()
    assert await guarded(clock).call(Service(throttled("7"))) == "answer"
    assert clock.slept_s == [7.25]


async def test_retry_after_beyond_the_deadline_fails_at_once() -> None:
    """With the number, so that the caller can tell his own caller."""
    clock = ManualClock()
    with pytest.raises(ServiceUnavailable, match="requested a pause of 60 s") as caught:
        await guarded(clock, deadline=DeadlineOptions(total_s=30.0)).call(Service(throttled("60")))
    assert caught.value.retry_after_s == 60.0
    assert clock.slept_s == []


async def test_no_pause_ends_after_the_deadline() -> None:
    """The last error comes before the time is over, not after."""
    clock = ManualClock()
    service = Down()
    with pytest.raises(ConnectionError):
        await guarded(clock, deadline=DeadlineOptions(total_s=0.3)).call(service)
    assert (service.calls, clock.slept_s) == (2, [0.25])


async def test_nested_guards_share_the_deadline() -> None:
    """The inner one gets the rest of the outer, and nothing is begun when nothing is left."""
    clock = ManualClock()
    outer = guarded(clock, deadline=DeadlineOptions(total_s=10.0))
    inner = guarded(clock, deadline=DeadlineOptions(total_s=60.0))
    left: list[float] = []

    async def work() -> None:
        clock.advance(4.0)
        await inner.call(note)
        clock.advance(6.0)
        await inner.call(note)

    async def note() -> None:
        left.append(remaining_s(clock=clock))

    with pytest.raises(ServiceTimeout, match="no time is left"):
        await outer.call(work)
    assert left == [6.0]


async def test_stacked_retries_never_multiply() -> None:
    """Three attempts outside and three inside are three, not nine; also through a task."""
    service = Down()
    inner, outer = guarded(), guarded()

    async def work() -> str:
        return await asyncio.create_task(inner.call(service))

    with pytest.raises(ConnectionError):
        await outer.call(work)
    assert service.calls == 3


async def test_a_guard_inside_one_that_does_not_retry_may() -> None:
    """Only trying again switches trying again off."""
    service = Down()
    inner = guarded()
    with pytest.raises(ConnectionError):
        await guarded(retry=RetryOptions(attempts=1)).call(inner.call, service)
    assert service.calls == 3


async def test_a_task_that_outlives_its_call_is_free() -> None:
    """It has its own deadline and its own attempts."""
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
    """1 000 calls over all services send at most 1 200 requests, also where no breaker helps."""
    clock, service = ManualClock(), Down()
    guards = Guards(clock=clock, policies={name: Policies(breaker=BreakerOptions(mode=mode)) for name in ("a", "b")})
    healthy = Service()
    for _ in range(2000):
        await guards.get("a").call(healthy)
    for number in range(1000):
        with pytest.raises((ConnectionError, CircuitOpen)):
            await guards.get("ab"[number % 2]).call(service)
    assert service.calls <= 1200


async def test_an_empty_budget_is_told() -> None:
    """Nothing is tried again, the first error goes to the caller."""
    told: list[GuardEvent] = []
    service = Down()
    with pytest.raises(ConnectionError):
        await guarded(told=told, budget=RetryBudget(reserve=0.0)).call(service)
    assert service.calls == 1
    assert kinds(told) == ["attempt_failed", "budget_exhausted"]


async def test_an_open_breaker_refuses_and_a_probe_closes_it() -> None:
    """The refused call never reaches the service."""
    clock, told, service = ManualClock(), list[GuardEvent](), Service(*[ConnectionError()] * 5)
    guard = guarded(clock, told=told, retry=RetryOptions(attempts=1))
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await guard.call(service)
    with pytest.raises(CircuitOpen) as caught:
        await guard.call(service)
    assert caught.value.retry_after_s == pytest.approx(60.0)
    clock.advance(60.0)
    assert await guard.call(service) == "answer"
    assert service.calls == 6
    changes = [event for event in told if event.kind == "state_changed"]
    assert [(event.previous, event.state) for event in changes] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert (changes[0].error_type, changes[0].wait_s) == ("ConnectionError", pytest.approx(60.0))
    assert [event.wait_s for event in told if event.kind == "rejected"] == [pytest.approx(60.0)]


async def test_the_breaker_that_opens_in_between_ends_the_retries() -> None:
    """No pause for an attempt that would be refused."""
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


async def test_five_disconnecting_clients_do_not_open_the_circuit() -> None:
    """purgatory counts a cancelled call as a failure."""
    guard = guarded()
    for _ in range(20):
        task = asyncio.create_task(guard.call(asyncio.sleep, 60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    state = guard.admission.state()
    assert (state.state, state.ignored, state.in_flight) == ("closed", 20, 0)


async def test_cancelled_during_a_pause() -> None:
    """Nothing more is sent."""
    service, guard = Down(), Guard("svc", Policies(retry=RetryOptions(base_s=60.0, max_s=60.0)), rng=lambda: 0.4)
    task = asyncio.create_task(guard.call(service))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task], timeout=1.0)
    assert task.cancelled()
    assert service.calls == 1


async def test_a_full_limit_is_neutral_for_the_breaker() -> None:
    """It says nothing about the service."""
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


async def test_cancelled_in_the_line_of_the_limit() -> None:
    """A probe that never got its place frees the way for the next."""
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


async def test_a_silent_service_is_given_up_in_time() -> None:
    """Every attempt is a sample of the breaker; the abandoned ones are seen until they end."""
    told: list[GuardEvent] = []
    guard = guarded(told=told, timeout=TimeoutOptions(attempt_s=0.01), retry=RetryOptions(attempts=2))
    with pytest.raises(ServiceTimeout):
        await guard.call(asyncio.sleep, 60)
    assert guard.admission.state().failures == 2
    assert kinds(told)[:3] == ["timed_out", "abandoned", "attempt_failed"]


async def test_no_attempt_takes_longer_than_its_deadline_leaves() -> None:
    """The attempt's own limit is an hour."""
    guard = Guard(
        "svc",
        Policies(deadline=DeadlineOptions(total_s=0.03), timeout=TimeoutOptions(attempt_s=3600.0)),
    )
    async with asyncio.timeout(2.0):
        with pytest.raises(ServiceTimeout):
            await guard.call(asyncio.sleep, 60)


async def test_a_rejected_key_wants_attention_until_it_works_again() -> None:
    """It is not tried again, and opens the circuit like any failure."""
    rejected = type("AuthenticationError", (Exception,), {})()
    service = Service(rejected)
    guard = guarded()
    with pytest.raises(type(rejected)):
        await guard.call(service)
    assert (service.calls, guard.admission.state().attention) == (1, "AuthenticationError")
    await guard.call(service)
    assert guard.admission.state().attention == ""


async def test_each_call_site_may_classify_for_itself() -> None:
    """purgatory keeps the last caller's word for all."""
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


async def test_as_a_decorator_a_function_stays_what_it_is() -> None:
    """Name, docstring and kind, for those who look at it."""
    service = Service(ConnectionError())

    @guarded()
    async def ask(value: str, *, loud: bool = False) -> str:
        """Ask."""
        return await service(value.upper() if loud else value)

    assert await ask("x", loud=True) == "X"
    assert (ask.__name__, ask.__doc__, inspect.iscoroutinefunction(ask)) == ("ask", "Ask.", True)


def test_a_sync_function_is_refused_when_it_is_decorated() -> None:
    """Not when it is called."""
    with pytest.raises(TypeError, match="is not async"):
        guarded()(lambda: 1)


async def test_async_with_applies_breaker_limit_and_deadline() -> None:
    """What cannot be run twice is not tried again."""
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


async def test_after_async_with_the_deadline_is_gone() -> None:
    """Also where the block failed."""
    clock = ManualClock()
    async with guarded(clock):
        pass
    with pytest.raises(ConnectionError):
        async with guarded(clock):
            raise ConnectionError
    assert remaining_s(clock=clock) == math.inf


async def test_async_with_may_be_nested_and_concurrent() -> None:
    """Each block knows its own start."""
    guard = guarded()

    async def twice(depth: int = 2) -> None:
        async with guard:
            await asyncio.sleep(0)
            if depth > 1:
                await twice(depth - 1)

    await asyncio.gather(*(twice() for _ in range(20)))
    state = guard.admission.state()
    assert (state.successes, state.in_flight) == (40, 0)


async def test_cancelled_inside_async_with() -> None:
    """Neutral, and the place is given back."""
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


async def test_an_error_leaves_no_reference_cycle() -> None:
    """Or every failed call would keep its request until the collector comes round."""
    guard = guarded(breaker=BreakerOptions(mode="forced_closed"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with pytest.raises(ConnectionError):
                await guard.call(Down())
        assert sum(isinstance(found, ConnectionError) for found in gc.get_objects()) < 5
    finally:
        gc.enable()


async def test_slow_calls_are_told() -> None:
    """On success and on failure."""
    clock, told = ManualClock(), list[GuardEvent]()
    guard = guarded(clock, told=told, breaker=BreakerOptions(slow_s=1.0), retry=RetryOptions(attempts=1))

    async def dawdle(exc: Exception | None = None) -> None:
        clock.advance(1.0)
        if exc is not None:
            raise exc

    await guard.call(dawdle)
    with pytest.raises(ConnectionError):
        await guard.call(dawdle, ConnectionError())
    assert kinds(told).count("slow") == 2
    assert guard.admission.state().slow == 2


async def test_a_listeners_fault_is_harmless(caplog: pytest.LogCaptureFixture) -> None:
    """purgatory replaces the caller's error with it."""

    def broken(*_: object) -> None:
        raise KeyError("listener")

    told: list[GuardEvent] = []
    guards = Guards(listeners=[broken, told.append], clock=ManualClock())
    with pytest.raises(ConnectionError):
        await guards.get("svc").call(Down())
    assert kinds(told).count("attempt_failed") == 3
    assert "guard listener" in caplog.text


async def test_a_listener_may_come_later() -> None:
    """It is told what happens from then on, by guards that are there already too."""
    told: list[GuardEvent] = []
    guards = Guards(clock=ManualClock())
    guard = guards.get("svc")
    guards.listeners.add(told.append)
    await guard.call(Service(ConnectionError()))
    assert kinds(told) == ["attempt_failed", "retried"]


async def test_states_are_a_snapshot_of_all_guards() -> None:
    """By name, with what health and the dashboard show."""
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
    """A name per request would fill the memory and the metrics."""
    guards = Guards()
    for number in range(100):
        guards.get(f"svc{number}")
    with pytest.raises(ConfigurationError, match="not for requests"):
        guards.get("one more")


@pytest.mark.parametrize(("name", "total_s"), [("redis", 0.05), ("qdrant", 0.5), ("figma", 1.9)])
def test_the_table_holds_the_promised_bounds(name: str, total_s: float) -> None:
    """What a caller may be made to wait."""
    assert defaults_for(name).deadline.total_s == total_s
    assert defaults_for(name) is SERVICE_DEFAULTS[name]


def test_every_service_has_sane_defaults() -> None:
    """An attempt fits into its deadline; unknown names and parts of known ones too."""
    for name in (*SERVICE_DEFAULTS, "unheard-of"):
        policies = defaults_for(name)
        assert policies.timeout.attempt_s is not None
        assert policies.timeout.attempt_s <= policies.deadline.total_s
        assert (policies.breaker.threshold, policies.breaker.open_s) == (5, 60.0)
    assert defaults_for("openai:chat") is SERVICE_DEFAULTS["openai"]


@pytest.mark.parametrize("policy", ["deadline", "retry", "breaker", "bulkhead", "timeout"])
async def test_cancellation_goes_through_every_policy(policy: str) -> None:
    """Promptly, with nothing left taken and nothing counted against the service."""
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


async def test_any_awaitable_is_good_enough() -> None:
    """SDKs return more than coroutines."""
    for options in (TimeoutOptions(), TimeoutOptions(attempt_s=5.0)):

        def make() -> Awaitable[str]:
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            future.set_result("future")
            return future

        function: Callable[[], Awaitable[str]] = make
        assert await guarded(timeout=options).call(function) == "future"
