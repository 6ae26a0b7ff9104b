"""One run per key and process, shared by its callers, also after cancellations and failures."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from forge_otel.context import Generation, current_generation
from forge_otel.errors import ForgeError, GenerationFailed, GenerationTimeout, ServiceUnavailable
from forge_otel.layers.single_flight.layer import SingleFlightLayer
from forge_otel.layers.single_flight.run import RunOutcome
from forge_otel.resilience.deadline import deadline, remaining_s
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, Cost, GenerationRequest, GenerationResult, Reply


class Pipeline:
    """Runs until `go` is set, and counts starts and cancellations."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.runs = 0
        self.cancelled = 0
        self.error = error

    async def __call__(self, call: Call) -> Reply:
        self.runs += 1
        self.started.set()
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
    """An error about one caller."""

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
    """Start `count` calls; the first one starts the run."""
    tasks = [asyncio.create_task(_ask(layer, pipeline, _generation(f"g{number}"))) for number in range(count)]
    await pipeline.started.wait()
    return tasks


@pytest.fixture
async def orphaned() -> list[tuple[str, RunOutcome]]:
    """The runs whose first caller left."""
    return []


@pytest.fixture
async def layer(orphaned: list[tuple[str, RunOutcome]]) -> AsyncIterator[SingleFlightLayer]:
    """A layer without other processes."""

    async def record(_call: Call, generation: Generation, outcome: RunOutcome) -> None:
        orphaned.append((generation.id, outcome))

    async with SingleFlightLayer(
        instruments=Instruments(), timeout_s=5, on_orphaned=record, close_timeout_s=0.05
    ) as opened:
        yield opened


async def _eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_concurrent_callers_share_one_run(layer: SingleFlightLayer) -> None:
    """The first caller pays; the others are collapsed and save its cost."""
    pipeline = Pipeline()
    tasks = await _start(layer, pipeline, 50)
    pipeline.go.set()
    first, *others = await asyncio.gather(*tasks)
    assert (pipeline.runs, first.source, first.saved_usd) == (1, "L4", 0)
    assert {(reply.source, reply.saved_usd, reply.origin_id) for reply in others} == {
        ("collapsed", Decimal("0.42"), "g0")
    }


@pytest.mark.parametrize("tail", [[1], ({1, 2},)])
async def test_no_caller_shares_a_result_with_another(layer: SingleFlightLayer, tail: Any) -> None:
    """Changing one answer leaves the rest unchanged, with metadata of JSON types and without."""
    started, go = asyncio.Event(), asyncio.Event()

    async def pipeline(_call: Call) -> Reply:
        started.set()
        await go.wait()
        result = GenerationResult(code="x", artifacts={"a.tsx": "x"}, metadata={"deep": {"list": list(tail)}})
        return Reply(result=result)

    tasks = [asyncio.create_task(_ask(layer, pipeline)) for _ in range(5)]
    await started.wait()
    go.set()
    replies = []
    for task in tasks:
        reply: Any = await task
        assert reply.result.artifacts == {"a.tsx": "x"}
        assert reply.result.metadata == {"deep": {"list": list(tail)}}
        reply.result.artifacts["b.tsx"] = "y"
        reply.result.metadata["deep"]["list"].append("changed")
        replies.append(reply)
    assert len({id(reply.result.metadata["deep"]) for reply in replies}) == 5


async def test_other_keys_and_later_calls_run_again(layer: SingleFlightLayer) -> None:
    """A run is shared only while it is active."""
    pipeline = Pipeline()
    pipeline.go.set()
    await asyncio.gather(_ask(layer, pipeline), _ask(layer, pipeline, key="other"))
    await _ask(layer, pipeline)
    assert pipeline.runs == 3


async def test_the_first_caller_may_leave(layer: SingleFlightLayer, orphaned: list[tuple[str, RunOutcome]]) -> None:
    """The others get their answer, and the cost is recorded on the orphaned run."""
    pipeline, leader = Pipeline(), _generation("leader")
    first = asyncio.create_task(_ask(layer, pipeline, leader))
    await pipeline.started.wait()
    other = asyncio.create_task(_ask(layer, pipeline, _generation("other")))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    pipeline.go.set()
    reply = await other
    assert (first.cancelled(), pipeline.cancelled, reply.source, reply.origin_id) == (True, 0, "collapsed", "leader")
    await _eventually(lambda: orphaned)
    assert orphaned[0][0] == "leader"
    assert (leader.id != "leader", leader.spent_usd) == (True, 0)


async def test_a_run_without_callers_continues(
    layer: SingleFlightLayer, orphaned: list[tuple[str, RunOutcome]]
) -> None:
    """A caller that arrives while it runs gets its answer."""
    pipeline = Pipeline()
    tasks = await _start(layer, pipeline, 3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    late = asyncio.create_task(_ask(layer, pipeline))
    await asyncio.sleep(0)
    pipeline.go.set()
    assert (await late).source == "collapsed"
    await _eventually(lambda: orphaned)
    assert (pipeline.runs, pipeline.cancelled) == (1, 0)


async def test_a_cancelled_follower_changes_nothing(
    layer: SingleFlightLayer, orphaned: list[tuple[str, RunOutcome]]
) -> None:
    """Neither for the first caller nor for the others."""
    pipeline = Pipeline()
    first, second, third = await _start(layer, pipeline, 3)
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    pipeline.go.set()
    assert [(await first).source, (await third).source, orphaned] == ["L4", "collapsed", []]


async def test_a_failure_is_shared_and_not_repeated(layer: SingleFlightLayer) -> None:
    """Every caller gets the same error with the frames of the pipeline only."""
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


async def test_a_personal_error_is_not_shared(layer: SingleFlightLayer) -> None:
    """After the first caller exceeds its budget, the next one starts a new run."""
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


async def test_a_pipeline_that_cancels_itself(layer: SingleFlightLayer) -> None:
    """The first caller gets the cancellation, the others an error."""
    pipeline = Pipeline(asyncio.CancelledError())
    first, second = await _start(layer, pipeline, 2)
    await asyncio.sleep(0)
    pipeline.go.set()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert isinstance(second.exception(), GenerationFailed)


async def test_a_deadline_ends_the_wait_but_not_the_run() -> None:
    """A later caller gets the answer."""
    pipeline = Pipeline()
    async with SingleFlightLayer(instruments=Instruments(), timeout_s=5, close_timeout_s=0.05) as layer:
        with deadline(0.05), pytest.raises(GenerationTimeout, match="ask again"):
            await _ask(layer, pipeline)
        late = asyncio.create_task(_ask(layer, pipeline))
        await asyncio.sleep(0)
        pipeline.go.set()
        assert (await late).source == "collapsed"


async def test_the_run_has_no_deadline_of_its_first_caller(layer: SingleFlightLayer) -> None:
    """Other callers may have more time."""
    seen = []

    async def look(call: Call) -> Reply:
        seen.append(remaining_s())
        return Reply(result=GenerationResult(code=""))

    with deadline(3):
        await layer(_call(), look)
    assert seen == [float("inf")]


async def test_a_pipeline_may_call_itself(layer: SingleFlightLayer) -> None:
    """It does not wait for its own run."""

    async def inner(call: Call) -> Reply:
        return Reply(result=GenerationResult(code="inner"))

    async def outer(call: Call) -> Reply:
        return await layer(call, inner)

    async with asyncio.timeout(2):
        assert (await layer(_call(), outer)).result.code == "inner"


async def test_closing_waits_and_then_cancels() -> None:
    """Waiting callers get an error that says that the service is closing."""
    pipeline = Pipeline()
    layer = SingleFlightLayer(instruments=Instruments(), timeout_s=60, close_timeout_s=0.05)
    async with asyncio.timeout(5):
        async with layer:
            (task,) = await _start(layer, pipeline, 1)
        with pytest.raises(ServiceUnavailable, match="closing"):
            await task
    assert pipeline.cancelled == 1


async def test_spans_of_the_run_belong_to_the_first_caller(layer: SingleFlightLayer) -> None:
    """The span of every other caller has a link to it."""
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
