"""One generation for a key in one process, whoever leaves, whatever fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest, ForgeError, GenerationFailed, GenerationTimeout, NotFound, ServiceUnavailable
from forge_otel.layers.single_flight.layer import SingleFlightLayer
from forge_otel.layers.single_flight.run import RunOutcome
from forge_otel.resilience.deadline import deadline, remaining_s
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, Cost, GenerationRequest, GenerationResult, Progress, Reply, Step


class Pipeline:
    """Runs until it is let go, and counts how often it was begun and how it ended."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.runs = 0
        self.cancelled = 0
        self.error = error

    async def __call__(self, call: Call) -> Reply:
        self.runs += 1
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        generation = current_generation.get()
        if generation is not None:
            generation.record_cost(Cost(api="openai", amount_usd=Decimal("0.42")))
        origin = "" if generation is None else generation.id
        return Reply(result=GenerationResult(code="answer"), cost_usd=Decimal("0.42"), origin_id=origin)


class PersonalError(ForgeError):
    """Says something about one caller."""

    is_personal = True


async def _never() -> GenerationResult:
    raise AssertionError("the layer asks call_next, not the pipeline")


def _call(key: str = "k") -> Call:
    request = GenerationRequest(component_type="button", figma_key="f")
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_never)


def _generation(name: str) -> Generation:
    return Generation(id=name, started_at=datetime.now(UTC), started_s=0.0)


async def _ask(layer: SingleFlightLayer, pipeline: Any, generation: Generation | None = None, key: str = "k") -> Reply:
    current_generation.set(generation)
    return await layer(_call(key), pipeline)


async def _start(layer: SingleFlightLayer, pipeline: Pipeline, count: int) -> list[asyncio.Task[Reply]]:
    """Begin that many calls, of which the first leads."""
    tasks = [asyncio.create_task(_ask(layer, pipeline, _generation(f"g{number}"))) for number in range(count)]
    await pipeline.begun.wait()
    return tasks


@pytest.fixture
async def left() -> list[tuple[str, RunOutcome]]:
    """The runs that ended without their first caller."""
    return []


@pytest.fixture
async def layer(left: list[tuple[str, RunOutcome]]) -> AsyncIterator[SingleFlightLayer]:
    """Alone in its process."""

    async def note(_call: Call, generation: Generation, outcome: RunOutcome) -> None:
        left.append((generation.id, outcome))

    async with SingleFlightLayer(
        instruments=Instruments(), timeout_s=5, on_orphaned=note, close_timeout_s=0.05
    ) as opened:
        yield opened


async def _eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_many_callers_make_one_run(layer: SingleFlightLayer) -> None:
    """The first pays, all others are collapsed and have saved what it cost."""
    pipeline = Pipeline()
    tasks = await _start(layer, pipeline, 50)
    pipeline.go.set()
    first, *others = await asyncio.gather(*tasks)
    assert (pipeline.runs, first.source, first.saved_usd) == (1, "L4", 0)
    assert {(reply.source, reply.saved_usd, reply.origin_id) for reply in others} == {
        ("collapsed", Decimal("0.42"), "g0")
    }


async def test_keys_and_times_are_apart(layer: SingleFlightLayer) -> None:
    """Another key runs by itself, and so does the same key once the first run is over."""
    pipeline = Pipeline()
    pipeline.go.set()
    await asyncio.gather(_ask(layer, pipeline), _ask(layer, pipeline, key="other"))
    await _ask(layer, pipeline)
    assert pipeline.runs == 3


async def test_the_first_caller_may_leave(layer: SingleFlightLayer, left: list[tuple[str, RunOutcome]]) -> None:
    """The others get their answer, and what was spent stands in a record of the run's own."""
    pipeline, leader = Pipeline(), _generation("leader")
    first = asyncio.create_task(_ask(layer, pipeline, leader))
    await pipeline.begun.wait()
    other = asyncio.create_task(_ask(layer, pipeline, _generation("other")))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    pipeline.go.set()
    reply = await other
    assert (first.cancelled(), pipeline.cancelled, reply.source, reply.origin_id) == (True, 0, "collapsed", "leader")
    await _eventually(lambda: left)
    assert left[0][0] == "leader"
    assert (leader.id != "leader", leader.spent_usd) == (True, 0)


async def test_a_run_that_nobody_waits_for_goes_on(
    layer: SingleFlightLayer, left: list[tuple[str, RunOutcome]]
) -> None:
    """Whoever asks while it runs gets its answer."""
    pipeline = Pipeline()
    tasks = await _start(layer, pipeline, 3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    late = asyncio.create_task(_ask(layer, pipeline))
    await asyncio.sleep(0)
    pipeline.go.set()
    assert (await late).source == "collapsed"
    await _eventually(lambda: left)
    assert (pipeline.runs, pipeline.cancelled) == (1, 0)


async def test_a_follower_who_leaves_changes_nothing(
    layer: SingleFlightLayer, left: list[tuple[str, RunOutcome]]
) -> None:
    """Neither for the first nor for the others."""
    pipeline = Pipeline()
    first, second, third = await _start(layer, pipeline, 3)
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    pipeline.go.set()
    assert [(await first).source, (await third).source, left] == ["L4", "collapsed", []]


async def test_a_failure_is_shared_and_not_repeated(layer: SingleFlightLayer) -> None:
    """Everybody gets the very error, with the frames of the pipeline in it and not those of all the others."""
    fault = ValueError("no such colour")
    pipeline = Pipeline(fault)
    tasks = await _start(layer, pipeline, 20)
    pipeline.go.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert (ends, pipeline.runs) == ([fault] * 20, 1)
    depth = len(list(_frames(fault)))
    assert depth < 15
    with pytest.raises(ValueError, match="no such colour"):
        await _ask(layer, pipeline)
    assert pipeline.runs == 2


def _frames(error: BaseException) -> Any:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


async def test_an_error_about_one_caller_is_for_that_caller(layer: SingleFlightLayer) -> None:
    """A spent budget of the first lets the next one try."""
    runs = []

    async def spend(call: Call) -> Reply:
        runs.append(call)
        await asyncio.sleep(0.01)
        if len(runs) == 1:
            raise PersonalError("your budget is spent")
        return Reply(result=GenerationResult(code="answer"))

    first, *others = await asyncio.gather(*(_ask(layer, spend) for _ in range(3)), return_exceptions=True)
    assert isinstance(first, PersonalError)
    assert sorted(end.source for end in others if isinstance(end, Reply)) == ["L4", "collapsed"]


async def test_a_pipeline_that_is_cancelled_by_itself(layer: SingleFlightLayer) -> None:
    """Its caller sees the cancellation, the others an error: nobody has cancelled them."""
    pipeline = Pipeline(asyncio.CancelledError())
    first, second = await _start(layer, pipeline, 2)
    await asyncio.sleep(0)
    pipeline.go.set()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert isinstance(second.exception(), GenerationFailed)


async def test_nobody_waits_longer_than_a_generation_may_take() -> None:
    """The run goes on for those who come later."""
    pipeline = Pipeline()
    async with SingleFlightLayer(instruments=Instruments(), timeout_s=5, close_timeout_s=0.05) as layer:
        with deadline(0.05), pytest.raises(GenerationTimeout, match="ask again"):
            await _ask(layer, pipeline)
        late = asyncio.create_task(_ask(layer, pipeline))
        await asyncio.sleep(0)
        pipeline.go.set()
        assert (await late).source == "collapsed"


async def test_the_run_does_not_have_the_first_callers_deadline(layer: SingleFlightLayer) -> None:
    """Others wait for it who have more time."""
    seen = []

    async def look(call: Call) -> Reply:
        seen.append(remaining_s())
        return Reply(result=GenerationResult(code=""))

    with deadline(3):
        await layer(_call(), look)
    assert seen == [float("inf")]


async def test_a_pipeline_may_ask_for_itself(layer: SingleFlightLayer) -> None:
    """It does not wait for itself until its time is over."""

    async def inner(call: Call) -> Reply:
        return Reply(result=GenerationResult(code="inner"))

    async def outer(call: Call) -> Reply:
        return await layer(call, inner)

    async with asyncio.timeout(2):
        assert (await layer(_call(), outer)).result.code == "inner"


async def test_closing_waits_and_then_cancels() -> None:
    """Within its time; whoever still waits is told that the service closes."""
    pipeline = Pipeline()
    layer = SingleFlightLayer(instruments=Instruments(), timeout_s=60, close_timeout_s=0.05)
    async with asyncio.timeout(5):
        async with layer:
            (task,) = await _start(layer, pipeline, 1)
        with pytest.raises(ServiceUnavailable, match="closing"):
            await task
    assert pipeline.cancelled == 1


async def test_spans_of_the_run_are_the_first_callers(layer: SingleFlightLayer) -> None:
    """What happens inside is below the first caller's span, and a follower's span links to it."""
    spans = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    inside: list[ReadableSpan] = []

    async def look(call: Call) -> Reply:
        await asyncio.sleep(0)
        with spans.start_as_current_span("inside") as span:
            assert isinstance(span, ReadableSpan)
            inside.append(span)
        return Reply(result=GenerationResult(code=""))

    async def ask(name: str) -> ReadableSpan:
        with spans.start_as_current_span(name) as span:
            await layer(_call(), look)
        assert isinstance(span, ReadableSpan)
        return span

    first, second = await asyncio.gather(ask("first"), ask("second"))
    assert inside[0].parent == first.get_span_context()
    assert [link.context for link in second.links] == [first.get_span_context()]
    assert not first.links
    assert trace.get_current_span() is trace.INVALID_SPAN


async def _kinds(told: AsyncIterator[Progress]) -> list[str]:
    return [progress.kind async for progress in told]


async def test_a_late_follower_hears_it_from_the_beginning(layer: SingleFlightLayer) -> None:
    """Ten at random moments hear the same, also after the end."""
    heard = []

    async def work(call: Call) -> Reply:
        generation = current_generation.get()
        assert generation is not None
        for number in range(10):
            generation.record_step_start(f"agent {number}", "agent")
            heard.append(asyncio.create_task(_kinds(layer.follow("k", after=(0, 0), wait_s=1))))
            await asyncio.sleep(0)
            generation.record_step(Step(name=f"agent {number}", kind="agent", started_s=0, duration_s=1))
        return Reply(result=GenerationResult(code=""))

    await _ask(layer, work, _generation("g"))
    heard.append(asyncio.create_task(_kinds(layer.follow("k", after=(0, 0), wait_s=1))))
    expected = ["started", *["step_started", "step_ended"] * 10, "done"]
    assert [await one for one in heard] == [expected] * 11


async def test_a_follower_goes_on_where_it_was(layer: SingleFlightLayer) -> None:
    """After the last event that it knows; and one that comes in vain is told so."""
    pipeline = Pipeline()
    pipeline.go.set()
    await _ask(layer, pipeline, _generation("g"))
    told = [progress async for progress in layer.follow("k", after=(0, 0), wait_s=1)]
    assert [progress.kind for progress in told] == ["started", "model_call", "done"]
    run, _, number = told[1].id.partition("-")
    assert await _kinds(layer.follow("k", after=(int(run), int(number)), wait_s=1)) == ["done"]
    with pytest.raises(NotFound):
        await _kinds(layer.follow("other", after=(0, 0), wait_s=0.02))


async def test_a_run_that_tells_too_much_is_cut_short(layer: SingleFlightLayer) -> None:
    """Its end is told all the same, and names are short, whatever they hold."""

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
