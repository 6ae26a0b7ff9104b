"""An attempt that is cancelled in place ends in time, and only its own cancellation becomes a timeout."""

import asyncio

import pytest

from forge_otel.errors import ServiceTimeout
from forge_otel.resilience.attempt_timeout import AbandonReason, AttemptTimeout, TimeoutOptions
from forge_otel.resilience.event_loop_lag import LoopLagMonitor


def _limit(told: list[AbandonReason], attempt_s: float = 0.02) -> AttemptTimeout:
    options = TimeoutOptions(attempt_s=attempt_s, is_cancelled_in_place=True)
    return AttemptTimeout("redis", options, loop_lag=LoopLagMonitor(), on_abandon=told.append)


async def test_a_silent_service_is_given_up() -> None:
    """The caller gets a timeout, and its task is not left cancelled."""
    told: list[AbandonReason] = []
    with pytest.raises(ServiceTimeout):
        await _limit(told).run_in_place(asyncio.Event().wait(), 1.0)
    task = asyncio.current_task()
    assert task is not None
    assert (told, task.cancelling()) == (["timed_out"], 0)
    await asyncio.sleep(0)


async def test_the_deadline_limits_it_too() -> None:
    """What is left of the whole call's time is enough to end it."""
    with pytest.raises(ServiceTimeout):
        await _limit([], attempt_s=60).run_in_place(asyncio.Event().wait(), 0.01)


async def test_an_answer_and_an_error_pass() -> None:
    """Nothing is changed about what ends in time, also where it is a timeout of its own."""
    told: list[AbandonReason] = []
    assert await _limit(told).run_in_place(asyncio.sleep(0, "answer"), 1.0) == "answer"

    async def fails() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await _limit(told).run_in_place(fails(), 1.0)
    assert told == []


async def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    """Somebody else's cancellation is no timeout of the service."""
    told: list[AbandonReason] = []
    begun = asyncio.Event()

    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(_limit(told, attempt_s=60).run_in_place(hangs(), 60))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (task.cancelled(), told) == (True, [])


async def test_both_at_once_is_a_cancellation() -> None:
    """Where the caller was cancelled when the time was over, it ends."""

    async def swallows_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.cancel()
            raise

    task = asyncio.ensure_future(_limit([]).run_in_place(swallows_once(), 1.0))
    with pytest.raises(asyncio.CancelledError):
        await task
