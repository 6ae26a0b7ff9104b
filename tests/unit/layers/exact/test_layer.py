"""L1 answers what it was told before, and never anything else."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from forge_otel.context import Generation, current_generation
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.stores.memory import MemoryStore
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply


class Pipeline:
    """Counts how often it is asked, and gives each time another answer."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, call: Call) -> Reply:
        self.runs += 1
        result = GenerationResult(code=f"answer {self.runs}", artifacts={"a.bin": b"\x00\xff"})
        return Reply(result=result, cost_usd=Decimal("0.42"), origin_id=f"g{self.runs}")


def _exact(store: Any, **options: Any) -> ExactCacheLayer:
    label = options.pop("degraded_label", "cache:uncached")
    return ExactCacheLayer(
        store, ExactCacheOptions(secret=b"s", **options), instruments=Instruments(), degraded_label=label
    )


def _call(**changes: Any) -> Call:
    fields: dict[str, Any] = {"component_type": "button", "figma_key": "f", "tenant": "t"}
    request = GenerationRequest(**fields | changes)
    key = f"key of {request.tokens}{request.figma_key}"
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_never)


async def _never() -> GenerationResult:
    raise AssertionError("the layer asks call_next, not the pipeline")


@pytest.fixture
def generation() -> Any:
    """The running generation, which is told the reasons of misses."""
    running = Generation(id="g", started_at=datetime.now(UTC), started_s=0.0)
    token = current_generation.set(running)
    yield running
    current_generation.reset(token)


async def test_the_second_time_the_store_answers(generation: Generation) -> None:
    """The first call is a cold miss, the second a hit that knows its origin and its price."""
    pipeline, exact = Pipeline(), _exact(MemoryStore())
    first = await exact(_call(), pipeline)
    second = await exact(_call(), pipeline)
    assert (first.source, second.source, pipeline.runs) == ("L4", "L1", 1)
    assert second.result == first.result
    assert (second.origin_id, second.saved_usd, second.cost_usd) == ("g1", Decimal("0.42"), Decimal("0.42"))
    assert generation.misses == {"L1": "cold"}


@pytest.mark.parametrize(
    "tag",
    [
        "all",
        "type:button",
        "figma:f",
        "tenant:t",
        "tokens:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    ],
)
async def test_a_tag_invalidates_what_was_made_under_it(generation: Generation, tag: str) -> None:
    """After an invalidation the old answer is never given again, and the miss says why."""
    pipeline, exact = Pipeline(), _exact(MemoryStore())
    await exact(_call(), pipeline)
    await exact.invalidate(tag)
    assert (await exact(_call(), pipeline)).result.code == "answer 2"
    assert generation.misses == {"L1": "epoch"}
    assert (await exact(_call(), pipeline)).source == "L1"


async def test_another_tag_invalidates_nothing() -> None:
    """A purge of another file leaves this one's answers alone."""
    pipeline, exact = Pipeline(), _exact(MemoryStore())
    await exact(_call(), pipeline)
    await exact.invalidate("figma:other")
    assert (await exact(_call(), pipeline)).source == "L1"


async def test_an_invalidation_also_reaches_a_generation_that_is_running() -> None:
    """What was begun before a purge is not kept after it."""
    exact = _exact(MemoryStore())
    pipeline = Pipeline()

    async def purge_meanwhile(call: Call) -> Reply:
        await exact.invalidate("all")
        return await pipeline(call)

    await exact(_call(), purge_meanwhile)
    assert (await exact(_call(), pipeline)).result.code == "answer 2"


async def test_a_forgotten_epoch_is_a_miss(generation: Generation) -> None:
    """An epoch that was evicted is unknown, and so are all answers under it."""
    store = MemoryStore()
    pipeline, exact = Pipeline(), _exact(store)
    await exact(_call(), pipeline)
    await store.delete([key for key in store._entries if "epoch" in key])
    assert (await exact(_call(), pipeline)).result.code == "answer 2"
    assert generation.misses == {"L1": "epoch"}


async def test_a_damaged_entry_is_a_miss_and_is_replaced(generation: Generation) -> None:
    """Garbage in the store costs one generation and is then gone."""
    store = MemoryStore()
    pipeline, exact = Pipeline(), _exact(store)
    await exact(_call(), pipeline)
    (key,) = (key for key in store._entries if ":l1:" in key)
    await store.set(key, b"garbage")
    assert (await exact(_call(), pipeline)).result.code == "answer 2"
    assert generation.misses == {"L1": "corrupt"}
    assert (await exact(_call(), pipeline)).result.code == "answer 2"


async def test_an_entry_copied_from_another_key_is_a_miss(generation: Generation) -> None:
    """An answer under the wrong key is never given."""
    store = MemoryStore()
    pipeline, exact = Pipeline(), _exact(store)
    await exact(_call(tokens={"n": 1}), pipeline)
    (first,) = (key for key in store._entries if ":l1:" in key)
    await exact(_call(tokens={"n": 2}), pipeline)
    (second,) = (key for key in store._entries if ":l1:" in key and key != first)
    await store.set(second, (await store.get([first]))[0] or b"")
    assert (await exact(_call(tokens={"n": 2}), pipeline)).result.code == "answer 3"
    assert generation.misses == {"L1": "corrupt"}


class BrokenStore(MemoryStore):
    """Fails at one of its methods, as a server that is down would."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self._broken = broken

    def __getattribute__(self, name: str) -> Any:
        broken = object.__getattribute__(self, "__dict__").get("_broken")
        if name in {broken, f"{broken}_with_cost"}:
            return _refuse
        return super().__getattribute__(name)


async def _refuse(*_: object, **__: object) -> None:
    raise ConnectionRefusedError


@pytest.mark.parametrize("broken", ["get", "set", "add"])
async def test_a_store_that_is_down_costs_only_the_cache(generation: Generation, broken: str) -> None:
    """The caller gets an answer, and the record says that the cache did not help."""
    pipeline = Pipeline()
    exact = _exact(BrokenStore(broken), degraded_label="redis:uncached")
    assert (await exact(_call(), pipeline)).result.code == "answer 1"
    assert generation.degraded == ["redis:uncached"]


async def test_what_is_too_large_or_not_json_is_answered_but_not_kept() -> None:
    """A result that cannot be stored is still the caller's."""
    for result in (GenerationResult(code="x" * 200), GenerationResult(code="x", metadata={"o": object()})):
        store = MemoryStore()
        reply = await _exact(store, max_entry_bytes=100)(_call(), _answers(result))
        assert reply.result is result
        assert [key for key in store._entries if ":l1:" in key] == []


def _answers(result: GenerationResult) -> Callable[[Call], Any]:
    async def pipeline(call: Call) -> Reply:
        return Reply(result=result)

    return pipeline


async def test_a_hit_is_one_round_trip() -> None:
    """Entry and epochs are asked for together."""
    asked: list[Sequence[str]] = []

    class Watched(MemoryStore):
        async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
            asked.append(keys)
            return await super().get(keys)

    exact = _exact(Watched())
    await exact(_call(), Pipeline())
    asked.clear()
    assert (await exact(_call(), Pipeline())).source == "L1"
    assert len(asked) == 1


async def test_a_failed_pipeline_leaves_nothing() -> None:
    """An error is the caller's and is never cached."""

    async def fails(call: Call) -> Reply:
        raise ValueError("no")

    exact, pipeline = _exact(MemoryStore()), Pipeline()
    with pytest.raises(ValueError, match="no"):
        await exact(_call(), fails)
    assert (await exact(_call(), pipeline)).source == "L4"


async def test_a_cancelled_call_leaves_nothing_half_done() -> None:
    """Cancellation while the pipeline runs passes through, and the next call runs it again."""
    exact, pipeline, begun = _exact(MemoryStore()), Pipeline(), asyncio.Event()

    async def hangs(call: Call) -> Reply:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.ensure_future(exact(_call(), hangs))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await exact(_call(), pipeline)).source == "L4"
