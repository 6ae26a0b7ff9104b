"""Whoever waits goes on when the time is over, whatever the called code does about it."""

import asyncio
import gc
import math
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from forge_otel.context import current_generation
from forge_otel.errors import ConfigurationError, GenerationTimeout, Overloaded, ServiceTimeout
from forge_otel.resilience.attempt_timeout import AttemptTimeout, TimeoutLayer, TimeoutOptions
from forge_otel.resilience.deadline import remaining_s
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply

marker: ContextVar[str] = ContextVar("marker", default="unset")


def attempts(**options: Any) -> tuple[AttemptTimeout, list[str]]:
    """A timeout, and what it tells."""
    told: list[str] = []
    return AttemptTimeout("svc", TimeoutOptions(**options), notify=told.append), told


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


def a_call(**fields: Any) -> Call:
    """A generation that is to be timed."""

    async def run() -> GenerationResult:
        return GenerationResult(code="")

    request = GenerationRequest(component_type="button", figma_key="k")
    return Call(request=request, pipeline="generate", key="0", component_id="c", run=run, **fields)


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
    with pytest.raises(ServiceTimeout, match=r"'svc' did not answer within 0\.02 s"):
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
    with pytest.raises(Overloaded, match="3 calls to 'svc'"):
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


async def test_a_generation_is_answered_in_time() -> None:
    """The pipeline sees what surrounds the call, and its guards share the limit."""
    seen: dict[str, Any] = {}

    async def pipeline(call: Call) -> Reply:
        seen.update(marker=marker.get(), generation=current_generation.get(), rest_s=remaining_s())
        return Reply(result=GenerationResult(code=call.key))

    marker.set("outside")
    reply = await TimeoutLayer(5.0)(a_call(), pipeline)
    assert reply.result.code == "0"
    assert seen["marker"] == "outside"
    assert 5.0 <= seen["rest_s"] <= 5.6


async def test_a_generation_that_takes_too_long_is_cancelled() -> None:
    """The error is a plain sentence; the clean-up was allowed to run."""
    is_clean = asyncio.Event()

    async def pipeline(call: Call) -> Reply:
        try:
            await asyncio.sleep(60)
        finally:
            is_clean.set()
        raise AssertionError(call)

    with pytest.raises(GenerationTimeout, match=r"the pipeline 'generate' did not finish within 0\.02 s"):
        await TimeoutLayer(0.02)(a_call(), pipeline)
    assert is_clean.is_set()


async def test_nobody_waits_for_a_clean_up_that_hangs() -> None:
    """Longer than its bound."""
    release = asyncio.Event()

    async def pipeline(call: Call) -> Reply:
        return Reply(result=GenerationResult(code=await stubborn(release)))

    started = time.monotonic()
    with pytest.raises(GenerationTimeout):
        await TimeoutLayer(0.01, clean_up_s=0.05)(a_call(), pipeline)
    assert time.monotonic() - started < 1.0
    release.set()


async def test_cancelling_the_caller_cancels_the_pipeline_and_waits_for_its_clean_up() -> None:
    """A client that goes away does not leave a pipeline behind."""
    is_running, is_clean = asyncio.Event(), asyncio.Event()

    async def pipeline(call: Call) -> Reply:
        is_running.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            is_clean.set()
        raise AssertionError(call)

    waiting = asyncio.create_task(TimeoutLayer(60.0)(a_call(), pipeline))
    await is_running.wait()
    waiting.cancel()
    await asyncio.wait([waiting], timeout=1.0)
    assert waiting.cancelled()
    assert is_clean.is_set()


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
