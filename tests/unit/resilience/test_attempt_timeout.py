"""An attempt ends in time for its caller, even if the called code ignores its cancellation."""

import asyncio
import gc
import math
import time
from contextlib import suppress
from typing import Any

import pytest

from forge_otel.errors import ConfigurationError, Overloaded, ServiceTimeout
from forge_otel.resilience.attempt_timeout import AbandonReason, AttemptTimeout, TimeoutOptions
from forge_otel.resilience.event_loop_lag import LoopLagMonitor


def attempts(**options: Any) -> tuple[AttemptTimeout, list[AbandonReason]]:
    """Return a timeout and the list of its abandon reasons."""
    reasons: list[AbandonReason] = []
    return AttemptTimeout(
        "svc", TimeoutOptions(**options), loop_lag=LoopLagMonitor(), on_abandon=reasons.append
    ), reasons


async def stubborn(release: asyncio.Event, *, end: BaseException | None = None) -> str:
    """Ignore the first cancellation, so that a call can only be abandoned."""
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await release.wait()
            break
    if end is not None:
        raise end
    return "late"


async def ended(subject: AttemptTimeout) -> None:
    """Wait until all abandoned calls have ended."""
    async with asyncio.timeout(2.0):
        while subject.abandoned:
            await asyncio.sleep(0)


async def test_a_quick_call_returns_its_result_or_error() -> None:
    """It is not abandoned."""
    subject, reasons = attempts(attempt_s=5.0)
    assert await subject.run(asyncio.sleep(0, "here"), 5.0) == "here"

    async def fail() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        await subject.run(fail(), 5.0)
    assert reasons == []


async def test_a_call_that_ignores_cancellation_is_abandoned() -> None:
    """`asyncio.timeout` would wait for it; its late error is consumed and counted."""
    subject, reasons = attempts(attempt_s=0.02)
    release = asyncio.Event()
    started = time.monotonic()
    with pytest.raises(ServiceTimeout, match=r"'svc' did not respond within 0\.02 s"):
        await subject.run(stubborn(release, end=ConnectionError("late")), 5.0)
    assert time.monotonic() - started < 1.0
    assert (subject.abandoned, reasons) == (1, ["timed_out"])
    release.set()
    await ended(subject)
    assert subject.late_errors == 1


async def test_a_late_result_is_dropped() -> None:
    """It is not counted as an error."""
    subject, _ = attempts(attempt_s=0.01)
    release = asyncio.Event()
    with pytest.raises(ServiceTimeout):
        await subject.run(stubborn(release), 5.0)
    release.set()
    await ended(subject)
    assert subject.late_errors == 0


async def test_the_shorter_limit_applies() -> None:
    """The remaining deadline is shorter than the attempt timeout."""
    subject, _ = attempts(attempt_s=60.0)
    with pytest.raises(ServiceTimeout, match=r"within 0\.01 s"):
        await subject.run(asyncio.sleep(60), 0.01)
    await ended(subject)


async def test_the_number_of_abandoned_calls_is_limited() -> None:
    """A service that ignores cancellation cannot fill the process."""
    subject, _ = attempts(attempt_s=0.001, max_abandoned=3)
    release = asyncio.Event()
    for _ in range(3):
        with pytest.raises(ServiceTimeout):
            await subject.run(stubborn(release), 1.0)
    with pytest.raises(Overloaded, match="3 abandoned calls to 'svc'"):
        await subject.run(stubborn(release), 1.0)
    release.set()
    await ended(subject)


async def test_a_cancelled_caller_abandons_the_attempt() -> None:
    """It does not wait for the attempt to end."""
    subject, reasons = attempts(attempt_s=60.0)
    release = asyncio.Event()
    waiting = asyncio.create_task(subject.run(stubborn(release), 60.0))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=1.0)
    assert waiting.cancelled()
    assert (subject.abandoned, reasons) == (1, ["cancelled"])
    release.set()
    await ended(subject)


def living_errors() -> int:
    """Return how many ConnectionErrors are in memory."""
    return sum(isinstance(found, ConnectionError) for found in gc.get_objects())


async def test_an_error_leaves_no_reference_cycle() -> None:
    """A cycle would keep the request of each failed call until the next garbage collection."""
    subject, _ = attempts(attempt_s=5.0)

    async def fail() -> None:
        raise ConnectionError

    gc.collect()
    # Tests that ran before may have left some that are still referenced.
    before = living_errors()
    gc.disable()
    try:
        for _ in range(50):
            with pytest.raises(ConnectionError):
                await subject.run(fail(), 5.0)
        await asyncio.sleep(0)
        assert living_errors() - before < 5
    finally:
        gc.enable()


def test_invalid_options_are_rejected() -> None:
    """A timeout of 0 would end every call."""
    with pytest.raises(ConfigurationError) as caught:
        TimeoutOptions(attempt_s=0.0, max_abandoned=0)
    assert len(caught.value.faults) == 2


async def test_a_stall_of_the_loop_extends_the_timeout_once() -> None:
    """In a stall of 0.1 s nothing could be sent or read."""

    async def ask() -> str:
        time.sleep(0.1)
        await asyncio.sleep(0.03)
        return "here"

    timeout, reasons = attempts(attempt_s=0.05)
    assert await timeout.run(ask(), math.inf) == "here"
    assert reasons == []


async def test_a_silent_service_times_out_despite_a_stall() -> None:
    """The extension is as long as the stall."""
    timeout, _ = attempts(attempt_s=0.05)
    asyncio.get_running_loop().call_later(0.02, time.sleep, 0.1)
    with pytest.raises(ServiceTimeout):
        await timeout.run(asyncio.sleep(60), math.inf)


def _in_place(reasons: list[AbandonReason], attempt_s: float = 0.02) -> AttemptTimeout:
    options = TimeoutOptions(attempt_s=attempt_s, is_cancelled_in_place=True)
    return AttemptTimeout("redis", options, loop_lag=LoopLagMonitor(), on_abandon=reasons.append)


async def test_an_attempt_in_place_times_out() -> None:
    """The task of the caller is not left cancelled."""
    reasons: list[AbandonReason] = []
    with pytest.raises(ServiceTimeout):
        await _in_place(reasons).run_in_place(asyncio.Event().wait(), 1.0)
    task = asyncio.current_task()
    assert task is not None
    assert (reasons, task.cancelling()) == (["timed_out"], 0)
    await asyncio.sleep(0)


async def test_the_deadline_limits_an_attempt_in_place() -> None:
    """It is shorter than the attempt timeout."""
    with pytest.raises(ServiceTimeout):
        await _in_place([], attempt_s=60).run_in_place(asyncio.Event().wait(), 0.01)


async def test_an_attempt_in_place_returns_its_result_or_error() -> None:
    """A TimeoutError of its own is unchanged."""
    reasons: list[AbandonReason] = []
    assert await _in_place(reasons).run_in_place(asyncio.sleep(0, "answer"), 1.0) == "answer"

    async def fails() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await _in_place(reasons).run_in_place(fails(), 1.0)
    assert reasons == []


async def test_a_cancelled_caller_of_an_attempt_in_place_stays_cancelled() -> None:
    """Its cancellation is not a timeout of the service."""
    reasons: list[AbandonReason] = []
    is_running = asyncio.Event()

    async def hangs() -> None:
        is_running.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(_in_place(reasons, attempt_s=60).run_in_place(hangs(), 60))
    await is_running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (task.cancelled(), reasons) == (True, [])


async def test_a_cancellation_at_the_moment_of_the_timeout_wins() -> None:
    """The caller ends as cancelled."""

    async def swallows_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.cancel()
            raise

    task = asyncio.ensure_future(_in_place([]).run_in_place(swallows_once(), 1.0))
    with pytest.raises(asyncio.CancelledError):
        await task
