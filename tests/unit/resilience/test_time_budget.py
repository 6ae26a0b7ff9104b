"""All steps of a call share one allowance, and what is written goes on without it."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from forge_otel import Forge, Settings
from forge_otel.errors import ServiceTimeout
from forge_otel.layers.exact.write_behind import WriteBehindQueue
from forge_otel.resilience.time_budget import TimeBudget, behind, budgeted, current_patience


class Steps:
    """Steps of a call, counted."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.call = budgeted(self._step)

    async def _step(self, takes_s: float | None) -> str:
        self.begun += 1
        try:
            await (asyncio.sleep(takes_s) if takes_s is not None else asyncio.Event().wait())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "answer"


async def _rejected(steps: Steps, takes_s: float | None) -> None:
    with pytest.raises(ServiceTimeout):
        await steps.call(takes_s)


async def test_without_patience_a_step_is_just_run() -> None:
    """As a service does that reads the cache outside of a call."""
    assert await Steps().call(0) == "answer"


async def test_after_a_long_step_none_is_begun() -> None:
    """Half of the time was enough for one, so that the rest is too little for another one."""
    current_patience.set(TimeBudget(0.1))
    steps = Steps()
    assert await steps.call(0.06) == "answer"
    await _rejected(steps, 0)
    await _rejected(steps, 0)
    assert (steps.begun, steps.cancelled) == (1, 0)


async def test_a_step_that_hangs_is_cut_short_by_what_is_left() -> None:
    """The second one has less time than the first, and is cancelled then."""
    current_patience.set(TimeBudget(0.2))
    steps = Steps()
    await steps.call(0.01)
    async with asyncio.timeout(60):
        await _rejected(steps, None)
    assert (steps.begun, steps.cancelled) == (2, 1)
    await _rejected(steps, 0)
    assert steps.begun == 2


async def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    """Somebody else's cancellation is no timeout."""
    current_patience.set(TimeBudget(60.0))
    steps = Steps()
    await steps.call(0.001)
    task = asyncio.create_task(steps.call(None))
    while steps.begun < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_that_stands_still_uses_up_nothing() -> None:
    """What the call itself, or another one, keeps the loop busy with is not the cache's."""
    current_patience.set(TimeBudget(0.1))

    async def held_up() -> str:
        from forge_otel.resilience.event_loop_lag import running_loop_lag

        lag = running_loop_lag()
        lag.enter()
        until_s = time.monotonic() + 0.2
        while time.monotonic() < until_s:
            pass
        await asyncio.sleep(0.002)
        lag.leave()
        return "answer"

    step = budgeted(held_up)
    assert [await step(), await step()] == ["answer"] * 2


async def test_patience_can_begin_anew() -> None:
    """For a call that waited for somebody else's generation meanwhile."""
    patience = TimeBudget(0.05)
    current_patience.set(patience)
    steps = Steps()
    await steps.call(0.04)
    await _rejected(steps, 0)
    patience.renew()
    assert await steps.call(0) == "answer"


async def test_what_is_behind_is_not_limited() -> None:
    """It neither has the patience of the call nor ends with it."""
    current_patience.set(TimeBudget(0.001))
    steps = Steps()
    task = behind(steps.call(0.05))
    patience = current_patience.get()
    assert patience is not None
    assert not await patience.wait(task)
    assert await task == "answer"


async def test_a_write_goes_on_behind_an_impatient_caller() -> None:
    """The caller is told that it is not known to be written; later it is."""
    current_patience.set(TimeBudget(0.01))
    may_end = asyncio.Event()
    written: list[int] = []

    async def write(number: int = 0) -> bool:
        await may_end.wait()
        written.append(number)
        return True

    async with WriteBehindQueue() as writes:
        assert not await writes.run(write)
        assert written == []
        may_end.set()
    assert written == [0]


async def test_a_write_that_never_ends_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """It is given up, and that is said."""
    current_patience.set(TimeBudget(0.01))

    async def write() -> bool:
        await asyncio.Event().wait()
        return True

    async with asyncio.timeout(30), WriteBehindQueue(grace_s=0.01) as writes:
        task = writes.begin(write)
    assert task is not None
    await asyncio.wait([task])
    assert task.cancelled()
    assert "are not kept: 1" in caplog.text


async def test_a_closing_forge_waits_for_what_is_written_behind_its_callers() -> None:
    """Before it closes the store: the answers are paid for."""
    keys = "a", "b"
    settings = Settings(cache_url="memory://", vector_url=None, archive_url=None, database_url=None, outbox_dir=None)
    async with Forge(settings) as forge:
        may_end = asyncio.Event()

        async def write(key: str) -> bool:
            await may_end.wait()
            await forge.components.store.set(key, b"1")
            return True

        for key in keys:
            forge.exact.writes.begin(partial(write, key))
        asyncio.get_running_loop().call_later(0.05, may_end.set)
    assert await forge.components.store.get(keys) == [b"1", b"1"]


async def test_a_patient_caller_is_told_whether_it_is_written() -> None:
    """Also where the write says that it could not."""
    current_patience.set(TimeBudget(60.0))

    async def write(is_written: bool) -> bool:
        await asyncio.sleep(0)
        return is_written

    writes = WriteBehindQueue()
    assert [await writes.run(lambda end=end: write(end)) for end in (True, False)] == [True, False]


async def test_a_herd_of_writes_is_bounded() -> None:
    """So many at once, so many in line, and the others are not made."""
    current_patience.set(TimeBudget(0.01))
    may_end = asyncio.Event()
    running: list[Any] = []

    async def write() -> bool:
        running.append(None)
        await may_end.wait()
        return True

    async with WriteBehindQueue(max_waiting=20) as writes:
        begun = [writes.begin(write) for _ in range(25)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert (begun.count(None), len(running)) == (5, 8)
        may_end.set()
    assert len(running) == 20
