"""Workers advise each other: a notice makes the first failure count, refuses nothing, and ends by itself."""

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
AT_ONCE_S = 0.5


@dataclass
class Worker:
    """What one process has: its guards and its board."""

    guards: Guards
    sharing: BreakerSharing

    @property
    def state(self) -> str:
        """Of the breaker."""
        return self.guards.get(SERVICE).admission.state().state

    @property
    def is_sensitized(self) -> bool:
        """Whether the next failure would open the breaker."""
        return self.guards.get(SERVICE).admission.is_sensitized

    async def fail(self, times: int = 1) -> None:
        """So many guarded calls that fail by themselves, each of which reached the service."""
        for _ in range(times):
            with pytest.raises(ConnectionError):
                await self.guards.get(SERVICE).call(_down)

    async def answer(self) -> str:
        """One guarded call that is answered."""
        return await self.guards.get(SERVICE).call(_up)


async def _down() -> str:
    raise ConnectionError


async def _up() -> str:
    return "answer"


def worker(store: Store, clock: ManualClock | None = None, *, carrier: str = "") -> Worker:
    """A worker whose rounds are made by hand, or at short intervals once its board is entered."""
    policies = {SERVICE: Policies(retry=ONCE, breaker=BreakerOptions(open_s=OPEN_S))}
    guards = Guards(policies=policies, rng=lambda: 0.5, clock=clock or SYSTEM_CLOCK)
    guards.get(SERVICE)
    return Worker(guards, BreakerSharing(store, guards, interval_s=0.02, timeout_s=0.1, carrier=carrier))


def workers(count: int) -> tuple[ManualClock, list[Worker]]:
    """Workers on one store, all on one clock."""
    clock = ManualClock()
    store = MemoryStore(clock=clock.now_s)
    return clock, [worker(store, clock) for _ in range(count)]


async def rounds(*those: Worker) -> None:
    """A round of each, in order."""
    for one in those:
        await one.sharing.refresh()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for a condition, not for ever."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class FaultyStore(MemoryStore):
    """Fails on request, or hangs without letting itself be cancelled; counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: BaseException | None = None
        self.released: asyncio.Event | None = None
        self.gets: list[Sequence[str]] = []
        self.hanging = 0

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Fail, hang, or answer."""
        self.gets.append(keys)
        await self._suffer()
        return await super().get(keys)

    async def set(self, key: str, value: bytes, *, ttl_s: float | None = None) -> None:
        """Fail, hang, or store."""
        await self._suffer()
        await super().set(key, value, ttl_s=ttl_s)

    @asynccontextmanager
    async def hangs(self) -> AsyncIterator[None]:
        """Answer nothing inside the block."""
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


class SayingStore(MemoryStore):
    """Answers every read with the same."""

    def __init__(self, said: Callable[[int], object]) -> None:
        super().__init__()
        self._said = said

    async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
        """Say it."""
        return self._said(len(keys))  # type: ignore[return-value]


async def test_where_one_worker_has_given_up_the_others_first_failure_counts() -> None:
    """Until it comes they answer: a notice by itself refuses nothing."""
    _, (a, b) = workers(2)
    await a.fail(5)
    await rounds(a, b)
    assert await b.answer() == "answer"
    await b.fail()
    assert b.state == "open"
    with pytest.raises(CircuitOpen):
        await b.answer()


async def test_without_a_notice_five_failures_count() -> None:
    """The board itself changes nothing."""
    _, (a, b) = workers(2)
    await a.fail(4)
    await rounds(a, b)
    await b.fail(4)
    assert b.state == "closed"
    await b.fail()
    assert b.state == "open"


async def test_when_the_notice_has_ended_it_takes_five_again() -> None:
    """As when the worker that wrote it is gone."""
    clock, (a, b) = workers(2)
    await a.fail(5)
    await rounds(a, b)
    clock.advance(a.sharing.ttl_s)
    await rounds(b)
    await b.fail(4)
    assert b.state == "closed"
    await b.fail()
    assert b.state == "open"


async def test_answers_neither_open_a_suspicious_breaker_nor_calm_it() -> None:
    """It is suspicious for as long as the notice lives, whatever it sees itself."""
    _, (a, b) = workers(2)
    await a.fail(5)
    await rounds(a, b)
    for _ in range(50):
        await b.answer()
    assert b.state == "closed"
    await b.fail()
    assert b.state == "open"


async def test_a_notice_lives_while_the_breaker_refuses_calls() -> None:
    """It is written anew before it ends, and no longer once nobody knows anything new."""
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


async def test_what_a_worker_was_told_it_does_not_tell() -> None:
    """Or a service that fails now and then would keep all workers' breakers open among each other, for ever."""
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


async def test_a_failed_probe_of_such_a_worker_is_not_told_either() -> None:
    """Nor is what follows it, until its breaker has closed."""
    clock, (a, b, c) = workers(3)
    await a.fail(5)
    await rounds(a, b)
    await b.fail()
    clock.advance(OPEN_S)
    await b.fail()
    assert b.state == "open"
    await rounds(b, c)
    assert not c.is_sensitized


async def test_a_worker_that_was_told_may_find_out_for_itself_later() -> None:
    """Once its breaker has closed, its own five failures are news."""
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


async def test_a_breaker_that_would_have_opened_anyway_is_told() -> None:
    """The fifth failure in a row is the worker's own knowledge, suspicious or not."""
    clock, (a, b, c) = workers(3)
    await b.fail(4)
    await a.fail(5)
    await rounds(a, b)
    await b.fail()
    assert b.state == "open"
    clock.advance(a.sharing.ttl_s)
    await rounds(b, c)
    assert c.is_sensitized


async def test_nobody_is_made_suspicious_by_itself() -> None:
    """A breaker that an operator has just closed is as calm as a new one, though its own notice still lives."""
    _, (a,) = workers(1)
    await a.fail(5)
    await rounds(a)
    a.guards.get(SERVICE).admission.reset()
    await rounds(a)
    await a.fail(4)
    assert a.state == "closed"


async def test_of_two_that_have_given_up_each_hears_the_other_when_it_recovers() -> None:
    """There is one notice a service; the worker whose own stands there sees the other's after its next round."""
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
async def test_what_an_operator_forces_is_for_his_worker_only(mode: Mode) -> None:
    """It says nothing about the service."""
    _, (a, b) = workers(2)
    await a.fail(5)
    a.guards.get(SERVICE).admission.set_mode(mode)
    await rounds(a, b)
    assert not b.is_sensitized


async def test_nothing_is_told_about_the_service_that_carries_the_notices() -> None:
    """Who can read that Redis is away has just been answered by it."""
    store = MemoryStore()
    a, b = worker(store, carrier=SERVICE), worker(store)
    await a.fail(5)
    await rounds(a, b)
    assert not b.is_sensitized


async def test_one_read_sees_all_services() -> None:
    """However many guards there are; and none is made where there is none."""
    store = FaultyStore()
    a = worker(store)
    for number in range(20):
        a.guards.get(f"other-{number}")
    await rounds(a)
    assert [len(keys) for keys in store.gets] == [21]
    await BreakerSharing(store, Guards()).refresh()
    assert len(store.gets) == 1


@pytest.mark.parametrize(
    "said",
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
async def test_a_store_may_say_anything(said: Callable[[int], object]) -> None:
    """What is not a notice is none."""
    a = worker(SayingStore(said))
    await rounds(a)
    assert not a.is_sensitized
    await a.fail(4)
    assert a.state == "closed"


async def test_a_store_that_lies_can_fail_no_call() -> None:
    """The worst that it can say is a notice for everybody."""
    a = worker(SayingStore(lambda count: [b"0" * 32] * count))
    await rounds(a)
    assert a.is_sensitized
    assert [await a.answer() for _ in range(100)] == ["answer"] * 100


async def test_a_store_that_is_away_changes_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when it goes, one when it is back, without what the driver said."""
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


async def test_what_was_told_last_is_not_believed_for_ever() -> None:
    """When the store goes away, suspicion ends after the life of a notice."""
    clock, store = ManualClock(), FaultyStore()
    a, b = worker(store, clock), worker(store, clock)
    await a.fail(5)
    await rounds(a, b)
    store.fault = ConnectionError()
    await rounds(b)
    assert b.is_sensitized
    clock.advance(b.sharing.ttl_s)
    assert not b.is_sensitized


async def test_a_silent_store_holds_up_nothing() -> None:
    """Rounds end in time, what hangs is bounded, calls go on, and the board is back when the store is."""
    store = FaultyStore()
    a, b = worker(store), worker(store)
    async with a.sharing, b.sharing:
        async with store.hangs():
            await a.fail(5)
            await eventually(lambda: store.hanging == 8)
            started = time.monotonic()
            assert [await b.answer() for _ in range(100)] == ["answer"] * 100
            assert time.monotonic() - started < AT_ONCE_S
            assert store.hanging <= 8
        await eventually(lambda: b.is_sensitized)


async def test_leaving_takes_no_time_even_then() -> None:
    """The store's call ignores that it is cancelled; nobody waits for it."""
    store = FaultyStore()
    a = worker(store)
    async with store.hangs():
        async with a.sharing:
            await eventually(lambda: store.hanging)
            started = time.monotonic()
        assert time.monotonic() - started < AT_ONCE_S
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "breaker sharing"]


@pytest.mark.parametrize("fault", [ConnectionError(), asyncio.CancelledError(), TimeoutError(), RecursionError()])
async def test_the_task_outlives_whatever_the_store_raises(fault: BaseException) -> None:
    """Also a cancellation that was not its own."""
    store = FaultyStore()
    a, b = worker(store), worker(store)
    await a.fail(5)
    async with a.sharing, b.sharing:
        store.fault = fault
        asked = len(store.gets)
        await eventually(lambda: len(store.gets) > asked + 4)
        store.fault = None
        await eventually(lambda: b.is_sensitized)
    # An exception that nobody looked at would be reported now.
    gc.collect()


async def test_a_board_that_is_cancelled_is_cancelled() -> None:
    """As `asyncio.run` does with every task at its end."""
    store = FaultyStore()
    a = worker(store)
    async with store.hangs():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await a.sharing.refresh()


async def test_the_boards_rounds_do_not_belong_to_whoever_opened_it() -> None:
    """The span and the deadline of a request that opens the process default are not theirs."""
    opener = ContextVar("opener", default="nobody")
    seen = set[str]()

    def said(count: int) -> object:
        seen.add(opener.get())
        return [None] * count

    opener.set("a request")
    async with worker(SayingStore(said)).sharing:
        await eventually(lambda: seen)
    assert seen == {"nobody"}


async def test_it_can_be_opened_again() -> None:
    """As a forge can."""
    store = MemoryStore()
    a, b = worker(store), worker(store)
    for _ in range(2):
        async with a.sharing:
            pass
    await a.fail(5)
    async with a.sharing, b.sharing:
        await eventually(lambda: b.is_sensitized)


async def test_workers_that_were_forked_are_told_apart() -> None:
    """Boards built before the fork would else take the notices of their siblings for their own."""
    store = MemoryStore()
    a, b = worker(store), worker(store)
    b.sharing._worker_id = a.sharing._worker_id
    await a.fail(5)
    async with a.sharing, b.sharing:
        await eventually(lambda: b.is_sensitized)


@pytest.mark.parametrize(("interval_s", "timeout_s"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_times_are_above_zero(interval_s: float, timeout_s: float) -> None:
    """Anything else is a mistake."""
    with pytest.raises(ConfigurationError):
        BreakerSharing(MemoryStore(), Guards(), interval_s=interval_s, timeout_s=timeout_s)
