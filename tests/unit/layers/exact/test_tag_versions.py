"""Missing tag versions are created once for all concurrent callers, in few round trips."""

import asyncio
from collections.abc import Mapping

import pytest

from forge_otel.layers.exact.tag_versions import TagVersions, tag_version_key
from forge_otel.resilience.guard import unguarded
from forge_otel.stores.memory import MemoryStore


class BatchStore(MemoryStore):
    """A store with `add_all` that records the batch sizes."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**20)
        self.batches: list[int] = []
        self.is_down = False

    async def add_all(self, values: Mapping[str, bytes]) -> list[bytes]:
        self.batches.append(len(values))
        await asyncio.sleep(0)
        if self.is_down:
            raise ConnectionError
        return [await self.add(key, value) for key, value in values.items()]


async def test_concurrent_callers_share_one_batch() -> None:
    """All get the version that is stored."""
    store = BatchStore()
    versions = TagVersions(store, guard=unguarded)
    found = await asyncio.gather(*(versions.create_missing(["all", f"tokens:{number}"]) for number in range(50)))
    assert store.batches == [51]
    assert {one[0] for one in found} == {(await store.get([tag_version_key("all")]))[0]}
    assert len({one[1] for one in found}) == 50


async def test_batches_have_at_most_100_keys() -> None:
    """250 tags take three batches."""
    store = BatchStore()
    await TagVersions(store, guard=unguarded).create_missing([str(number) for number in range(250)])
    assert store.batches == [100, 100, 50]


async def test_the_first_writer_wins() -> None:
    """A version that another process has created is returned."""
    store = BatchStore()
    await store.add(tag_version_key("all"), b"theirs")
    assert await TagVersions(store, guard=unguarded).create_missing(["all"]) == [b"theirs"]


async def test_a_store_without_batches_gets_single_writes() -> None:
    """A third-party store may have `add` only."""
    store = MemoryStore(max_bytes=2**20)
    made = await TagVersions(store, guard=unguarded).create_missing(["a", "b"])
    assert await store.get([tag_version_key("a"), tag_version_key("b")]) == list(made)


async def test_an_error_reaches_every_caller_and_is_not_cached() -> None:
    """The next call tries again."""
    store = BatchStore()
    versions = TagVersions(store, guard=unguarded)
    store.is_down = True
    ends = await asyncio.gather(*(versions.create_missing(["all"]) for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [ConnectionError] * 3
    store.is_down = False
    assert await versions.create_missing(["all"])


async def test_a_cancelled_caller_does_not_cancel_the_others() -> None:
    """They get their version."""
    versions = TagVersions(BatchStore(), guard=unguarded)
    leaving, staying = (asyncio.create_task(versions.create_missing(["all"])) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await staying
