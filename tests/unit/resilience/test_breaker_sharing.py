"""Workers share hints: a hint makes the first failure count, rejects nothing, and expires."""

import asyncio
import gc
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import pytest

from forge_otel.errors import CircuitOpen, ConfigurationError
from forge_otel.resilience.breaker import BreakerOptions, Mode
from forge_otel.resilience.breaker_sharing import BreakerSharing
from forge_otel.resilience.deadline import SYSTEM_CLOCK
from forge_otel.resilience.guard import Guards
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import RetryOptions
from forge_otel.stores.memory import MemoryStore
from forge_otel.testing.clock import ManualClock
from forge_otel.types import Store

ONCE = RetryOptions(attempts=1)
SERVICE = "svc"
OPEN_S = 60.0
QUICK_S = 0.5


@dataclass
class Worker:
    """The guards of one process and their sharing."""

    guards: Guards
    sharing: BreakerSharing

    @property
    def state(self) -> str:
        """State of the breaker."""
        return self.guards.get(SERVICE).admission.state().state

    @property
    def is_sensitized(self) -> bool:
        """Return whether the first failure opens the breaker."""
        admission = self.guards.get(SERVICE).admission
        return admission.now_s() < admission.breaker.sensitized_until_s

    async def fail(self, times: int = 1) -> None:
        """Make guarded calls that reach the service and fail."""
        for _ in range(times):
            with pytest.raises(ConnectionError):
                await self.guards.get(SERVICE).call(_down)

    async def answer(self) -> str:
        """Make one guarded call that succeeds."""
        return await self.guards.get(SERVICE).call(_up)


async def _down() -> str:
    raise ConnectionError


async def _up() -> str:
    return "answer"


def worker(store: Store, clock: ManualClock | None = None, *, carrier: str = "") -> Worker:
    """Return a worker; its rounds are run by hand, or every 20 ms inside `async with sharing`."""
    policies = {SERVICE: Policies(retry=ONCE, breaker=BreakerOptions(open_s=OPEN_S))}
    guards = Guards(policies=policies, rng=lambda: 0.5, clock=clock or SYSTEM_CLOCK)
    guards.get(SERVICE)
    return Worker(guards, BreakerSharing(store, guards, interval_s=0.02, timeout_s=0.1, carrier=carrier))


def workers(count: int) -> tuple[ManualClock, list[Worker]]:
    """Return workers with a common store and clock."""
    clock = ManualClock()
    store = MemoryStore(clock=clock.now_s)
    return clock, [worker(store, clock) for _ in range(count)]


async def rounds(*workers: Worker) -> None:
    """Run one round of each worker, in order."""
    for one in workers:
        await one.sharing.refresh()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for a condition for at most 10 s."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class FaultyStore(MemoryStore):
    """Fails on request, or hangs and ignores cancellation; records its reads."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: BaseException | None = None
        self.released: asyncio.Event | None = None
        self.gets: list[Sequence[str]] = []
        self.hanging = 0

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Fail, hang, or return the values."""
        self.gets.append(keys)
        await self._suffer()
        return await super().get(keys)

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Fail, hang, or store."""
        await self._suffer()
        await super().set(key, value, ttl_s=ttl_s)

    @asynccontextmanager
    async def hangs(self) -> AsyncIterator[None]:
        """Do not respond inside the block."""
        self.released = asyncio.Event()
        try:
            yield
        finally:
            self.released.set()
            await eventually(lambda: not self.hanging)

    async def _suffer(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.hanging += 1
        try:
            while self.released is not None and not self.released.is_set():
                await self._wait(self.released)
        finally:
            self.hanging -= 1

    @staticmethod
    async def _wait(released: asyncio.Event) -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            # Like a driver that is stuck in its clean-up.
            return


class FixedStore(MemoryStore):
    """Returns the same value for every read."""

    def __init__(self, values: Callable[[int], object]) -> None:
        super().__init__()
        self._values = values

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Return the value."""
        return self._values(len(keys))  # type: ignore[return-value]


async def test_a_hint_lets_the_first_failure_open_the_breaker_of_a_peer() -> None:
    """Until then its calls succeed: a hint rejects nothing."""
    _, (a, b) = workers(2)
    await a.fail(5)
    await rounds(a, b)
    assert await b.answer() == "answer"
    await b.fail()
    assert b.state == "open"
    with pytest.raises(CircuitOpen):
        await b.answer()


async def test_without_a_hint_five_failures_open_the_breaker() -> None:
    """Sharing itself changes nothing."""
    _, (a, b) = workers(2)
    await a.fail(4)
    await rounds(a, b)
    await b.fail(4)
    assert b.state == "closed"
    await b.fail()
    assert b.state == "open"


async def test_after_the_ttl_of_a_hint_five_failures_are_needed_again() -> None:
    """As after the end of the worker that wrote it."""
    clock, (a, b) = workers(2)
    await a.fail(5)
    await rounds(a, b)
    clock.advance(a.sharing.ttl_s)
    await rounds(b)
    await b.fail(4)
    assert b.state == "closed"
    await b.fail()
    assert b.state == "open"


async def test_successes_do_not_change_a_sensitized_breaker() -> None:
    """It is sensitized for the TTL of the hint."""
    _, (a, b) = workers(2)
    await a.fail(5)
    await rounds(a, b)
    for _ in range(50):
        await b.answer()
    assert b.state == "closed"
    await b.fail()
    assert b.state == "open"


async def test_a_hint_exists_while_the_breaker_rejects_calls() -> None:
    """It is renewed before it expires, and not once the open time is over."""
    clock, (a, b) = workers(2)
    await a.fail(5)
    await rounds(a)
    for _ in range(20):
        clock.advance(0.9 * a.sharing.ttl_s)
        await rounds(b, a)
        assert b.is_sensitized
    clock.advance(OPEN_S)
    await rounds(a, b)
    assert a.state == "open"
    assert not b.is_sensitized


async def test_a_breaker_opened_by_a_hint_writes_none() -> None:
    """Otherwise single failures would keep the breakers of all workers open."""
    clock, (a, b, c) = workers(3)
    await a.fail(5)
    await rounds(a, b)
    await b.fail()
    assert b.state == "open"
    clock.advance(a.sharing.ttl_s)
    await rounds(b, c)
    assert not c.is_sensitized
    await c.fail(4)
    assert c.state == "closed"


async def test_a_failed_probe_of_such_a_breaker_writes_no_hint() -> None:
    """Only after it has closed can it write one."""
    clock, (a, b, c) = workers(3)
    await a.fail(5)
    await rounds(a, b)
    await b.fail()
    clock.advance(OPEN_S)
    await b.fail()
    assert b.state == "open"
    await rounds(b, c)
    assert not c.is_sensitized


async def test_a_breaker_opened_by_a_hint_may_write_one_after_it_closed() -> None:
    """Its next five failures are its own."""
    clock, (a, b, c) = workers(3)
    await a.fail(5)
    await rounds(a, b)
    await b.fail()
    clock.advance(OPEN_S)
    await b.answer()
    assert b.state == "closed"
    await rounds(b)
    await b.fail(5)
    await rounds(b, c)
    assert c.is_sensitized


async def test_a_sensitized_breaker_that_reaches_its_threshold_writes_a_hint() -> None:
    """The fifth consecutive failure would have opened it without a hint."""
    clock, (a, b, c) = workers(3)
    await b.fail(4)
    await a.fail(5)
    await rounds(a, b)
    await b.fail()
    assert b.state == "open"
    clock.advance(a.sharing.ttl_s)
    await rounds(b, c)
    assert c.is_sensitized


async def test_a_workers_own_hint_does_not_sensitize_it() -> None:
    """Its breaker was closed by an operator while the hint still exists."""
    _, (a,) = workers(1)
    await a.fail(5)
    await rounds(a)
    a.guards.get(SERVICE).admission.reset()
    await rounds(a)
    await a.fail(4)
    assert a.state == "closed"


async def test_a_recovered_worker_sees_the_hint_of_its_peer() -> None:
    """There is one hint for each service; the peer replaces it in its next round."""
    _, (a, b) = workers(2)
    await a.fail(5)
    await b.fail(5)
    await rounds(b, a)
    a.guards.get(SERVICE).admission.reset()
    await rounds(a)
    assert not a.is_sensitized
    await rounds(b, a)
    assert a.is_sensitized


@pytest.mark.parametrize("mode", ["forced_open", "forced_closed", "shadow"])
async def test_a_forced_breaker_writes_no_hint(mode: Mode) -> None:
    """It says nothing about the service."""
    _, (a, b) = workers(2)
    await a.fail(5)
    a.guards.get(SERVICE).admission.set_mode(mode)
    await rounds(a, b)
    assert not b.is_sensitized


async def test_the_service_that_carries_the_hints_has_none() -> None:
    """A worker that can read a hint has reached Redis."""
    store = MemoryStore()
    a, b = worker(store, carrier=SERVICE), worker(store)
    await a.fail(5)
    await rounds(a, b)
    assert not b.is_sensitized


async def test_one_read_covers_all_services() -> None:
    """There is no read without guards."""
    store = FaultyStore()
    a = worker(store)
    for number in range(20):
        a.guards.get(f"other-{number}")
    await rounds(a)
    assert [len(keys) for keys in store.gets] == [21]
    await BreakerSharing(store, Guards()).refresh()
    assert len(store.gets) == 1


@pytest.mark.parametrize(
    "values",
    [
        lambda count: [b""] * count,
        lambda count: [b"\xff\x00\n" * 7] * count,
        lambda count: [b"0" * 10_000_000] * count,
        lambda count: [b"0" * 31 + b"\n"] * count,
        lambda count: [b"0" * 32 + b"\n"] * count,
        lambda count: ["0" * 32] * count,
        lambda count: [b"0" * 32] * (count + 1),
        lambda count: [],
        lambda count: None,
    ],
    ids=["empty", "garbage", "huge", "short", "long", "text", "one too many", "none", "nothing"],
)
async def test_invalid_values_are_ignored(values: Callable[[int], object]) -> None:
    """The store may return anything."""
    a = worker(FixedStore(values))
    await rounds(a)
    assert not a.is_sensitized
    await a.fail(4)
    assert a.state == "closed"


async def test_a_store_with_wrong_hints_fails_no_call() -> None:
    """At worst every breaker is sensitized."""
    a = worker(FixedStore(lambda count: [b"0" * 32] * count))
    await rounds(a)
    assert a.is_sensitized
    assert [await a.answer() for _ in range(100)] == ["answer"] * 100


async def test_an_unavailable_store_changes_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line at its start and one at its end, without the message of the driver."""
    caplog.set_level(logging.INFO)
    store = FaultyStore()
    a, b = worker(store), worker(store)
    store.fault = ConnectionError("redis://:secret@host")
    await a.fail(4)
    for _ in range(3):
        await rounds(a)
    assert (a.state, await a.answer()) == ("closed", "answer")
    store.fault = None
    await a.fail(5)
    await rounds(a, b)
    assert b.is_sensitized
    lines = [record.getMessage() for record in caplog.records if "breaker sharing" in record.getMessage()]
    assert len(lines) == 2
    assert "secret" not in caplog.text


async def test_the_last_hints_expire_while_the_store_is_unavailable() -> None:
    """After their TTL."""
    clock, store = ManualClock(), FaultyStore()
    a, b = worker(store, clock), worker(store, clock)
    await a.fail(5)
    await rounds(a, b)
    store.fault = ConnectionError()
    await rounds(b)
    assert b.is_sensitized
    clock.advance(b.sharing.ttl_s)
    assert not b.is_sensitized


async def test_a_silent_store_delays_no_call() -> None:
    """Rounds time out, hanging calls are bounded, and sharing resumes with the store."""
    store = FaultyStore()
    a, b = worker(store), worker(store)
    async with a.sharing, b.sharing:
        async with store.hangs():
            await a.fail(5)
            await eventually(lambda: store.hanging == 8)
            started = time.monotonic()
            assert [await b.answer() for _ in range(100)] == ["answer"] * 100
            assert time.monotonic() - started < QUICK_S
            assert store.hanging <= 8
        await eventually(lambda: b.is_sensitized)


async def test_a_silent_store_does_not_delay_the_end() -> None:
    """The store call that ignores its cancellation is abandoned."""
    store = FaultyStore()
    a = worker(store)
    async with store.hangs():
        async with a.sharing:
            await eventually(lambda: store.hanging)
            started = time.monotonic()
        assert time.monotonic() - started < QUICK_S
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "breaker sharing"]


@pytest.mark.parametrize("fault", [ConnectionError(), asyncio.CancelledError(), TimeoutError(), RecursionError()])
async def test_the_task_survives_every_error_of_the_store(fault: BaseException) -> None:
    """Also a cancellation of a task of the store."""
    store = FaultyStore()
    a, b = worker(store), worker(store)
    await a.fail(5)
    async with a.sharing, b.sharing:
        store.fault = fault
        reads = len(store.gets)
        await eventually(lambda: len(store.gets) > reads + 4)
        store.fault = None
        await eventually(lambda: b.is_sensitized)
    # asyncio would now report an exception that was never retrieved.
    gc.collect()


async def test_a_round_can_be_cancelled() -> None:
    """As `asyncio.run` cancels every task at its end."""
    store = FaultyStore()
    a = worker(store)
    async with store.hangs():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await a.sharing.refresh()


async def test_rounds_do_not_inherit_the_context_of_their_opener() -> None:
    """The span and the deadline of a request that opens the process default do not apply."""
    opener = ContextVar("opener", default="none")
    seen = set[str]()

    def values(count: int) -> object:
        seen.add(opener.get())
        return [None] * count

    opener.set("a request")
    async with worker(FixedStore(values)).sharing:
        await eventually(lambda: seen)
    assert seen == {"none"}


async def test_it_can_be_opened_again() -> None:
    """As a Forge can."""
    store = MemoryStore()
    a, b = worker(store), worker(store)
    for _ in range(2):
        async with a.sharing:
            pass
    await a.fail(5)
    async with a.sharing, b.sharing:
        await eventually(lambda: b.is_sensitized)


async def test_forked_workers_have_different_ids() -> None:
    """A copied id would make a worker take the hints of its siblings for its own."""
    store = MemoryStore()
    a, b = worker(store), worker(store)
    b.sharing._worker_id = a.sharing._worker_id
    await a.fail(5)
    async with a.sharing, b.sharing:
        await eventually(lambda: b.is_sensitized)


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_times_must_be_above_zero(interval_s: float, timeout_s: float) -> None:
    """NaN is rejected too."""
    with pytest.raises(ConfigurationError):
        BreakerSharing(MemoryStore(), Guards(), interval_s=interval_s, timeout_s=timeout_s)
