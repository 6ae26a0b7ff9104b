"""The exact cache returns stored answers, never wrong ones, and survives every fault of its store."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from forge_otel.context import Generation, current_generation
from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.stores.memory import MemoryStore
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply


class Pipeline:
    """Counts its runs and returns another answer each time."""

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
    """The running generation, which collects miss reasons."""
    running = Generation(id="g", started_at=datetime.now(UTC), started_s=0.0)
    token = current_generation.set(running)
    yield running
    current_generation.reset(token)


async def test_the_second_equal_call_is_a_hit(generation: Generation) -> None:
    """The hit carries the origin and the cost of the first answer."""
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
async def test_invalidating_a_tag_invalidates_its_entries(generation: Generation, tag: str) -> None:
    """The old answer is not returned again, and the miss reason is `epoch`."""
    pipeline, exact = Pipeline(), _exact(MemoryStore())
    await exact(_call(), pipeline)
    await exact.invalidate(tag)
    assert (await exact(_call(), pipeline)).result.code == "answer 2"
    assert generation.misses == {"L1": "epoch"}
    assert (await exact(_call(), pipeline)).source == "L1"


async def test_invalidating_another_tag_changes_nothing() -> None:
    """A purge of another Figma file keeps this entry."""
    pipeline, exact = Pipeline(), _exact(MemoryStore())
    await exact(_call(), pipeline)
    await exact.invalidate("figma:other")
    assert (await exact(_call(), pipeline)).source == "L1"


async def test_an_invalidation_during_a_run_applies_to_its_answer() -> None:
    """An answer that was started before the purge is a miss after it."""
    exact = _exact(MemoryStore())
    pipeline = Pipeline()

    async def purge_meanwhile(call: Call) -> Reply:
        await exact.invalidate("all")
        return await pipeline(call)

    await exact(_call(), purge_meanwhile)
    assert (await exact(_call(), pipeline)).result.code == "answer 2"


async def test_a_lost_tag_version_is_a_miss(generation: Generation) -> None:
    """If the store evicted a tag version, all entries under the tag are invalid."""
    store = MemoryStore()
    pipeline, exact = Pipeline(), _exact(store)
    await exact(_call(), pipeline)
    await store.delete([key for key in store._entries if "epoch" in key])
    assert (await exact(_call(), pipeline)).result.code == "answer 2"
    assert generation.misses == {"L1": "epoch"}


async def test_a_damaged_entry_is_a_miss_and_is_replaced(generation: Generation) -> None:
    """It costs one generation."""
    store = MemoryStore()
    pipeline, exact = Pipeline(), _exact(store)
    await exact(_call(), pipeline)
    (key,) = (key for key in store._entries if ":l1:" in key)
    await store.set(key, b"garbage")
    assert (await exact(_call(), pipeline)).result.code == "answer 2"
    assert generation.misses == {"L1": "corrupt"}
    assert (await exact(_call(), pipeline)).result.code == "answer 2"


async def test_an_entry_copied_from_another_key_is_a_miss(generation: Generation) -> None:
    """The key is authenticated with the entry."""
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
    """Fails in one method, as an unreachable server would."""

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
async def test_an_unavailable_store_does_not_fail_the_call(generation: Generation, broken: str) -> None:
    """The caller gets an answer, and the record has a `degraded` label."""
    pipeline = Pipeline()
    exact = _exact(BrokenStore(broken), degraded_label="redis:uncached")
    assert (await exact(_call(), pipeline)).result.code == "answer 1"
    assert generation.degraded == ["redis:uncached"]


async def test_answers_that_are_too_large_or_not_json_are_not_stored() -> None:
    """The caller gets the result unchanged."""
    for result in (GenerationResult(code="x" * 200), GenerationResult(code="x", metadata={"o": object()})):
        store = MemoryStore()
        reply = await _exact(store, max_entry_bytes=100)(_call(), _answers(result))
        assert reply.result is result
        assert [key for key in store._entries if ":l1:" in key] == []


def _answers(result: GenerationResult) -> Callable[[Call], Any]:
    async def pipeline(call: Call) -> Reply:
        return Reply(result=result)

    return pipeline


async def test_a_hit_takes_one_round_trip() -> None:
    """Entry and tag versions are read together."""
    reads: list[Sequence[str]] = []

    class Watched(MemoryStore):
        async def get(self, keys: Sequence[str], /) -> list[bytes | None]:
            reads.append(keys)
            return await super().get(keys)

    exact = _exact(Watched())
    await exact(_call(), Pipeline())
    reads.clear()
    assert (await exact(_call(), Pipeline())).source == "L1"
    assert len(reads) == 1


async def test_errors_are_not_cached() -> None:
    """The next call runs the pipeline again."""

    async def fails(call: Call) -> Reply:
        raise ValueError("no")

    exact, pipeline = _exact(MemoryStore()), Pipeline()
    with pytest.raises(ValueError, match="no"):
        await exact(_call(), fails)
    assert (await exact(_call(), pipeline)).source == "L4"


async def test_cancellation_passes_through() -> None:
    """The next call runs the pipeline again."""
    exact, pipeline, started = _exact(MemoryStore()), Pipeline(), asyncio.Event()

    async def hangs(call: Call) -> Reply:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.ensure_future(exact(_call(), hangs))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await exact(_call(), pipeline)).source == "L4"


async def test_a_caller_that_changes_its_answer_does_not_change_the_queued_write() -> None:
    """The write is sealed after the caller has the answer."""
    exact, metadata = _exact(MemoryStore(), time_budget_s=0.01), {"deep": {"n": 1}}
    await exact(_call(tokens={"warm": 1}), Pipeline())
    hold = [asyncio.Event() for _ in range(8)]

    async def slow(event: asyncio.Event) -> bool:
        return await event.wait()

    held = [exact.write_behind.start(functools.partial(slow, event)) for event in hold]
    await exact(_call(), _answers(GenerationResult(code="x", metadata=metadata)))
    metadata["deep"]["n"] = 2
    for event in hold:
        event.set()
    await asyncio.wait([task for task in (*held, *exact.write_behind._pending) if task is not None])
    found = await exact.lookup(_call())
    assert isinstance(found, CacheEntry)
    assert found.result.metadata == {"deep": {"n": 1}}


async def test_an_entry_with_a_ttl_of_its_own_is_committed_with_it() -> None:
    """The lease writes the entry in place of the cache."""
    committed: list[float | None] = []

    async def commit(_blob: bytes, ttl_s: float | None) -> bool:
        committed.append(ttl_s)
        return True

    exact = _exact(MemoryStore(), ttl_s=60.0)
    reply = Reply(result=GenerationResult(code="x"))
    assert await exact.write(_call(), reply, {"all": "1"}, commit=commit, ttl_s=5.0)
    assert await exact.write(_call(), reply, {"all": "1"}, commit=commit)
    assert committed == [5.0, 60.0]


async def test_answers_that_cannot_be_stored_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Once for each reason; otherwise every request would generate again unnoticed."""
    exact = _exact(MemoryStore(), max_entry_bytes=500)
    for _ in range(3):
        await exact(_call(), _answers(GenerationResult(code="x", metadata={"o": object()})))
        await exact(_call(), _answers(GenerationResult(code="x" * 1000)))
    lines = [record.getMessage() for record in caplog.records]
    assert ["not_serialisable" in line for line in lines] == [True, False]
    assert ["too_large" in line for line in lines] == [False, True]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (GenerationResult(code="x", metadata={"o": object()}), "not_serialisable"),
        (GenerationResult(code="x" * 1000), "too_large"),
    ],
)
async def test_the_next_miss_states_why_the_answer_was_not_stored(
    generation: Generation, result: GenerationResult, reason: str
) -> None:
    """It is the miss reason of the next equal request."""
    exact = _exact(MemoryStore(), max_entry_bytes=500)
    await exact(_call(), _answers(result))
    await exact(_call(), _answers(result))
    assert generation.misses == {"L1": reason}
