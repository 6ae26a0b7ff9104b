"""The memory store keeps the contract, its bounds and its clock, and evicts what is worth least."""

import random
from collections import OrderedDict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.stores.memory import _ENTRY_OVERHEAD_BYTES as OVERHEAD
from forge_otel.stores.memory import MemoryStore
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.testing.contracts.store_contract import StoreContract
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply


class TestMemoryStore(StoreContract):
    """The contract of all stores."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        """An empty store."""
        return MemoryStore()


async def test_what_was_asked_for_outlives_what_was_not() -> None:
    """Of equal worth and size the one that nobody asked for goes first."""
    store = MemoryStore(max_bytes=3 * (OVERHEAD + 1 + 100))
    for key in "abc":
        await store.set(key, b"x" * 100)
    await store.get(["a"])
    await store.get(["c"])
    await store.set("d", b"x" * 100)
    assert await store.get(list("abcd")) == [b"x" * 100, None, b"x" * 100, b"x" * 100]


async def test_an_expensive_answer_is_not_evicted_for_cheap_ones() -> None:
    """$0.42 stays while hundreds of cents pass, and is not asked for once."""
    store = MemoryStore(max_bytes=10 * 20_000)
    await store.set_with_cost("dear", b"x" * 19_000, cost_usd=0.42)
    for number in range(300):
        await store.set_with_cost(f"cheap {number}", b"x" * 19_000, cost_usd=0.001)
    assert len(await store.get(["dear"])) == 1
    assert (await store.get(["dear"])) != [None]


async def test_what_nobody_asks_for_leaves_in_the_end() -> None:
    """However much it was worth: what comes later begins where the evicted ones ended."""
    store = MemoryStore(max_bytes=10 * 20_000)
    await store.set_with_cost("dear", b"x" * 19_000, cost_usd=0.42)
    for number in range(2_000):
        await store.set_with_cost(f"cheaper {number}", b"x" * 19_000, cost_usd=0.05)
    assert await store.get(["dear"]) == [None]


async def test_of_equal_worth_the_larger_goes_first() -> None:
    """It takes the place of more others."""
    store = MemoryStore(max_bytes=60_000)
    await store.set_with_cost("large", b"x" * 40_000, cost_usd=0.42)
    await store.set_with_cost("small", b"x" * 10_000, cost_usd=0.42)
    await store.set_with_cost("other", b"x" * 15_000, cost_usd=0.42)
    assert [value is None for value in await store.get(["large", "small", "other"])] == [True, False, False]


async def test_an_answer_does_not_outlive_what_it_needs() -> None:
    """Its epochs are worth nothing by themselves, and it would be lost with them."""
    store = MemoryStore(max_bytes=200_000)
    for name in ("epoch 1", "epoch 2"):
        await store.set(name, b"e")
    await store.set_with_cost("dear", b"x" * 10_000, cost_usd=5, depends_on=["epoch 1", "gone"])
    await store.get(["dear", "epoch 2"])
    for number in range(200):
        await store.set_with_cost(f"cheap {number}", b"x" * 10_000, cost_usd=0.42)
    assert None not in await store.get(["dear", "epoch 1", "epoch 2"])


STEP = st.tuples(
    st.sampled_from(["set", "set", "get", "add", "delete", "increase", "wait"]),
    st.integers(0, 12),
    st.integers(0, 3_000),
    st.floats(0.0001, 5),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=120), st.integers(500, 9_000), st.integers(1, 8))
async def test_whatever_is_done_the_bounds_hold_and_nothing_is_made_up(
    steps: list[tuple[str, int, int, float]], max_bytes: int, max_entries: int
) -> None:
    """Bytes and entries stay within their bounds, and what is there is what was written last and still lives."""
    now = [0.0]
    store = MemoryStore(max_bytes=max_bytes, max_entries=max_entries, clock=lambda: now[0])
    written: dict[str, tuple[bytes, float]] = {}
    for number, (what, name, size_bytes, cost_usd) in enumerate(steps):
        key, value = f"k{name}", str(number).encode() + b"x" * size_bytes
        if what == "set":
            await store.set_with_cost(key, value, ttl_s=None if name % 2 else 3, cost_usd=cost_usd)
            written[key] = (value, float("inf") if name % 2 else now[0] + 3)
        elif what == "add":
            told = await store.add(key, value)
            written[key] = (told, written[key][1] if told != value else float("inf"))
        elif what == "delete":
            await store.delete([key])
            written.pop(key, None)
        elif what == "increase":
            (count,) = await store.increment({f"n{name}": 1}, ttl_s=3)
            written[f"n{name}"] = (b"%d" % count, now[0] + 3)
        elif what == "wait":
            now[0] += 1
        assert store.size_bytes <= max_bytes
        assert len(store) <= max_entries
        for known, found in zip(written, await store.get(list(written)), strict=True):
            assert found is None or (found == written[known][0] and now[0] < written[known][1])
    for known in list(written):
        await store.delete([known])
    assert (store.size_bytes, len(store)) == (0, 0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.floats(0.001, 5), st.booleans()), min_size=20, max_size=300))
async def test_it_evicts_what_a_plain_reckoning_evicts(steps: list[tuple[int, float, bool]]) -> None:
    """The heap with late corrections finds the same victims as looking at all priorities each time."""
    places, age = 5, 0.0
    store = MemoryStore(max_entries=places)
    plain: dict[str, tuple[float, float, int]] = {}
    remembered: dict[str, int] = {}
    for name, cost_usd, is_read in steps:
        key = f"k{name:02}"
        if is_read:
            assert (await store.get([key]) == [None]) == (key not in plain)
            if key in plain:
                priority, density, hits = plain[key]
                plain[key] = (max(priority, age + (hits + 1) * density), density, hits + 1)
            continue
        await store.set_with_cost(key, b"", cost_usd=cost_usd)
        density, hits = cost_usd / (OVERHEAD + len(key)), 1 + remembered.pop(key, 0)
        plain[key] = (age + hits * density, density, hits)
        if len(plain) > places:
            least = min(priority for priority, _, _ in plain.values())
            # Of several that are worth the same anyone may go.
            (gone,) = set(plain) - set(store._entries)
            assert plain[gone][0] == least
            age, remembered[gone] = least, plain.pop(gone)[2]
        assert set(store._entries) == set(plain)


async def test_the_heap_does_not_grow_with_what_is_overwritten() -> None:
    """A counter that is written for ever, and entries that come and go, leave nothing behind."""
    store = MemoryStore()
    for number in range(50):
        await store.set(f"k{number}", b"x")
    for _ in range(20_000):
        await store.increment({"count": 1}, ttl_s=9)
        await store.set("temporary", b"x")
        await store.delete(["temporary"])
    assert len(store._heap) < 500


async def test_more_dollars_are_saved_than_by_the_least_recently_used() -> None:
    """A tenth of what is asked for fits; what is asked for is spread as in practice, and costs cents or dollars."""
    chance = random.Random(7)
    kinds = 1_000
    worth = [chance.choice([0.02, 0.02, 0.42, 0.42, 1.5]) for _ in range(kinds)]
    size = [chance.choice([2_000, 12_000, 40_000]) for _ in range(kinds)]
    asked = chance.choices(range(kinds), [1 / (rank + 1) for rank in range(kinds)], k=20_000)
    max_bytes = sum(size) // 10
    store = MemoryStore(max_bytes=max_bytes)
    recent: OrderedDict[int, int] = OrderedDict()
    taken, by_worth, by_recency = 0, 0.0, 0.0
    for one in asked:
        if await store.get([f"{one}"]) != [None]:
            by_worth += worth[one]
        else:
            await store.set_with_cost(f"{one}", b"x" * size[one], cost_usd=worth[one])
        if one in recent:
            by_recency += worth[one]
            recent.move_to_end(one)
        else:
            recent[one] = size[one] + OVERHEAD
            taken += recent[one]
        while taken > max_bytes:
            taken -= recent.popitem(last=False)[1]
    assert by_worth > 1.1 * by_recency


async def test_the_exact_cache_says_what_an_answer_cost() -> None:
    """A dear one stays among cheap ones, with its epochs, and is a hit."""
    store = MemoryStore(max_bytes=150_000)
    exact = ExactCacheLayer(store, ExactCacheOptions(secret=b"s"), instruments=Instruments())

    async def answer(call: Call) -> Reply:
        cost_usd = Decimal("1.00") if call.key == "dear" else Decimal("0.01")
        code = "".join(random.Random(call.key).choices("abcdefghijklmnopqrstuvwxyz", k=10_000))
        return Reply(result=GenerationResult(code=code), cost_usd=cost_usd, origin_id="g")

    for key in ("dear", *(f"cheap {number}" for number in range(100))):
        await exact(_call(key), answer)
    assert (await exact(_call("dear"), answer)).source == "L1"
    assert (await exact(_call("cheap 0"), answer)).source == "L4"


def _call(key: str) -> Call:
    request = GenerationRequest(component_type="button", figma_key=key)
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_never)


async def _never() -> GenerationResult:
    raise AssertionError("the layer asks call_next, not the pipeline")


async def test_the_bound_holds_whatever_is_written() -> None:
    """Size never passes the bound, and an entry larger than the bound is not kept."""
    store = MemoryStore(max_bytes=10_000)
    for number in range(1_000):
        await store.set(f"k{number % 37}", b"x" * (number * 97 % 12_000))
        assert store.size_bytes <= 10_000
    await store.delete([f"k{number}" for number in range(37)])
    assert (store.size_bytes, len(store)) == (0, 0)


async def test_life_is_counted_by_the_monotonic_clock() -> None:
    """An entry lives exactly as long as the clock says."""
    now = [100.0]
    store = MemoryStore(clock=lambda: now[0])
    await store.set("a", b"1", ttl_s=10)
    now[0] = 109.9
    assert await store.get(["a"]) == [b"1"]
    now[0] = 110.0
    assert await store.get(["a"]) == [None]
