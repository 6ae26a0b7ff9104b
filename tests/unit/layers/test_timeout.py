"""A generation is answered in time, or its pipeline is cancelled."""

import asyncio
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from forge_otel.context import current_generation
from forge_otel.errors import GenerationTimeout
from forge_otel.layers.timeout import TimeoutLayer
from forge_otel.resilience.deadline import remaining_s
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply

marker: ContextVar[str] = ContextVar("marker", default="unset")


async def stubborn(release: asyncio.Event) -> str:
    """Ignore the first cancellation and return once `release` is set."""
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await release.wait()
            break
    return "late"


def a_call(**fields: Any) -> Call:
    """Return a call of the generation layers."""

    async def run() -> GenerationResult:
        return GenerationResult(code="")

    request = GenerationRequest(component_type="button", figma_key="k")
    return Call(request=request, pipeline="generate", key="0", component_id="c", run=run, **fields)


async def test_a_generation_is_answered_in_time() -> None:
    """The pipeline sees the context of the call, and guards inside share the limit."""
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
    """The error names the pipeline and the limit; the pipeline cleans up before it is raised."""
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


async def test_a_clean_up_that_hangs_is_abandoned() -> None:
    """The caller waits `clean_up_s` and no longer."""
    release = asyncio.Event()

    async def pipeline(call: Call) -> Reply:
        return Reply(result=GenerationResult(code=await stubborn(release)))

    started = time.monotonic()
    with pytest.raises(GenerationTimeout):
        await TimeoutLayer(0.01, clean_up_s=0.05)(a_call(), pipeline)
    assert time.monotonic() - started < 1.0
    release.set()


async def test_cancelling_the_caller_cancels_the_pipeline_and_waits_for_its_clean_up() -> None:
    """A client that disconnects leaves no running pipeline."""
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
