"""A follower gets every event of a run, from the first one, however late it comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.unit.layers.single_flight.test_layer import Pipeline, _ask, _generation, layer, orphaned

from forge_otel.context import current_generation
from forge_otel.errors import BadRequest, NotFound
from forge_otel.layers.single_flight.layer import SingleFlightLayer
from forge_otel.types import Call, GenerationResult, Progress, Reply, Step

__all__ = ["layer", "orphaned"]


async def _kinds(events: AsyncIterator[Progress]) -> list[str]:
    return [progress.kind async for progress in events]


async def test_a_late_follower_gets_all_events(layer: SingleFlightLayer) -> None:
    """Also after the end of the run."""
    received = []

    async def work(call: Call) -> Reply:
        generation = current_generation.get()
        assert generation is not None
        for number in range(10):
            generation.record_step_start(f"agent {number}", "agent")
            received.append(asyncio.create_task(_kinds(layer.follow("k", after=(0, 0), wait_s=1))))
            await asyncio.sleep(0)
            generation.record_step(Step(name=f"agent {number}", kind="agent", started_s=0, duration_s=1))
        return Reply(result=GenerationResult(code=""))

    await _ask(layer, work, _generation("g"))
    received.append(asyncio.create_task(_kinds(layer.follow("k", after=(0, 0), wait_s=1))))
    expected = ["started", *["step_started", "step_ended"] * 10, "done"]
    assert [await one for one in received] == [expected] * 11


async def test_a_follower_resumes_after_an_event(layer: SingleFlightLayer) -> None:
    """Without a run it gets NotFound."""
    pipeline = Pipeline()
    pipeline.go.set()
    await _ask(layer, pipeline, _generation("g"))
    events = [progress async for progress in layer.follow("k", after=(0, 0), wait_s=1)]
    assert [progress.kind for progress in events] == ["started", "model_call", "done"]
    run, _, number = events[1].id.partition("-")
    assert await _kinds(layer.follow("k", after=(int(run), int(number)), wait_s=1)) == ["done"]
    with pytest.raises(NotFound):
        await _kinds(layer.follow("other", after=(0, 0), wait_s=0.02))


async def test_the_event_log_of_a_run_is_bounded(layer: SingleFlightLayer) -> None:
    """After 500 events only `truncated` and the end follow."""

    async def work(call: Call) -> Reply:
        generation = current_generation.get()
        assert generation is not None
        for _ in range(2000):
            generation.record_step_start("\ud800" + "x" * 1000, "agent")
        raise BadRequest("no")

    with contextlib.suppress(BadRequest):
        await _ask(layer, work, _generation("g"))
    kinds = await _kinds(layer.follow("k", after=(0, 0), wait_s=1))
    assert (len(kinds), kinds[-2:]) == (502, ["truncated", "failed"])
