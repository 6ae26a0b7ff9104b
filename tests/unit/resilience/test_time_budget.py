"""All steps of a call share one allowance, and what is written goes on without it."""

import asyncio
import time

import pytest

from forge_otel.errors import ServiceTimeout
from forge_otel.resilience.event_loop_lag import LoopLagMonitor
from forge_otel.resilience.time_budget import TimeBudget, budgeted, current_time_budget, start_detached


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
    current_time_budget.set(TimeBudget(0.1, LoopLagMonitor()))
    steps = Steps()
    assert await steps.call(0.06) == "answer"
    await _rejected(steps, 0)
    await _rejected(steps, 0)
    assert (steps.begun, steps.cancelled) == (1, 0)


async def test_a_step_that_hangs_is_cut_short_by_what_is_left() -> None:
    """The second one has less time than the first, and is cancelled then."""
    current_time_budget.set(TimeBudget(0.2, LoopLagMonitor()))
    steps = Steps()
    await steps.call(0.01)
    async with asyncio.timeout(60):
        await _rejected(steps, None)
    assert (steps.begun, steps.cancelled) == (2, 1)
    await _rejected(steps, 0)
    assert steps.begun == 2


async def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    """Somebody else's cancellation is no timeout."""
    current_time_budget.set(TimeBudget(60.0, LoopLagMonitor()))
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
    lag = LoopLagMonitor()
    current_time_budget.set(TimeBudget(0.1, lag))

    async def held_up() -> str:
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
    patience = TimeBudget(0.05, LoopLagMonitor())
    current_time_budget.set(patience)
    steps = Steps()
    await steps.call(0.04)
    await _rejected(steps, 0)
    patience.reset()
    assert await steps.call(0) == "answer"


async def test_what_is_behind_is_not_limited() -> None:
    """It neither has the patience of the call nor ends with it."""
    current_time_budget.set(TimeBudget(0.001, LoopLagMonitor()))
    steps = Steps()
    task = start_detached(steps.call(0.05))
    patience = current_time_budget.get()
    assert patience is not None
    assert not await patience.wait(task)
    assert await task == "answer"
