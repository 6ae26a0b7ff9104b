"""The memory store: contract, bounds, TTLs and cost-aware eviction."""

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
    """The contract of stores."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        """An empty store."""
        return MemoryStore()


async def test_entries_that_are_read_outlive_others() -> None:
    """Of equal cost and size, the entry without reads is evicted first."""
    store = MemoryStore(max_bytes=3 * (OVERHEAD + 1 + 100))
    for key in "abc":
        await store.set(key, b"x" * 100)
    await store.get(["a"])
    await store.get(["c"])
    await store.set("d", b"x" * 100)
    assert await store.get(list("abcd")) == [b"x" * 100, None, b"x" * 100, b"x" * 100]


async def test_an_expensive_answer_is_not_evicted_for_cheap_ones() -> None:
    """An answer for $0.42 stays without reads while hundreds of cheap ones are stored."""
    store = MemoryStore(max_bytes=10 * 20_000)
    await store.set_with_cost("expensive", b"x" * 19_000, cost_usd=0.42)
    for number in range(300):
        await store.set_with_cost(f"cheap {number}", b"x" * 19_000, cost_usd=0.001)
    assert len(await store.get(["expensive"])) == 1
    assert (await store.get(["expensive"])) != [None]


async def test_an_entry_without_reads_is_evicted_eventually() -> None:
    """Newer entries start from the priority of the last evicted one."""
    store = MemoryStore(max_bytes=10 * 20_000)
    await store.set_with_cost("expensive", b"x" * 19_000, cost_usd=0.42)
    for number in range(2_000):
        await store.set_with_cost(f"cheaper {number}", b"x" * 19_000, cost_usd=0.05)
    assert await store.get(["expensive"]) == [None]


async def test_of_equal_cost_the_larger_entry_is_evicted_first() -> None:
    """Its cost per byte is lower."""
    store = MemoryStore(max_bytes=60_000)
    await store.set_with_cost("large", b"x" * 40_000, cost_usd=0.42)
    await store.set_with_cost("small", b"x" * 10_000, cost_usd=0.42)
    await store.set_with_cost("other", b"x" * 15_000, cost_usd=0.42)
    assert [value is None for value in await store.get(["large", "small", "other"])] == [True, False, False]


async def test_an_answer_does_not_outlive_its_dependencies() -> None:
    """Its tag versions have no cost of their own, but the answer would be lost with them."""
    store = MemoryStore(max_bytes=200_000)
    for name in ("version 1", "version 2"):
        await store.set(name, b"e")
    await store.set_with_cost("expensive", b"x" * 10_000, cost_usd=5, depends_on=["version 1", "gone"])
    await store.get(["expensive", "version 2"])
    for number in range(200):
        await store.set_with_cost(f"cheap {number}", b"x" * 10_000, cost_usd=0.42)
    assert None not in await store.get(["expensive", "version 1", "version 2"])


STEP = st.tuples(
    st.sampled_from(["set", "set", "get", "add", "delete", "increment", "wait"]),
    st.integers(0, 12),
    st.integers(0, 3_000),
    st.floats(0.0001, 5),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=120), st.integers(500, 9_000), st.integers(1, 8))
async def test_any_sequence_of_operations_keeps_the_bounds_and_values(
    steps: list[tuple[str, int, int, float]], max_bytes: int, max_entries: int
) -> None:
    """Bytes and entries stay bounded, and every value is the last one written and has not expired."""
    now = [0.0]
    store = MemoryStore(max_bytes=max_bytes, max_entries=max_entries, clock=lambda: now[0])
    written: dict[str, tuple[bytes, float]] = {}
    for number, (action, name, size_bytes, cost_usd) in enumerate(steps):
        key, value = f"k{name}", str(number).encode() + b"x" * size_bytes
        if action == "set":
            await store.set_with_cost(key, value, ttl_s=None if name % 2 else 3, cost_usd=cost_usd)
            written[key] = (value, float("inf") if name % 2 else now[0] + 3)
        elif action == "add":
            stored = await store.add(key, value)
            written[key] = (stored, written[key][1] if stored != value else float("inf"))
        elif action == "delete":
            await store.delete([key])
            written.pop(key, None)
        elif action == "increment":
            (count,) = await store.increment({f"n{name}": 1}, ttl_s=3)
            written[f"n{name}"] = (b"%d" % count, now[0] + 3)
        elif action == "wait":
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
async def test_evictions_equal_those_of_a_plain_model(steps: list[tuple[int, float, bool]]) -> None:
    """The lazily corrected heap finds the same entries as a search through all priorities."""
    max_entries, age = 5, 0.0
    store = MemoryStore(max_entries=max_entries)
    plain: dict[str, tuple[float, float, int]] = {}
    evicted_reads: dict[str, int] = {}
    for name, cost_usd, is_read in steps:
        key = f"k{name:02}"
        if is_read:
            assert (await store.get([key]) == [None]) == (key not in plain)
            if key in plain:
                priority, density, reads = plain[key]
                plain[key] = (max(priority, age + (reads + 1) * density), density, reads + 1)
            continue
        await store.set_with_cost(key, b"", cost_usd=cost_usd)
        density, reads = cost_usd / (OVERHEAD + len(key)), 1 + evicted_reads.pop(key, 0)
        plain[key] = (age + reads * density, density, reads)
        if len(plain) > max_entries:
            least = min(priority for priority, _, _ in plain.values())
            # Any of several entries with the same priority may be evicted.
            (gone,) = set(plain) - set(store._entries)
            assert plain[gone][0] == least
            age, evicted_reads[gone] = least, plain.pop(gone)[2]
        assert set(store._entries) == set(plain)


async def test_overwritten_entries_do_not_grow_the_heap() -> None:
    """Neither do entries that are stored and deleted again and again."""
    store = MemoryStore()
    for number in range(50):
        await store.set(f"k{number}", b"x")
    for _ in range(20_000):
        await store.increment({"count": 1}, ttl_s=9)
        await store.set("temporary", b"x")
        await store.delete(["temporary"])
    assert len(store._heap) < 500


async def test_it_saves_more_dollars_than_lru() -> None:
    """With a Zipf distribution of requests, space for a tenth of them, and costs from cents to dollars."""
    chance = random.Random(7)
    kinds = 1_000
    costs = [chance.choice([0.02, 0.02, 0.42, 0.42, 1.5]) for _ in range(kinds)]
    size = [chance.choice([2_000, 12_000, 40_000]) for _ in range(kinds)]
    requests = chance.choices(range(kinds), [1 / (rank + 1) for rank in range(kinds)], k=20_000)
    max_bytes = sum(size) // 10
    store = MemoryStore(max_bytes=max_bytes)
    recent: OrderedDict[int, int] = OrderedDict()
    used_bytes, by_cost, by_recency = 0, 0.0, 0.0
    for one in requests:
        if await store.get([f"{one}"]) != [None]:
            by_cost += costs[one]
        else:
            await store.set_with_cost(f"{one}", b"x" * size[one], cost_usd=costs[one])
        if one in recent:
            by_recency += costs[one]
            recent.move_to_end(one)
        else:
            recent[one] = size[one] + OVERHEAD
            used_bytes += recent[one]
        while used_bytes > max_bytes:
            used_bytes -= recent.popitem(last=False)[1]
    assert by_cost > 1.1 * by_recency


async def test_the_exact_cache_passes_the_cost_of_an_answer() -> None:
    """An expensive answer stays among cheap ones, with its tag versions, and is a hit."""
    store = MemoryStore(max_bytes=150_000)
    exact = ExactCacheLayer(store, ExactCacheOptions(secret=b"s"), instruments=Instruments())

    async def answer(call: Call) -> Reply:
        cost_usd = Decimal("1.00") if call.key == "expensive" else Decimal("0.01")
        code = "".join(random.Random(call.key).choices("abcdefghijklmnopqrstuvwxyz", k=10_000))
        return Reply(result=GenerationResult(code=code), cost_usd=cost_usd, origin_id="g")

    for key in ("expensive", *(f"cheap {number}" for number in range(100))):
        await exact(_call(key), answer)
    assert (await exact(_call("expensive"), answer)).source == "L1"
    assert (await exact(_call("cheap 0"), answer)).source == "L4"


def _call(key: str) -> Call:
    request = GenerationRequest(component_type="button", figma_key=key)
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_never)


async def _never() -> GenerationResult:
    raise AssertionError("the layer calls call_next, not the pipeline")


async def test_the_size_is_bounded() -> None:
    """An entry larger than the bound is not stored."""
    store = MemoryStore(max_bytes=10_000)
    for number in range(1_000):
        await store.set(f"k{number % 37}", b"x" * (number * 97 % 12_000))
        assert store.size_bytes <= 10_000
    await store.delete([f"k{number}" for number in range(37)])
    assert (store.size_bytes, len(store)) == (0, 0)


async def test_entries_expire_by_the_monotonic_clock() -> None:
    """Exactly at the end of their TTL."""
    now = [100.0]
    store = MemoryStore(clock=lambda: now[0])
    await store.set("a", b"1", ttl_s=10)
    now[0] = 109.9
    assert await store.get(["a"]) == [b"1"]
    now[0] = 110.0
    assert await store.get(["a"]) == [None]
