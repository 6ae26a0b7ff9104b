"""Whoever waits goes on when the time is over, whatever the called code does about it."""

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
    """A timeout, and what it tells."""
    told: list[AbandonReason] = []
    return AttemptTimeout("svc", TimeoutOptions(**options), loop_lag=LoopLagMonitor(), on_abandon=told.append), told


async def stubborn(release: asyncio.Event, *, end: BaseException | None = None) -> str:
    """A call that does not let itself be cancelled, but for the end of a test that fails."""
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await release.wait()
            break
    if end is not None:
        raise end
    return "late"


async def ended(subject: AttemptTimeout) -> None:
    """Wait until no abandoned call is left."""
    async with asyncio.timeout(2.0):
        while subject.abandoned:
            await asyncio.sleep(0)


async def test_a_quick_call_is_answered() -> None:
    """With its own result or its own error."""
    subject, told = attempts(attempt_s=5.0)
    assert await subject.run(asyncio.sleep(0, "here"), 5.0) == "here"

    async def fail() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        await subject.run(fail(), 5.0)
    assert told == []


async def test_a_call_that_refuses_to_end_is_left_to_itself() -> None:
    """`asyncio.timeout` would wait for it; its late error is looked at and counted."""
    subject, told = attempts(attempt_s=0.02)
    release = asyncio.Event()
    started = time.monotonic()
    with pytest.raises(ServiceTimeout, match=r"'svc' did not respond within 0\.02 s"):
        await subject.run(stubborn(release, end=ConnectionError("late")), 5.0)
    assert time.monotonic() - started < 1.0
    assert (subject.abandoned, told) == (1, ["timed_out"])
    release.set()
    await ended(subject)
    assert subject.late_errors == 1


async def test_a_late_result_is_harmless() -> None:
    """Nobody gets it."""
    subject, _ = attempts(attempt_s=0.01)
    release = asyncio.Event()
    with pytest.raises(ServiceTimeout):
        await subject.run(stubborn(release), 5.0)
    release.set()
    await ended(subject)
    assert subject.late_errors == 0


async def test_the_rest_of_the_deadline_may_be_less() -> None:
    """The shorter of the two holds."""
    subject, _ = attempts(attempt_s=60.0)
    with pytest.raises(ServiceTimeout, match=r"within 0\.01 s"):
        await subject.run(asyncio.sleep(60), 0.01)
    await ended(subject)


async def test_so_many_may_be_abandoned_and_no_more() -> None:
    """A service that swallows cancellations cannot fill the process."""
    subject, _ = attempts(attempt_s=0.001, max_abandoned=3)
    release = asyncio.Event()
    for _ in range(3):
        with pytest.raises(ServiceTimeout):
            await subject.run(stubborn(release), 1.0)
    with pytest.raises(Overloaded, match="3 abandoned calls to 'svc'"):
        await subject.run(stubborn(release), 1.0)
    release.set()
    await ended(subject)


async def test_cancelling_the_caller_cancels_the_attempt() -> None:
    """And does not wait for it either."""
    subject, told = attempts(attempt_s=60.0)
    release = asyncio.Event()
    waiting = asyncio.create_task(subject.run(stubborn(release), 60.0))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=1.0)
    assert waiting.cancelled()
    assert (subject.abandoned, told) == (1, ["cancelled"])
    release.set()
    await ended(subject)


async def test_an_error_leaves_no_reference_cycle() -> None:
    """Or each failed call would keep its request until the collector comes round."""
    subject, _ = attempts(attempt_s=5.0)

    async def fail() -> None:
        raise ConnectionError

    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with pytest.raises(ConnectionError):
                await subject.run(fail(), 5.0)
        await asyncio.sleep(0)
        assert sum(isinstance(found, ConnectionError) for found in gc.get_objects()) < 5
    finally:
        gc.enable()


def test_bad_options_are_refused() -> None:
    """A timeout of 0 would time out everything."""
    with pytest.raises(ConfigurationError) as caught:
        TimeoutOptions(attempt_s=0.0, max_abandoned=0)
    assert len(caught.value.faults) == 2


async def test_time_in_which_the_loop_stood_still_is_not_the_services() -> None:
    """A call that could not be sent for 0.1 s gets its time after that, once."""

    async def ask() -> str:
        time.sleep(0.1)
        await asyncio.sleep(0.03)
        return "here"

    timeout, told = attempts(attempt_s=0.05)
    assert await timeout.run(ask(), math.inf) == "here"
    assert told == []


async def test_a_service_that_is_silent_is_given_up_also_by_a_busy_loop() -> None:
    """What the loop took is given back to the call, and no more."""
    timeout, _ = attempts(attempt_s=0.05)
    asyncio.get_running_loop().call_later(0.02, time.sleep, 0.1)
    with pytest.raises(ServiceTimeout):
        await timeout.run(asyncio.sleep(60), math.inf)
