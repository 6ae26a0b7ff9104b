"""L1 hits from the local copy of a near store, over a real Redis."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from forge_otel.keys import generation_key
from forge_otel.layers.exact.entry import CacheEntry
from forge_otel.layers.exact.layer import ExactCacheLayer, ExactCacheOptions
from forge_otel.stores.near.store import NearStore
from forge_otel.stores.redis.store import RedisStore, open_url
from forge_otel.telemetry.metrics.instruments import Instruments
from forge_otel.types import Call, GenerationRequest, GenerationResult, Reply


class CountingStore(NearStore):
    """A near store that counts the reads of Redis."""

    reads = 0

    async def fetch(self, keys: Any, /) -> list[bytes | None]:
        """Count and read."""
        self.reads += 1
        return await super().fetch(keys)


@pytest.fixture
async def near(fresh_redis: str) -> AsyncIterator[CountingStore]:
    """A near store on an empty Redis."""
    store = open_url(fresh_redis, max_bytes=0)
    assert isinstance(store, RedisStore)
    async with CountingStore(store, max_bytes=10**6, max_stale_s=5.0) as opened:
        yield opened


def _exact(store: Any, *, secret: bytes = b"secret") -> ExactCacheLayer:
    return ExactCacheLayer(store, ExactCacheOptions(secret=secret), instruments=Instruments())


def _call() -> Call:
    request = GenerationRequest(component_type="button", figma_key="f", tokens={"colour": "#fff"}, tenant="t")
    key = generation_key(request, pipeline="p", version="1")
    return Call(request=request, pipeline="p", key=key, component_id="c", run=_no_pipeline)


async def _no_pipeline() -> GenerationResult:
    raise AssertionError("the layer calls call_next, not the pipeline")


async def _answer(_call: Call) -> Reply:
    result = GenerationResult(code="export {}", artifacts={"a.css": "x"}, metadata={"nested": {"list": [1]}})
    return Reply(result=result, cost_usd=Decimal("0.42"), origin_id="g")


async def _miss(_call: Call) -> Reply:
    raise AssertionError("L1 did not answer")


async def test_the_second_hit_does_not_read_redis(near: CountingStore, fresh_redis: str) -> None:
    """After another client invalidates a tag the entry is a miss."""
    exact = _exact(near)
    await exact(_call(), _answer)
    assert await near.synchronize()
    assert (await exact(_call(), _miss)).source == "L1"
    reads = near.reads
    hit = await exact(_call(), _miss)
    assert (hit.source, hit.result.code, hit.cost_usd, near.reads) == ("L1", "export {}", Decimal("0.42"), reads)
    other: Any = open_url(fresh_redis, max_bytes=0)
    async with other:
        await _exact(other).invalidate("figma:f")
    assert await near.synchronize()
    assert not isinstance(await exact.lookup(_call()), CacheEntry)


async def test_callers_cannot_change_a_kept_entry(near: CountingStore) -> None:
    """Each gets a copy of the mappings."""
    exact = _exact(near)
    await exact(_call(), _answer)
    assert await near.synchronize()
    await exact(_call(), _miss)
    first: Any = (await exact(_call(), _miss)).result
    first.metadata["nested"]["list"].append("mine")
    first.artifacts.clear()
    second = (await exact(_call(), _miss)).result
    assert (second.metadata, second.artifacts) == ({"nested": {"list": [1]}}, {"a.css": "x"})


async def test_an_entry_with_another_secret_is_never_kept(near: CountingStore) -> None:
    """Entries are authenticated before they are kept."""
    await _exact(near, secret=b"forged")(_call(), _answer)
    exact = _exact(near)
    for _ in range(3):
        found: Any = await exact.lookup(_call())
        assert found.reason == "corrupt"
        assert await near.synchronize()
