"""All steps of a call share one time budget."""

import asyncio
import time

import pytest

from forge_otel.errors import ServiceTimeout
from forge_otel.resilience.event_loop_lag import LoopLagMonitor
from forge_otel.resilience.time_budget import TimeBudget, budgeted, current_time_budget, start_detached


class Steps:
    """Counts the steps of a call."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.call = budgeted(self._step)

    async def _step(self, takes_s: float | None) -> str:
        self.started += 1
        try:
            await (asyncio.sleep(takes_s) if takes_s is not None else asyncio.Event().wait())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "answer"


async def _rejected(steps: Steps, takes_s: float | None) -> None:
    with pytest.raises(ServiceTimeout):
        await steps.call(takes_s)


async def test_without_a_budget_a_step_is_not_limited() -> None:
    """As for a service that reads the cache outside of a call."""
    assert await Steps().call(0) == "answer"


async def test_no_step_starts_in_less_time_than_the_longest_one_took() -> None:
    """More than half of the budget is used up, so the rest is too short."""
    current_time_budget.set(TimeBudget(0.1, LoopLagMonitor()))
    steps = Steps()
    assert await steps.call(0.06) == "answer"
    await _rejected(steps, 0)
    await _rejected(steps, 0)
    assert (steps.started, steps.cancelled) == (1, 0)


async def test_a_hanging_step_is_cancelled_at_the_end_of_the_budget() -> None:
    """The second step has less time than the first."""
    current_time_budget.set(TimeBudget(0.2, LoopLagMonitor()))
    steps = Steps()
    await steps.call(0.01)
    async with asyncio.timeout(60):
        await _rejected(steps, None)
    assert (steps.started, steps.cancelled) == (2, 1)
    await _rejected(steps, 0)
    assert steps.started == 2


async def test_a_cancelled_caller_stays_cancelled() -> None:
    """Its cancellation is not a timeout."""
    current_time_budget.set(TimeBudget(60.0, LoopLagMonitor()))
    steps = Steps()
    await steps.call(0.001)
    task = asyncio.create_task(steps.call(None))
    while steps.started < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_stalls_of_the_event_loop_are_not_charged() -> None:
    """The cache is not the cause of the delay."""
    lag = LoopLagMonitor()
    current_time_budget.set(TimeBudget(0.1, lag))

    async def stalled() -> str:
        lag.enter()
        until_s = time.monotonic() + 0.2
        while time.monotonic() < until_s:
            pass
        await asyncio.sleep(0.002)
        lag.leave()
        return "answer"

    step = budgeted(stalled)
    assert [await step(), await step()] == ["answer"] * 2


async def test_a_budget_can_be_reset() -> None:
    """For a call that waited for the generation of another caller."""
    budget = TimeBudget(0.05, LoopLagMonitor())
    current_time_budget.set(budget)
    steps = Steps()
    await steps.call(0.04)
    await _rejected(steps, 0)
    budget.reset()
    assert await steps.call(0) == "answer"


async def test_a_detached_task_is_not_limited() -> None:
    """It has no time budget, and its caller only waits for it within its own."""
    current_time_budget.set(TimeBudget(0.001, LoopLagMonitor()))
    steps = Steps()
    task = start_detached(steps.call(0.05))
    budget = current_time_budget.get()
    assert budget is not None
    assert not await budget.wait(task)
    assert await task == "answer"
